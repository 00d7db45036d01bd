"""Writes `docs/benchmarks.md`: the machine, the table, the notes and the findings."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from bench.findings import FINDINGS
from bench.measure import Row

# The distance of a control row's quartiles above which the machine was too noisy.
MAX_NOISE = 0.05

PACKAGES = (
    "clerk-backend-api",
    "cryptography",
    "fastapi",
    "granian",
    "httptools",
    "httpx",
    "PyJWT",
    "starlette",
    "uvicorn",
    "uvloop",
)

HEAD = """# Benchmarks

The cost of this package, compared with what you would otherwise use. `make bench` writes this page:
do not edit it. The text is in `bench/report.py` and `bench/findings.py`.

{where}
{noise}

Each ratio is this package divided by the other. The two are measured in turn, within the same few
milliseconds. The ratio is the median of the rounds, with the lower and upper quartile in brackets.
Absolute values are medians too. They depend on the machine, and are given only for orientation.
Clerk's Backend API is this package's emulator, in its own process, over loopback. A call to Clerk
itself takes tens of milliseconds more, on both sides.

![The ratio and the aim of each row](benchmarks.svg)

"""


def render(rows: Sequence[Row], load: float) -> str:
    """Return the whole document; `load` is the load average at the beginning."""
    sections = [
        HEAD.format(where=_where(load), noise=noise(rows)),
        _table(rows),
        _notes(rows),
        FINDINGS,
    ]
    return "\n".join(sections)


def _where(load: float) -> str:
    versions = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    return (
        f"Measured on {_processor()}, {os.cpu_count()} cores, {platform.system()} "
        f"{platform.release().split('-')[0]}, {platform.python_implementation()} "
        f"{platform.python_version()}, with {versions}. Load average at the beginning: {load:.2f}."
    )


def noise(rows: Sequence[Row]) -> str:
    """Return whether the machine was quiet enough to trust the figures, by the control rows."""
    controls = [row for row in rows if row.is_control]
    if not controls:
        return "No control row was measured, so it is not known how noisy the machine was."
    worst = max(upper - lower for lower, upper in (row.spread for row in controls))
    off = max(abs(row.ratio - 1) for row in controls)
    found = (
        f"In the control rows, which time a request against itself, the quartiles differ by "
        f"{worst:.1%}, and the median is {off:.1%} off 1"
    )
    if max(worst, off) <= MAX_NOISE:
        return f"{found}: the machine was quiet enough."
    return (
        f"**{found}. That is more than {MAX_NOISE:.0%}: the machine was too noisy. Do not trust "
        "these figures; measure again when the machine is quiet.**"
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
    if not row.pairs:
        return f"| {row.title} | {row.ours} | {row.against} | not measured | {aim(row)} | | | 0 |"
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
    """Return the aim, and whether it is met."""
    if row.aim is None:
        return "reported"
    sign = "≥" if row.at_least else "≤"
    if not row.pairs:
        return f"{sign} {row.aim:g}"
    return f"{sign} {row.aim:g}: {'met' if row.met else 'missed'}"


def number(value: float) -> str:
    """Return a ratio with two decimals, or with three significant digits if it is below 0.1."""
    return f"{value:.3g}" if abs(value) < 0.1 else f"{value:.2f}"


def amount(value: float, row: Row) -> str:
    """Return an absolute value with its unit."""
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
