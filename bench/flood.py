"""The latency of callers with cached verdicts while many new tokens arrive at once."""

from __future__ import annotations

from bench.measure import Effort, Row
from bench.processes import child
from bench.upstream import Upstream

NEW_TOKENS = 1000
CONNECTIONS = 200
WINDOW = 10.0
EXTRA = 0.003


async def latency(upstream: Upstream, effort: Effort) -> Row:
    """Measure by how much a flood raises the 99th percentile of cached callers."""
    settings = {
        "machine_id": upstream.callee,
        "machine_secret_key": upstream.callee_key,
        "api_url": upstream.origin,
    }
    count, token = effort.count(NEW_TOKENS), upstream.opaque_tokens[0]
    options = {"http": "h11", "loop": "asyncio", "access_log": False}
    pairs = []
    with (
        child("bench.service") as service,
        child("bench.callers") as callers,
        child("bench.callers") as unknown_callers,
    ):
        wanted = {"settings": settings, "token": token, "options": options}
        place = {"origin": service.ask(wanted)["origin"], "path": "/orders?protected"}
        known = place | {"work": "steady", "token": token, "connections": 8, "pause": 0.01}
        known |= {"seconds": WINDOW / effort.divisor}
        for number in range(effort.some(2)):
            tokens = upstream.opaque_tokens[1 + number * count : 1 + (number + 1) * count]
            quiet = _percentile(callers.ask(known))
            callers.tell(known)
            flooded = place | {"work": "burst", "tokens": tokens, "connections": CONNECTIONS}
            unknown_callers.ask(flooded | {"after": WINDOW / 2 / effort.divisor})
            pairs.append((max(_percentile(callers.answer()) - quiet, 0.0), EXTRA))
    return Row(
        title=f"{count:,} new tokens at once: latency added for cached callers",
        ours="99th percentile of the 10 s around the flood, minus that of 10 s without a flood",
        against="the aim",
        pairs=pairs,
        aim=1.0,
        note=(
            "uvicorn (h11, asyncio), one worker, default settings: most new tokens get a 503 "
            f"at once (`unknown_rate`). They come over {CONNECTIONS} connections that are already "
            "open. Each of 8 cached callers sends a request every 10 ms."
        ),
    )


def _percentile(seconds: list[float]) -> float:
    """Return the 99th percentile."""
    return sorted(seconds)[max(int(len(seconds) * 0.99) - 1, 0)]
