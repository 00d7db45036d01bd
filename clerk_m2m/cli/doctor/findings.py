"""What a check comes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from clerk_m2m.cli.program import FAILED, NO


class Status(StrEnum):
    """How a check came out; `UNKNOWN` is for what could not be found out."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found, in sentences, and what mends it."""

    check: str
    status: Status
    text: str
    remedy: str | None = None

    def as_json(self) -> dict[str, str | None]:
        """Give it as a JSON object."""
        return {
            "check": self.check,
            "status": self.status.value,
            "text": self.text,
            "remedy": self.remedy,
        }


def exit_code(findings: Sequence[Finding]) -> int:
    """Give 1 where something is wrong, 2 where something could not be found out, else 0."""
    found = {each.status for each in findings}
    if Status.FAULT in found:
        return NO
    return FAILED if Status.UNKNOWN in found else 0
