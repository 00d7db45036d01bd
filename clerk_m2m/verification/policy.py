"""The policy: which credentials are accepted and who may call. Pure functions, no I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from clerk_m2m.credentials import KINDS
from clerk_m2m.decision import Reason
from clerk_m2m.identity import Identity, MachineIdentity, TokenClass
from clerk_m2m.settings import Settings

WRONG_AUDIENCE: Final = "The access token is not meant for this service."

ALLOWED: Final = Reason.ALLOWED  # used on every request; reading it from the enum class is slow


def not_accepted(settings: Settings) -> Mapping[TokenClass, str]:
    """Return the token classes that a service does not accept, each with the reason."""
    reasons = {each: _why_not_accepted(each, settings) for each in TokenClass}
    return {each: reason for each, reason in reasons.items() if reason is not None}


def _why_not_accepted(token_class: TokenClass, settings: Settings) -> str | None:
    kind = KINDS.get(token_class)
    if kind is None or kind.token_type not in settings.accepts:
        return (
            f"This service does not accept a credential of the type {token_class}. "
            f"It accepts: {', '.join(sorted(settings.accepts))}."
        )
    if token_class is TokenClass.M2M_JWT and settings.graph is None:
        return (
            "This service has no scope graph, and JWTs need one: a JWT carries no scopes that can "
            "be trusted. Send an opaque token."
        )
    if kind.keys and not any(getattr(settings, name) for name in kind.keys):
        return f"This service has no key to verify an {token_class} with. Send a JWT."
    return None


def matches_audience(audience: tuple[str, ...], ours: frozenset[str]) -> bool:
    """Return whether an OAuth access token is meant for this service (RFC 9068 section 4).

    `ours` are the names of this service. A token with an audience must name one of them, so it is
    refused if `ours` is empty. A token without an audience is accepted only if `ours` is empty.
    """
    return not (audience or ours) or not ours.isdisjoint(audience)


def needs_edge(identity: Identity) -> bool:
    """Return whether the credential is a machine's: the scope graph decides about every machine."""
    return identity.subject.startswith("mch_")


def decide(identity: Identity, callee: str, edge: bool | None) -> Reason:
    """Decide whether `identity` may call `callee`. `edge` is the graph's answer, None if no graph.

    Clerk's server attests the scopes of an opaque token. The claims of a JWT are never read here,
    because the caller chooses them. API keys and OAuth tokens of users are always allowed here:
    the guards check them.
    """
    if isinstance(identity, MachineIdentity) and identity.token_format == "opaque":
        if callee not in identity.scopes:
            return Reason.TOKEN_SCOPE_MISSING
        if edge is None:
            return ALLOWED
    elif not needs_edge(identity):
        return ALLOWED
    if edge is None:
        return Reason.NO_GRAPH
    return ALLOWED if edge is True else Reason.EDGE_MISSING
