"""`python -m bench`: measure every row, write `docs/benchmarks.md` and `docs/benchmarks.svg`."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from bench import (
    cached,
    first_sight,
    fleet,
    flood,
    growth,
    memory,
    path,
    price,
    refresh,
    serving,
    startup,
)
from bench.measure import FULL, Effort, Row
from bench.plot import draw
from bench.report import aim, noise, number, render
from bench.upstream import Upstream, running


async def measured(upstream: Upstream, effort: Effort) -> AsyncIterator[Row]:
    """Yield the rows in the order of the document."""
    yield await cached.control(upstream, effort, "at the start")
    yield await cached.middleware(upstream, effort)
    yield await cached.with_live_graph(upstream, effort)
    yield await cached.jwt_with_graph(upstream, effort)
    yield await cached.fastapi(upstream, effort)
    yield await cached.jwt_again(upstream, effort)
    yield await first_sight.jwt_once(upstream, effort)
    yield await first_sight.opaque_once(upstream, effort)
    yield await first_sight.official_sdk(upstream, effort)
    for server in serving.SERVERS:
        for row in await serving.rows(server, upstream, effort):
            yield row
    yield await flood.latency(upstream, effort)
    yield await refresh.latency(upstream, effort)
    for row in await startup.importing(effort):
        yield row
    for row in memory.rows(effort):
        yield row
    yield await growth.scopes(effort)
    for row in await growth.verdicts(effort):
        yield row
    yield await growth.invalidation(effort)
    yield await price.verifications_paid(effort)
    for row in fleet.rows(upstream, effort):
        yield row
    for row in await path.rows():
        yield row
    yield await cached.control(upstream, effort, "at the end")


async def all_rows(effort: Effort) -> list[Row]:
    """Measure all rows, and print each one when it is measured."""
    rows: list[Row] = []
    began = time.monotonic()
    with running(effort) as upstream:
        async for row in measured(upstream, effort):
            rows.append(row)
            found = "not measured"
            if row.pairs:
                lower, upper = map(number, row.spread)
                found = f"{number(row.ratio)} ({lower} to {upper})"
            seconds = f"{time.monotonic() - began:.0f} s"
            print(
                f"{seconds:>6} {found:>24}  {aim(row):<14} {row.title}", file=sys.stderr, flush=True
            )
    print(noise(rows), file=sys.stderr)
    return rows


def write(directory: Path, rows: Sequence[Row], load: float) -> None:
    """Write the document and its plot."""
    directory.mkdir(exist_ok=True)
    (directory / "benchmarks.md").write_text(render(rows, load), encoding="utf-8")
    (directory / "benchmarks.svg").write_text(draw(rows), encoding="utf-8")


if __name__ == "__main__":
    load_before = os.getloadavg()[0]
    write(Path("docs"), asyncio.run(all_rows(FULL)), load_before)
