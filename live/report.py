"""The result of a run: the table, the JSON, the exit code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from live.calls import Counts, presentable
from live.finding import Check, Finding, Verdict
from live.stage import Removed

ALL_AS_ASSUMED: Final = 0
SOMETHING_DIFFERS: Final = 1
COULD_NOT: Final = 2

# The width of the table if the output is not a terminal.
_WIDTH: Final = 160
_STYLES: Final = {
    Verdict.AS_ASSUMED: "green",
    Verdict.DIFFERENT: "bold red",
    Verdict.UNKNOWN: "yellow",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A check and its finding."""

    check: Check
    finding: Finding


@dataclass(slots=True, kw_only=True)
class Report:
    """The results so far. A run adds to it, so that a run that is interrupted can be reported too.

    `failure` says why the run did not finish.
    """

    api_url: str
    results: list[Result] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    removed: Removed | None = None
    failure: str | None = None

    @property
    def exit_code(self) -> int:
        """0: all as assumed; 1: something differs; 2: the run or a check could not finish.

        A check that was not tried (`lacking`) does not count.
        """
        verdicts = {each.finding.verdict for each in self.results if not each.finding.lacking}
        if self.failure is not None:
            return COULD_NOT
        if Verdict.DIFFERENT in verdicts:
            return SOMETHING_DIFFERS
        left = self.removed is None or bool(self.removed.why)
        return COULD_NOT if left or Verdict.UNKNOWN in verdicts else ALL_AS_ASSUMED

    def summary(self) -> Iterator[str]:
        """Return the lines below the table."""
        if self.results:
            verdicts = [each.finding.verdict for each in self.results]
            yield ", ".join(f"{verdicts.count(each)} {each}" for each in Verdict) + "."
            yield (
                f"{self.counts.calls} calls. {self.counts.verifications} were verifications, which "
                f"Clerk bills. {self.counts.minted} M2M tokens were minted and "
                f"{self.counts.api_keys} API keys created. {self.counts.limited} answers were 429."
            )
        if self.removed is not None:
            yield f"Deleted {self.removed.machines} machines and {self.removed.api_keys} API keys."
            if self.removed.why:
                why = " ".join(dict.fromkeys(self.removed.why))
                yield f"Something may be left: {why} Delete it with: python -m live --clean"
        if self.failure is not None:
            yield f"The run did not finish: {self.failure}"

    def show(self, file: IO[str]) -> None:
        """Print the table and the summary."""
        console = Console(file=file, highlight=False, markup=False, emoji=False)
        if not console.is_terminal:
            console = Console(file=file, highlight=False, markup=False, emoji=False, width=_WIDTH)
        if self.results:
            console.print(_table(self.results))
        for line in self.summary():
            console.print(presentable(line))

    def as_json(self) -> str:
        """Return the report as a JSON document."""
        return json.dumps(
            {
                "api_url": self.api_url,
                "exit_code": self.exit_code,
                "failure": self.failure and presentable(self.failure),
                "calls": self.counts.calls,
                "billed_verifications": self.counts.verifications,
                "m2m_tokens_minted": self.counts.minted,
                "api_keys_created": self.counts.api_keys,
                "left_behind": self.removed.why if self.removed else None,
                "checks": [_as_json(result) for result in self.results],
            },
            indent=2,
            ensure_ascii=False,
        )


def _as_json(result: Result) -> dict[str, Any]:
    check, finding = result.check, result.finding
    return {
        "name": check.name,
        "assumed": check.assumed,
        "where": list(check.where),
        "seen": presentable(finding.seen),
        "verdict": str(finding.verdict),
        "tried": not finding.lacking,
    }


def _table(results: list[Result]) -> Table:
    table = Table(show_lines=True)
    for title, ratio in (("check", 3), ("assumed, and which files rely on it", 5), ("seen", 5)):
        table.add_column(title, ratio=ratio, overflow="fold")
    table.add_column("verdict", no_wrap=True)
    for result in results:
        check, finding = result.check, result.finding
        assumed = Text(check.assumed)
        assumed.append("".join(f"\n{file}" for file in check.where), style="dim")
        table.add_row(
            Text(check.name),
            assumed,
            Text(presentable(finding.seen)),
            Text(finding.verdict, style=_STYLES[finding.verdict]),
        )
    return table
