"""Authorizes callers whose verdict and scope edge are in memory. Nothing here waits or does I/O."""

from __future__ import annotations

from clerk_m2m.decision import Decision, Reason
from clerk_m2m.errors import ScopeDeniedError, TokenInvalidError
from clerk_m2m.graph.source import GraphSource, known_edge
from clerk_m2m.identity import Identity
from clerk_m2m.lookups.verdict import Refused, Verdict
from clerk_m2m.verification.outcome import Source
from clerk_m2m.verification.policy import ALLOWED, decide, needs_edge


def admit(verdict: Verdict, graph: GraphSource | None, callee: str) -> Identity | None:
    """Return the identity of a cached verdict if the scope policy allows the call, else raise.

    Returns None if the caller's edge is not known yet.
    """
    if isinstance(verdict, Refused):
        raise invalid(verdict, Source.CACHE)
    edge = None
    if graph is not None and needs_edge(verdict):
        edge = known_edge(graph.allows(verdict.subject, callee))
        if edge is None:
            return None
    reason = decide(verdict, callee, edge)
    if reason is ALLOWED:
        return verdict
    raise denied(verdict, callee, reason, Source.CACHE)


def denied(identity: Identity, callee: str, reason: Reason, source: Source) -> ScopeDeniedError:
    """Return the refusal for a caller that may not call this service."""
    refusal = ScopeDeniedError(Decision(caller=identity.subject, callee=callee, reason=reason))
    refusal.holder, refusal.source = identity, source
    return refusal


def invalid(verdict: Refused, source: Source) -> TokenInvalidError:
    """Return the refusal for a negative verdict."""
    refusal = TokenInvalidError(verdict.detail, token_class=verdict.token_class)
    refusal.source = source
    return refusal
