"""What came of the story: a row for each call, the totals, and whether all was as expected."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final

# Clerk's public price past the free 100,000 a month, in US dollars; JWTs are verified for free.
PRICE: Final = 0.00001
UNAVAILABLE: Final = 503


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAnswer:
    """What a service answered: the status, and for a refusal the problem's code and detail."""

    status: int
    code: str | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a service must answer, and what that may cost.

    `paid` counts verifications, None where time decides how many. `timeout` is seconds.
    """

    status: int
    code: str | None = None
    paid: int | None = 0
    timeout: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What the requests of a row cost.

    `paid` is counted by the emulated Clerk, not by those who pay: the verifications that it was
    asked for. `cached` and `offline` are counted by the services, and so is `shared`: the verdicts
    that another process of the service has paid for.
    """

    requests: int
    paid: int
    cached: int
    offline: int
    shared: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One call of the story, or several alike. `billed` marks a credential that Clerk verifies."""

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
        """Whether status, code, price and time are what they must be."""
        return not self.complaints

    @property
    def complaints(self) -> list[str]:
        """What is not as expected, in words."""
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
        """What the verdict cost, in a word or two."""
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
        """How many verifications were spared; a JWT would have cost nothing anyway."""
        return self.cost.cached + self.cost.shared if self.billed else 0

    @property
    def why(self) -> str:
        """The service's own words, and the story's."""
        count = f"({self.cost.requests} requests.)" if self.cost.requests > 1 else ""
        return " ".join(filter(None, (self.answer.detail, self.note, count)))

    def as_dict(self) -> dict[str, Any]:
        """Give the row as JSON writes it."""
        derived = {"price": self.price, "as_expected": self.as_expected}
        return asdict(self) | derived | {"complaints": self.complaints}


@dataclass(slots=True)
class Report:
    """All rows, and what they add up to; `left_out` says what cannot be shown here, and why."""

    rows: list[Row] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def as_expected(self) -> bool:
        """Whether there is a story, and every outcome of it is the expected one."""
        return bool(self.rows) and all(row.as_expected for row in self.rows)

    @property
    def exit_code(self) -> int:
        """What the command exits with: 0 where all was as expected, else 1."""
        return 0 if self.as_expected else 1

    @property
    def requests(self) -> int:
        """How many calls the services received."""
        return sum(row.cost.requests for row in self.rows)

    @property
    def paid(self) -> int:
        """How many verifications Clerk would bill."""
        return sum(row.cost.paid for row in self.rows)

    @property
    def saved(self) -> int:
        """How many more it would have billed without the caches."""
        return sum(row.saved for row in self.rows)

    @property
    def seconds(self) -> float:
        """How long the calls took, waiting included."""
        return sum(row.seconds for row in self.rows)

    def totals(self) -> dict[str, Any]:
        """Give the totals as JSON writes them."""
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
        """Give everything as one JSON document."""
        return {
            "as_expected": self.as_expected,
            "totals": self.totals(),
            "left_out": self.left_out,
            "rows": [row.as_dict() for row in self.rows],
        }
