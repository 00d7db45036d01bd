"""`clerk-m2m doctor`: whether a service can do its work with the settings it would start with.

`command` puts it together. `findings` is what a check comes to, `local` looks at the environment
alone, `remote` asks Clerk, `sources` looks at the graph and the key set, and `limits` counts what
the workers may ask of Clerk.
"""

from __future__ import annotations

from clerk_m2m.cli.doctor.command import doctor

__all__ = ["doctor"]
