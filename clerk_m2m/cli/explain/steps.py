"""The steps of a decision, in the order in which the middleware takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from clerk_m2m.credentials import Credential
from clerk_m2m.errors import (
    RefusalError,
    ScopeDeniedError,
    TokenInvalidError,
    TokenMalformedError,
    TokenMissingError,
    TokenTypeNotAcceptedError,
    VerificationUnavailableError,
)
from clerk_m2m.identity import Identity, TokenClass


class StepName(StrEnum):
    """The steps, in order."""

    HEADER = "header"
    FORM = "form"
    ACCEPTED = "accepted"
    VERIFICATION = "verification"
    EDGE = "edge"
    GUARDS = "guards"


class Result(StrEnum):
    """The result of a step."""

    PASSED = "passed"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    NOT_REACHED = "not reached"


@dataclass(frozen=True, slots=True)
class Step:
    """One step, its result, and a sentence about it."""

    name: StepName
    result: Result
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """The middleware's decision: the accepted identity, or the refusal.

    `credential` is None if it has no form of Clerk's or only its id is known. `operations` are the
    calls that were made, in order.
    """

    callee: str
    credential: Credential | None = None
    token_class: TokenClass | None = None
    identity: Identity | None = None
    refusal: RefusalError | None = None
    operations: Sequence[str] = ()

    @property
    def admitted(self) -> bool | None:
        """Whether the credential is accepted; None if that could not be decided."""
        if self.refusal is None:
            return True
        return None if isinstance(self.refusal, VerificationUnavailableError) else False

    @property
    def holder(self) -> Identity | None:
        """The identity of the credential, accepted or not, if it is known."""
        return self.identity or (self.refusal.holder if self.refusal else None)

    @property
    def refused_at(self) -> StepName | None:
        """The step that refuses the credential; None if none does."""
        return None if self.refusal is None else _step_of(self.refusal, self.operations)


def _step_of(refusal: RefusalError, operations: Sequence[str]) -> StepName:
    match refusal:
        case TokenMissingError() | TokenMalformedError():
            return StepName.HEADER
        case TokenTypeNotAcceptedError():
            # The header for API keys holds something else, so the refusal has no token class.
            return StepName.HEADER if refusal.token_class is None else StepName.ACCEPTED
        case TokenInvalidError(token_class=TokenClass.MALFORMED | TokenClass.UNKNOWN):
            return StepName.FORM
        case ScopeDeniedError():
            return StepName.EDGE
        case VerificationUnavailableError() if operations[-1:] == ["GetMachine"]:
            return StepName.EDGE
        case _:
            return StepName.VERIFICATION


_GUARDS: Final = (
    "A route's guard may require more, such as a certain caller or permissions. explain does not "
    "run guards."
)


def steps_of(decided: Decided) -> list[Step]:
    """Return all steps; steps after the refusing one are marked as not reached."""
    passed, steps, refusal = _passed(decided), list[Step](), None
    for name in StepName:
        if refusal is not None:
            steps.append(Step(name, Result.NOT_REACHED, ""))
        elif name is decided.refused_at and decided.refusal is not None:
            refusal = decided.refusal
            result = Result.UNKNOWN if decided.admitted is None else Result.REFUSED
            steps.append(Step(name, result, _refused_text(refusal)))
        elif name is StepName.GUARDS:
            steps.append(Step(name, Result.UNKNOWN, _GUARDS))
        else:
            steps.append(Step(name, Result.PASSED, passed[name]))
    return steps


def _refused_text(refusal: RefusalError) -> str:
    cause = refusal.__cause__
    because = f" ({cause})" if cause is not None else ""
    return f"{refusal.status} {refusal.code}: {refusal.detail}{because}"


def _passed(decided: Decided) -> Mapping[StepName, str]:
    holder, what = decided.holder, decided.token_class
    asked = ", ".join(dict.fromkeys(decided.operations)) or "no call"
    return {
        StepName.HEADER: "One credential, well formed.",
        StepName.FORM: f"The credential has the form of this type: {what}.",
        StepName.ACCEPTED: f"This service accepts this type: {what}.",
        StepName.VERIFICATION: f"{_whose(holder)} ({asked})",
        StepName.EDGE: _edge_text(decided),
    }


def _whose(holder: Identity | None) -> str:
    if holder is None:  # the edge could not be looked up, and the refusal names no caller
        return "It is live."
    return f"It is live: {holder.token_id} of {holder.subject}."


def _edge_text(decided: Decided) -> str:
    subject = decided.identity.subject if decided.identity else ""
    if not subject.startswith("mch_"):
        return "Edges do not count for a user or an organization."
    return f"{subject} may call {decided.callee}."


@dataclass(slots=True)
class Diagnosis:
    """Why a credential is refused, as far as known, and the remedies."""

    why: list[str] = field(default_factory=list)
    mend: list[str] = field(default_factory=list)


def as_json(decided: Decided, diagnosis: Diagnosis) -> dict[str, Any]:
    """Return a decision as the members of a JSON object."""
    refusal, holder = decided.refusal, decided.holder
    edge = refusal.decision.missing_edge if isinstance(refusal, ScopeDeniedError) else None
    return {
        "admitted": decided.admitted,
        "callee": decided.callee,
        "status": refusal.status if refusal else None,
        "code": refusal.code if refusal else None,
        "refused_at": decided.refused_at,
        "token_class": str(decided.token_class) if decided.token_class else None,
        "token_id": holder.token_id if holder else None,
        "caller": holder.subject if holder else None,
        "reason": refusal.decision.reason if isinstance(refusal, ScopeDeniedError) else None,
        "missing_edge": list(edge) if edge else None,
        "steps": [
            {"step": each.name, "result": each.result, "text": each.text}
            for each in steps_of(decided)
        ],
        "why": diagnosis.why,
        "mend": diagnosis.mend,
    }
