"""Decisions about callers as data, for logs, metrics and the command line."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """The reason of a decision."""

    ALLOWED = "allowed"
    EDGE_MISSING = "edge_missing"
    TOKEN_SCOPE_MISSING = "token_scope_missing"
    NO_GRAPH = "no_graph"


_SENTENCES = {
    Reason.ALLOWED: "{caller} may call {callee}.",
    Reason.EDGE_MISSING: "{caller} may not call {callee}: the scope graph has no such edge.",
    Reason.TOKEN_SCOPE_MISSING: (
        "{caller} may not call {callee}: the token was minted without that scope. "
        "If the scope was added since, mint a new token."
    ),
    Reason.NO_GRAPH: (
        "{caller} may not call {callee}: no scope graph is configured, and nothing else attests "
        "what this credential may call."
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Whether `caller` may call `callee`, and why; `str()` returns it as a sentence."""

    caller: str
    callee: str
    reason: Reason

    @property
    def allowed(self) -> bool:
        """Whether the caller may call the callee."""
        return self.reason is Reason.ALLOWED

    @property
    def missing_edge(self) -> tuple[str, str] | None:
        """The missing edge (caller, callee) because of which the call is refused, or None."""
        return None if self.allowed else (self.caller, self.callee)

    def __str__(self) -> str:
        return _SENTENCES[self.reason].format(caller=self.caller, callee=self.callee)
