"""Requests per second of a whole service, over loopback."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec

from bench.measure import Effort, Row, interleaved
from bench.processes import Process, child
from bench.upstream import Upstream


async def plain_uvicorn(upstream: Upstream, effort: Effort) -> list[Row]:
    """What `pip install uvicorn` gives."""
    return await _throughput(upstream, effort, http="h11", loop="asyncio")


async def fast_uvicorn(upstream: Upstream, effort: Effort) -> list[Row]:
    """What `pip install uvicorn[standard]` gives, where it is installed."""
    if not (find_spec("httptools") and find_spec("uvloop")):
        return []
    return await _throughput(upstream, effort, http="httptools", loop="uvloop")


async def _throughput(upstream: Upstream, effort: Effort, *, http: str, loop: str) -> list[Row]:
    settings = {
        "machine_id": upstream.callee,
        "machine_secret_key": upstream.callee_key,
        "api_url": upstream.origin,
    }
    token = upstream.opaque_tokens[0]
    options = {"http": http, "loop": loop, "access_log": False}
    with child("bench.service") as service, child("bench.load") as load:
        wanted = {"settings": settings, "token": token, "options": options}
        question = {
            "origin": service.ask(wanted)["origin"],
            "token": token,
            "times": effort.count(600),
            "connections": 8,
        }
        results = await interleaved(
            effort.rounds,
            partial(_ask, load, question | {"path": "/orders?protected"}),
            partial(_ask, load, question | {"path": "/orders?dict"}),
            partial(_ask, load, question | {"path": "/orders?open"}),
        )
    title = f"uvicorn ({http}, {loop}), one worker: requests per second"
    return [
        Row(
            title=title,
            ours="a protected handler",
            against="the same handler unprotected",
            pairs=[(ours, bare) for ours, _, bare in results],
            aim=0.95,
            at_least=True,
            unit="per second",
        ),
        Row(
            title=f"{title}, with a dict",
            ours="(starlette's `AuthenticationMiddleware`, its backend a dict)",
            against="the same handler unprotected",
            pairs=[(other, bare) for _, other, bare in results],
            unit="per second",
            note="For comparison only: this is what looking the token up in a dict costs there.",
        ),
    ]


async def _ask(load: Process, question: dict[str, object]) -> float:
    return float(load.ask(question))
