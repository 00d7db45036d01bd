"""The result of the demo: a row for each step, the totals, and whether all were as expected."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final

# Clerk's public price after the free 100,000 a month, in US dollars; JWTs are free to verify.
PRICE: Final = 0.00001
UNAVAILABLE: Final = 503


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAnswer:
    """A service's answer: the status, and for a refusal the code and detail of the problem."""

    status: int
    code: str | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """The expected answer of a service, and its expected cost.

    `paid` counts verifications; None if the number depends on timing. `timeout` is in seconds.
    """

    status: int
    code: str | None = None
    paid: int | None = 0
    timeout: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The cost of the requests in a row.

    `paid` counts the verifications that the emulated Clerk received; Clerk counts them, not the
    services. The services count `cached`, `offline` and `shared` (verdicts for which another
    process of the service has paid).
    """

    requests: int
    paid: int
    cached: int
    offline: int
    shared: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One step: a call, or several equal ones. `billed`: Clerk verifies this credential."""

    scene: str
    caller: str
    callee: str
    presented: str
    note: str
    billed: bool
    expected: Expected
    answer: ServiceAnswer
    cost: Cost
    seconds: float

    @property
    def as_expected(self) -> bool:
        """Whether status, code, price and time are as expected."""
        return not self.complaints

    @property
    def complaints(self) -> list[str]:
        """The differences from the expected outcome, as texts."""
        expected, answer, complaints = self.expected, self.answer, []
        if (answer.status, answer.code) != (expected.status, expected.code):
            wanted = f"{expected.status} {expected.code or ''}".rstrip()
            complaints.append(f"expected {wanted}")
        if expected.paid not in (None, self.cost.paid):
            complaints.append(f"expected {expected.paid} paid, not {self.cost.paid}")
        if expected.timeout is not None and self.seconds > expected.timeout:
            complaints.append(f"expected within {expected.timeout:g} s")
        return complaints

    @property
    def price(self) -> str:
        """The price of the verdict, as a short text."""
        if self.cost.paid:
            return f"{self.cost.paid} paid"
        if self.answer.status == UNAVAILABLE:
            return "no answer"
        if self.cost.shared:
            return "shared"
        if self.cost.cached:
            return "cached"
        return "offline" if self.cost.offline else "no call"

    @property
    def saved(self) -> int:
        """The number of verifications saved by caches; a JWT saves nothing, because it is free."""
        return self.cost.cached + self.cost.shared if self.billed else 0

    @property
    def why(self) -> str:
        """The service's text and the demo's own remark."""
        count = f"({self.cost.requests} requests.)" if self.cost.requests > 1 else ""
        return " ".join(filter(None, (self.answer.detail, self.note, count)))

    def as_dict(self) -> dict[str, Any]:
        """Return the row for JSON."""
        derived = {"price": self.price, "as_expected": self.as_expected}
        return asdict(self) | derived | {"complaints": self.complaints}


@dataclass(slots=True)
class Report:
    """All rows and their totals; `left_out` lists skipped scenes with the reason."""

    rows: list[Row] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def as_expected(self) -> bool:
        """Whether there is at least one row and every outcome is as expected."""
        return bool(self.rows) and all(row.as_expected for row in self.rows)

    @property
    def exit_code(self) -> int:
        """The exit code of the command: 0 if all outcomes were as expected, else 1."""
        return 0 if self.as_expected else 1

    @property
    def requests(self) -> int:
        """The number of calls that the services received."""
        return sum(row.cost.requests for row in self.rows)

    @property
    def paid(self) -> int:
        """The number of verifications that Clerk would bill."""
        return sum(row.cost.paid for row in self.rows)

    @property
    def saved(self) -> int:
        """The number of additional verifications without the caches."""
        return sum(row.saved for row in self.rows)

    @property
    def seconds(self) -> float:
        """The duration of the calls, including waits."""
        return sum(row.seconds for row in self.rows)

    def totals(self) -> dict[str, Any]:
        """Return the totals for JSON."""
        return {
            "outcomes": len(self.rows),
            "outcomes_as_expected": sum(row.as_expected for row in self.rows),
            "requests": self.requests,
            "verifications_paid": self.paid,
            "verifications_saved": self.saved,
            "dollars_paid": round(self.paid * PRICE, 5),
            "dollars_saved": round(self.saved * PRICE, 5),
            "dollars_per_verification": PRICE,
            "seconds": round(self.seconds, 3),
        }

    def as_dict(self) -> dict[str, Any]:
        """Return everything as one JSON document."""
        return {
            "as_expected": self.as_expected,
            "totals": self.totals(),
            "left_out": self.left_out,
            "rows": [row.as_dict() for row in self.rows],
        }
