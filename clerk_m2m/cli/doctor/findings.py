"""The result of a check, and the exit code that follows from all results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from clerk_m2m.cli.program import FAILED, NO


class Status(StrEnum):
    """The status of a check; `UNKNOWN` if the check could not get a result."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check, in sentences, and what to do about it."""

    check: str
    status: Status
    text: str
    remedy: str | None = None

    def as_json(self) -> dict[str, str | None]:
        """Return the finding as a JSON object."""
        return {
            "check": self.check,
            "status": self.status.value,
            "text": self.text,
            "remedy": self.remedy,
        }


def exit_code(findings: Sequence[Finding]) -> int:
    """Return 1 if there is a fault, 2 if a check could not get a result, otherwise 0."""
    found = {each.status for each in findings}
    if Status.FAULT in found:
        return NO
    return FAILED if Status.UNKNOWN in found else 0
