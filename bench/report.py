"""`docs/benchmarks.md`: the table, where it was measured, and what was found on the way."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from bench.findings import FINDINGS
from bench.measure import Row

PACKAGES = (
    "cachetools",
    "clerk-backend-api",
    "cryptography",
    "fastapi",
    "httpx",
    "PyJWT",
    "starlette",
    "uvicorn",
)

HEAD = """# Benchmarks

What this package costs, beside what one would pick instead. Written by `make bench`; do not edit.

{where}

Every figure is a ratio, this package to the other, of two things done in turn within the same few
milliseconds: the median of the rounds, and in brackets their lower and upper quartile. Absolute
values are medians too, and only there for orientation: another machine has others.
Clerk's Backend API is this package's emulator, in a process of its own, over loopback: a call that
goes to Clerk itself takes tens of milliseconds more, on both sides.

![The ratio and the aim of each row](benchmarks.svg)

"""


def render(rows: Sequence[Row], load: float) -> str:
    """Give the whole document; `load` is the load average at the beginning."""
    sections = [HEAD.format(where=_where(load)), _table(rows), _notes(rows), FINDINGS]
    return "\n".join(sections)


def _where(load: float) -> str:
    versions = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    return (
        f"Measured on {_processor()}, {os.cpu_count()} cores, {platform.system()} "
        f"{platform.release().split('-')[0]}, {platform.python_implementation()} "
        f"{platform.python_version()}, with {versions}. Load average at the beginning: {load:.2f}."
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:
            for line in cpuinfo:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def _table(rows: Sequence[Row]) -> str:
    lines = [
        "| what | this package | against | ratio | aim | this package | the other | rounds |",
        "|---|---|---|---|---|---|---|---|",
        *map(_line, rows),
    ]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    ours, other = (statistics.median(side) for side in zip(*row.pairs, strict=True))
    cells = [
        row.title,
        row.ours,
        row.against,
        _ratio(row),
        aim(row),
        amount(ours, row),
        amount(other, row),
        str(len(row.pairs)),
    ]
    return f"| {' | '.join(cells)} |"


def _ratio(row: Row) -> str:
    median = f"**{number(row.ratio)}**"
    if len(row.pairs) == 1:
        return median
    lower, upper = row.spread
    return f"{median} ({number(lower)} to {number(upper)})"


def aim(row: Row) -> str:
    """The aim, and whether it is met."""
    if row.aim is None:
        return "reported"
    sign = "≥" if row.at_least else "≤"
    return f"{sign} {row.aim:g}: {'met' if row.met else 'missed'}"


def number(value: float) -> str:
    """A ratio with three digits that count."""
    return f"{value:.3g}" if abs(value) < 0.1 else f"{value:.2f}"


def amount(value: float, row: Row) -> str:
    """An absolute value in the row's unit."""
    if row.unit == "per second":
        return f"{value:,.0f} /s"
    if row.unit == "bytes":
        return f"{value:,.0f} B"
    if row.unit == "count":
        return f"{value:,.0f}"
    for factor, unit in ((1e6, "µs"), (1e3, "ms")):
        if abs(value) * factor < 1000:
            return f"{value * factor:.3g} {unit}"
    return f"{value:.3g} s"


def _notes(rows: Sequence[Row]) -> str:
    notes = [f"- {row.title}: {row.note}" for row in rows if row.note]
    return "\n".join(["## Notes", "", *notes, ""])
