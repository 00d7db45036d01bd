"""What is accepted and who may call, as tables and pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from clerk_m2m.decision import Reason
from clerk_m2m.identity import Identity, MachineIdentity

WRONG_AUDIENCE: Final = "The access token is not meant for this service."


def matches_audience(audience: tuple[str, ...], ours: frozenset[str]) -> bool:
    """Tell whether a token is meant for this service (RFC 9068 section 4).

    A token that names its audience must name one of ours, whether we have any or not. One that
    names none is good only where we have none.
    """
    return not (audience or ours) or not ours.isdisjoint(audience)


if TYPE_CHECKING:
    pass
_ALLOWED: Final = Reason.ALLOWED  # read on every request, and slow to read off its class


def policy(identity: Identity, callee: str, callees: frozenset[str] | None) -> Reason:
    """Decide whether `identity` may call `callee`, given whom it may call now (None: no graph).

    An opaque token's scopes are attested by Clerk's server. A JWT's claims are chosen by its caller
    and never looked at. API keys and OAuth tokens of users are the guards' business.
    """
    if isinstance(identity, MachineIdentity) and identity.token_format == "opaque":
        if callee not in identity.scopes:
            return Reason.TOKEN_SCOPE_MISSING
        if callees is None:
            return _ALLOWED
    elif not identity.subject.startswith("mch_"):
        return _ALLOWED
    if callees is None:
        return Reason.NO_GRAPH
    return _ALLOWED if callee in callees else Reason.EDGE_MISSING
