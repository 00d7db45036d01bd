"""The verifications that shared verdicts save, between processes of one service on a Valkey."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import ceil
from typing import Any, Final

from bench.measure import Effort, Row
from bench.own_valkey import own_valkey
from bench.processes import Process, child
from bench.upstream import Upstream

PROCESSES: Final = 4
TOKENS: Final = 100
CONNECTIONS: Final = 8
# The aim: verifications of one token in all processes together.
EACH: Final = 1.05

WORKERS: Final = 20
CACHE_TTL: Final = 2.0
LIFETIMES: Final = 5
# The aim: one verification in each such part of `cache_ttl`.
PART: Final = 0.65

# The aim for reading a shared verdict, in seconds.
HIT: Final = 0.002

# The two verifiers of each worker.
SHARING: Final = "sharing"
ALONE: Final = "alone"


@contextmanager
def workers(
    upstream: Upstream, servers: Sequence[str], *, share_verdicts: bool = True, **given: Any
) -> Iterator[list[Process]]:
    """Start processes of one service, with empty caches and a fleet of their own.

    `servers` has the address of Redis for each of them; `given` is added to their settings.
    """
    settings = {
        "machine_id": upstream.callee,
        "machine_secret_key": upstream.callee_key,
        "api_url": upstream.origin,
        "unknown_rate": 1e6,
        **given,
    }
    key = secrets.token_hex(32)
    fleet = {"keys": [key], "prefix": f"bench:{key[:8]}", "share_verdicts": share_verdicts}
    with ExitStack() as stack:
        processes = [stack.enter_context(child("bench.worker")) for _ in servers]
        for process, server in zip(processes, servers, strict=True):
            process.tell({"settings": settings, "fleet": fleet | {"server": server}})
        for process in processes:
            process.answer()
        yield processes


def ask_all(processes: Sequence[Process], question: Any) -> list[Any]:
    """Send a question to all processes at once, and return their answers."""
    for process in processes:
        process.tell(question)
    return [process.answer() for process in processes]


def rows(upstream: Upstream, effort: Effort) -> list[Row]:
    """Return all rows, measured on a new server."""
    with own_valkey() as server:
        address = f"redis://127.0.0.1:{server.port}"
        return [
            new_processes(upstream, effort, address),
            over_lifetimes(upstream, effort, address),
            *hits(upstream, effort, address),
        ]


def new_processes(upstream: Upstream, effort: Effort, server: str) -> Row:
    """Measure new tokens that reach all processes at once, as after a deployment."""
    count, tokens = max(2, effort.count(PROCESSES)), upstream.opaque_tokens[: effort.count(TOKENS)]
    pairs = []
    for _ in range(effort.some(3)):
        with workers(upstream, [server] * count) as processes:
            pairs.append((total(processes, SHARING, tokens), total(processes, ALONE, tokens)))
    return Row(
        title=f"{count} new processes verify the same {len(tokens)} new tokens: verifications",
        ours="shared verdicts",
        against="no shared verdicts",
        pairs=pairs,
        aim=EACH / count,
        unit="count",
        note=(
            f"The processes have just started and follow the log, as a server does before its "
            f"first request. They verify the same tokens at once, {CONNECTIONS} at a time. The aim "
            f"is {EACH:g} verifications for each token."
        ),
    )


def over_lifetimes(upstream: Upstream, effort: Effort, server: str) -> Row:
    """Measure one token in many workers, over several lifetimes of a verdict."""
    count = max(2, effort.count(WORKERS))
    seconds = LIFETIMES * CACHE_TTL / effort.divisor
    asked = question("again_and_again", SHARING, ALONE, given=[upstream.opaque_tokens[0], seconds])
    with workers(upstream, [server] * count, cache_ttl=CACHE_TTL) as processes:
        shared, alone = (float(sum(sent)) for sent in zip(*ask_all(processes, asked), strict=True))
    most = int(LIFETIMES / PART) + 1
    return Row(
        title=f"{count} workers use one token for {LIFETIMES} x `cache_ttl`: verifications",
        ours="shared verdicts",
        against="no shared verdicts",
        pairs=[(shared, alone)],
        aim=most / alone,
        unit="count",
        note=(
            f"`cache_ttl` is {CACHE_TTL:g} s. The aim is {most} for all workers together: one at "
            f"the start, then one in each {PART:g} x `cache_ttl`."
        ),
    )


def hits(upstream: Upstream, effort: Effort, server: str) -> list[Row]:
    """Measure a token that is new to this process and that another process has verified."""
    count, pairs = effort.count(TOKENS), []
    with workers(upstream, [server] * 2) as (first, second):
        for number in range(effort.some(11)):
            tokens = upstream.opaque_tokens[number * count : (number + 1) * count]
            total([first], SHARING, tokens)
            hit, verification = (
                percentile(second.ask(question("seconds_of_each", side, given=[tokens]))[0])
                for side in (SHARING, ALONE)
            )
            pairs.append((hit, verification))
    title = "Token that another process has verified: 99th percentile latency"
    return [
        Row(
            title=title,
            ours="the shared verdict, read from Valkey",
            against="the aim",
            pairs=[(hit, HIT) for hit, _ in pairs],
            aim=1.0,
        ),
        Row(
            title=f"{title}, against a verification",
            ours="the shared verdict, read from Valkey",
            against="no shared verdicts: a verification",
            pairs=pairs,
            note="Both over loopback. A call to Clerk takes tens of milliseconds more.",
        ),
    ]


def question(work: str, *sides: str, given: list[Any]) -> dict[str, Any]:
    """Return the question that makes a worker do this work with each of these verifiers at once."""
    return {"work": work, "sides": sides, "given": given}


def total(processes: Sequence[Process], side: str, tokens: list[str]) -> float:
    """Let all processes verify these tokens; return the number of verifications sent."""
    asked = question("verify_all", side, given=[tokens, CONNECTIONS])
    return float(sum(sent for (sent,) in ask_all(processes, asked)))


def percentile(seconds: list[float]) -> float:
    """Return the 99th percentile."""
    return sorted(seconds)[ceil(len(seconds) * 0.99) - 1]
