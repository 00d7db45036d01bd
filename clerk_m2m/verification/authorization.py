"""What a verdict comes to for this service, as far as memory tells. Nothing here waits."""

from __future__ import annotations

from clerk_m2m.decision import Decision, Reason
from clerk_m2m.errors import ScopeDeniedError, TokenInvalidError
from clerk_m2m.graph.source import GraphSource, known_edge
from clerk_m2m.identity import Identity
from clerk_m2m.lookups.verdict import Refused, Verdict
from clerk_m2m.verification.outcome import Source
from clerk_m2m.verification.policy import ALLOWED, decide, needs_edge


def admit(verdict: Verdict, graph: GraphSource | None, callee: str) -> Identity | None:
    """Apply a cached verdict and the scope policy; None where the edge is not known yet."""
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
    """Give the refusal of a caller that may not call."""
    refusal = ScopeDeniedError(Decision(caller=identity.subject, callee=callee, reason=reason))
    refusal.holder, refusal.source = identity, source
    return refusal


def invalid(verdict: Refused, source: Source) -> TokenInvalidError:
    """Give the refusal that a verdict means."""
    refusal = TokenInvalidError(verdict.detail, token_class=verdict.token_class)
    refusal.source = source
    return refusal
