"""Requests per second of a whole service over loopback, with different ASGI servers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any, Final

from bench.measure import Effort, Row, interleaved
from bench.processes import Process, child
from bench.upstream import Upstream

# For each title: the modules that it needs, the options of the service, and the aim.
SERVERS: Final[Mapping[str, tuple[tuple[str, ...], dict[str, str], float]]] = {
    "uvicorn (h11, asyncio)": (("h11",), {"http": "h11", "loop": "asyncio"}, 0.96),
    "uvicorn (httptools, uvloop)": (
        ("httptools", "uvloop"),
        {"http": "httptools", "loop": "uvloop"},
        0.9,
    ),
    "granian": (("granian",), {"server": "granian"}, 0.9),
}


async def rows(server: str, upstream: Upstream, effort: Effort) -> list[Row]:
    """Return a server's rows: this package and a dict, each against the unprotected handler."""
    modules, options, aim = SERVERS[server]
    missing = [name for name in modules if find_spec(name) is None]
    pairs = [] if missing else await _rates(upstream, effort, options)
    why = f"Not measured: {' and '.join(missing)} is not installed." if missing else ""
    title = f"{server}, one worker: requests per second"
    return [
        Row(
            title=title,
            ours="a protected handler",
            against="the same handler unprotected",
            pairs=[(ours, bare) for ours, _, bare in pairs],
            aim=aim,
            at_least=True,
            unit="per second",
            note=why,
        ),
        Row(
            title=f"{title}, with a dict",
            ours="(starlette's `AuthenticationMiddleware` with a dict)",
            against="the same handler unprotected",
            pairs=[(other, bare) for _, other, bare in pairs],
            unit="per second",
            note=why or "For comparison only: the cost of looking the token up in a dict.",
        ),
    ]


async def _rates(
    upstream: Upstream, effort: Effort, options: dict[str, str]
) -> list[tuple[float, ...]]:
    settings = {
        "machine_id": upstream.callee,
        "machine_secret_key": upstream.callee_key,
        "api_url": upstream.origin,
    }
    token = upstream.opaque_tokens[0]
    with child("bench.service") as service, child("bench.load") as load:
        wanted: dict[str, Any] = {"settings": settings, "token": token, "options": options}
        question = {
            "origin": service.ask(wanted)["origin"],
            "token": token,
            "times": effort.count(600),
            "connections": 8,
        }
        return await interleaved(
            effort.some(21),
            partial(_ask, load, question | {"path": "/orders?protected"}),
            partial(_ask, load, question | {"path": "/orders?dict"}),
            partial(_ask, load, question | {"path": "/orders?open"}),
        )


async def _ask(load: Process, question: dict[str, object]) -> float:
    return float(load.ask(question))
