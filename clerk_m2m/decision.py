"""What was decided and how often, as data: for logs, for metrics, for the command line."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why a decision came out as it did."""

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
    """May `caller` call `callee`, and why; `str()` gives it as a sentence."""

    caller: str
    callee: str
    reason: Reason

    @property
    def allowed(self) -> bool:
        """Whether the call may go on."""
        return self.reason is Reason.ALLOWED

    @property
    def missing_edge(self) -> tuple[str, str] | None:
        """The edge (caller, callee) whose absence refused the call, or None."""
        return None if self.allowed else (self.caller, self.callee)

    def __str__(self) -> str:
        return _SENTENCES[self.reason].format(caller=self.caller, callee=self.callee)
