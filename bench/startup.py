"""The cost of importing the package, each time in a new process."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from functools import partial
from time import perf_counter

from bench.measure import Effort, Row, compared

THEIRS = "import starlette.requests, starlette.responses, httpx, httpcore"


async def importing(effort: Effort) -> list[Row]:
    """Measure the import of the package alone, then of the middleware, which a service needs."""
    with tempfile.TemporaryDirectory() as bytecode:
        return [
            await _import("import clerk_m2m", "Import, in a new process", effort, bytecode),
            await _import(
                "from clerk_m2m import MachineAuthMiddleware",
                "The same, with the middleware",
                effort,
                bytecode,
            ),
        ]


async def _import(code: str, title: str, effort: Effort, bytecode: str) -> Row:
    pairs = await compared(
        effort.some(11), partial(_run, code, bytecode), partial(_run, THEIRS, bytecode)
    )
    return Row(
        title=title,
        ours=f"`{code}`",
        against="`import` of starlette's requests and responses, httpx and httpcore",
        pairs=pairs,
        aim=1.15,
    )


async def _run(code: str, bytecode: str) -> float:
    """Run `code`. Both sides cache compiled modules in `bytecode`, so neither compiles any."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path),
        "PYTHONPYCACHEPREFIX": bytecode,
        "PYTHONDONTWRITEBYTECODE": "",
    }
    began = perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-c", code, env=environment
    )
    assert await process.wait() == 0
    return perf_counter() - began
