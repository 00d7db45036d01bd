"""`clerk-m2m explain`: why a service lets a credential in, or refuses it.

The decision is the middleware's own: `deciding` calls what it calls (`credential_of`, then a
`Verifier`). `presented` reads what was pasted, `steps` is how far the credential got, `diagnosis`
finds out more about a refusal, and `token_id` decides about a token of which only the id is at
hand.
"""

from __future__ import annotations

from clerk_m2m.cli.explain.command import explain

__all__ = ["explain"]
