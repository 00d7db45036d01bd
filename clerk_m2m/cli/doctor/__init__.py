"""`clerk-m2m doctor`: checks whether a service can work with the settings of this environment.

`command` runs the checks in order, and `findings` defines their results. `local` checks the
environment alone, `remote` asks Clerk, `sources` checks the graph and the key set, `fleet` checks
the fleet's Redis, and `limits` compares the calls of all workers with Clerk's rate limit.
"""

from __future__ import annotations

from clerk_m2m.cli.doctor.command import doctor

__all__ = ["doctor"]
