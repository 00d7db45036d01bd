"""`clerk-m2m explain`: why a service accepts or refuses a credential.

The decision is the middleware's own: `deciding` calls the same functions (`credential_of`, then a
`Verifier`). `presented` reads the pasted text. `steps` are the steps of the decision. `diagnosis`
looks for the cause of a refusal. `token_id` decides about a token of which only the id is known.
"""

from __future__ import annotations

from clerk_m2m.cli.explain.command import explain

__all__ = ["explain"]
