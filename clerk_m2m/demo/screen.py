"""The output of the demo: a live table on a terminal, plain lines elsewhere, or a JSON document.

The table is printed row by row, so it scrolls like any output, on a terminal of any height.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from clerk_m2m.demo.report import PRICE, Report, Row

WIDEST: Final = 130
# On narrower terminals, the credential and the reason share a column.
ROOMY: Final = 96
# Heading and width of each column; a width of 0 means the remaining width.
_COLUMNS: Final = {
    "": 1,
    "caller": 8,
    "callee": 6,
    "presented": 24,
    "want": 4,
    "got": 3,
    "why": 0,
    "cost": 9,
    "time": 6,
}
_STYLES: Final = {2: "green", 1: "green", 4: "yellow", 5: "magenta"}  # by the status's first digit


class Screen(Protocol):
    """The events of the demo, in order."""

    def introduce(self, lines: list[str]) -> None:
        """Show who there is."""

    def scene(self, title: str) -> None:
        """Begin a scene."""

    def leave_out(self, why: str) -> None:
        """Show that the scene cannot run here."""

    def begin(self, step: str) -> None:
        """Show the step that runs now."""

    def end(self, row: Row) -> None:
        """Show the result of the step."""

    def conclude(self, report: Report) -> None:
        """Show the totals."""


@contextmanager
def open_screen(*, as_json: bool, console: Console | None = None) -> Iterator[Screen]:
    """Return the screen for `console`, by default stdout."""
    if as_json:
        yield _Document()
        return
    console = console or Console(highlight=False)
    if not console.is_terminal:
        yield _Lines(console)
        return
    spinner = "dots" if _is_utf(console) else "line"
    with console.status("Starting a Clerk and three services", spinner=spinner) as status:
        yield _LiveTable(console, status)


class _Document:
    """Prints one JSON document at the end, and nothing before."""

    def introduce(self, lines: list[str]) -> None:
        pass

    def scene(self, title: str) -> None:
        pass

    def leave_out(self, why: str) -> None:
        pass

    def begin(self, step: str) -> None:
        pass

    def end(self, row: Row) -> None:
        pass

    def conclude(self, report: Report) -> None:
        print(json.dumps(report.as_dict(), indent=2))


class _Lines:
    """Prints one line for each row, for a file or a pipe."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def introduce(self, lines: list[str]) -> None:
        self._print(*lines)

    def scene(self, title: str) -> None:
        self._print("", title)

    def leave_out(self, why: str) -> None:
        self._print(why)

    def begin(self, step: str) -> None:
        pass

    def end(self, row: Row) -> None:
        mark = "ok   " if row.as_expected else "WRONG"
        code = f"{row.answer.code}: " if row.answer.code else ""
        self._print(
            f"{mark} {row.caller:<8} {row.callee:<6} {row.presented:<52}"
            f" want {row.expected.status} got {row.answer.status}"
            f" {row.price:<9} {_time(row.seconds):>6}  {code}{row.why}{_complaint(row)}"
        )

    def conclude(self, report: Report) -> None:
        self._print("", *_totals(report))

    def _print(self, *lines: str) -> None:
        for line in lines:
            self._console.out(line, highlight=False)
        self._console.file.flush()


class _LiveTable:
    """Prints each row when it is complete, and below them the step that runs now."""

    def __init__(self, console: Console, status: Status) -> None:
        self._console = console
        self._status = status
        self._columns = _columns(console.width)
        self._ok, self._wrong = ("\u2713", "\u2717") if _is_utf(console) else ("+", "!")

    def introduce(self, lines: list[str]) -> None:
        for line in lines:
            self._console.print(Text(line))
        self._console.print()
        self._print({heading: Text(heading, style="bold") for heading in _COLUMNS})

    def scene(self, title: str) -> None:
        self._console.print()
        self._console.rule(Text(title, style="bold cyan"), align="left", style="cyan")

    def leave_out(self, why: str) -> None:
        self._console.print(Text(why, "yellow"))

    def begin(self, step: str) -> None:
        self._status.update(Text(step))

    def end(self, row: Row) -> None:
        style = _STYLES.get(row.answer.status // 100, "red") if row.as_expected else "bold red"
        presented, why = Text(row.presented), _why(row, style)
        if "why" not in self._columns:
            presented = Text("\n").join([presented, why])
        self._print(
            {
                "": Text(self._ok, "green") if row.as_expected else Text(self._wrong, "bold red"),
                "caller": Text(row.caller),
                "callee": Text(row.callee),
                "presented": presented,
                "want": Text(str(row.expected.status), "dim"),
                "got": Text(str(row.answer.status), style),
                "why": why,
                "cost": Text(row.price, "bold" if row.cost.paid else "dim"),
                "time": Text(_time(row.seconds), "dim", justify="right"),
            }
        )

    def conclude(self, report: Report) -> None:
        self._status.stop()
        self.scene("In all")
        *counts, verdict = _totals(report)
        for line in counts:
            self._console.print(line)
        self._console.print(Text(verdict, style="bold green" if report.as_expected else "bold red"))

    def _print(self, cells: dict[str, Text]) -> None:
        table = Table(box=None, show_header=False, padding=(0, 1, 0, 0), pad_edge=False)
        for width in self._columns.values():
            table.add_column(width=width, overflow="fold")
        table.add_row(*(cells[heading] for heading in self._columns))
        self._console.print(table)


def _columns(width: int) -> dict[str, int]:
    """Return the columns, fitted to the width of the console."""
    columns = dict(_COLUMNS)
    if width < ROOMY:
        del columns["why"]
        columns["presented"] = 0
    rest = min(width, WIDEST) - sum(each + 1 for each in columns.values())
    return {heading: each or max(24, rest) for heading, each in columns.items()}


def _why(row: Row, style: str) -> Text:
    why = Text()
    if row.answer.code:
        why.append(f"{row.answer.code}\n", style)
    why.append(row.why, "dim")
    return why.append(_complaint(row), "bold red")


def _is_utf(console: Console) -> bool:
    return console.encoding.lower().startswith("utf")


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _complaint(row: Row) -> str:
    return "".join(f" WRONG: {complaint}." for complaint in row.complaints)


def _totals(report: Report) -> list[str]:
    """Return the totals; the last line says whether all was as expected."""
    totals = report.totals()
    good, all_of_them = totals["outcomes_as_expected"], totals["outcomes"]
    return [
        f"Requests             {report.requests:>5}",
        f"Verifications paid   {report.paid:>5}   ${totals['dollars_paid']:.5f}",
        f"Saved by caches      {report.saved:>5}   ${totals['dollars_saved']:.5f}",
        f"${PRICE:.5f} each is Clerk's public price past 100,000 a month. JWTs are free.",
        "What was paid is counted by the emulated Clerk, not by the services.",
        f"{good} of {all_of_them} outcomes as expected, in {report.seconds:.1f} s.",
    ]
