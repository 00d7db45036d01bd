"""What shared verdicts save: processes of one service, a real Valkey, with and without them."""

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
# Verifications that a token may cost in all of the processes.
EACH: Final = 1.05

WORKERS: Final = 20
CACHE_TTL: Final = 2.0
LIFETIMES: Final = 5
# One verification in this part of `cache_ttl`.
PART: Final = 0.65

# Seconds.
HIT: Final = 0.002

# What a worker verifies with: each has a verifier of both kinds.
SHARING: Final = "sharing"
ALONE: Final = "alone"


@contextmanager
def workers(
    upstream: Upstream, servers: Sequence[str], *, share_verdicts: bool = True, **given: Any
) -> Iterator[list[Process]]:
    """Start processes of one service, which share with nobody else and know nothing yet.

    `servers` has the address of Redis of each of them; `given` adds to their settings.
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
    """Ask all of them at once."""
    for process in processes:
        process.tell(question)
    return [process.answer() for process in processes]


def rows(upstream: Upstream, effort: Effort) -> list[Row]:
    """All rows, on a server of their own."""
    with own_valkey() as server:
        address = f"redis://127.0.0.1:{server.port}"
        return [
            new_processes(upstream, effort, address),
            over_lifetimes(upstream, effort, address),
            *hits(upstream, effort, address),
        ]


def new_processes(upstream: Upstream, effort: Effort, server: str) -> Row:
    """New tokens that reach all processes at once, as after a deploy."""
    count, tokens = max(2, effort.count(PROCESSES)), upstream.opaque_tokens[: effort.count(TOKENS)]
    pairs = []
    for _ in range(effort.some(3)):
        with workers(upstream, [server] * count) as processes:
            pairs.append((total(processes, SHARING, tokens), total(processes, ALONE, tokens)))
    return Row(
        title=f"{count} new processes, {len(tokens)} new tokens in each: verifications",
        ours="shared verdicts",
        against="unshared",
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
    """One token in many workers, for as long as several verdicts live."""
    count = max(2, effort.count(WORKERS))
    seconds = LIFETIMES * CACHE_TTL / effort.divisor
    asked = question("again_and_again", SHARING, ALONE, given=[upstream.opaque_tokens[0], seconds])
    with workers(upstream, [server] * count, cache_ttl=CACHE_TTL) as processes:
        shared, alone = (float(sum(sent)) for sent in zip(*ask_all(processes, asked), strict=True))
    most = int(LIFETIMES / PART) + 1
    return Row(
        title=f"{count} workers, one token over {LIFETIMES} `cache_ttl`: verifications",
        ours="shared verdicts",
        against="unshared",
        pairs=[(shared, alone)],
        aim=most / alone,
        unit="count",
        note=(
            f"`cache_ttl` is {CACHE_TTL:g} s. The aim is {most}: one at first, and then one in "
            f"each {PART:g} `cache_ttl`, for all workers together."
        ),
    )


def hits(upstream: Upstream, effort: Effort, server: str) -> list[Row]:
    """How long a new token takes that another process has verified."""
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
    title = "A new token that another process has verified: 99th percentile"
    return [
        Row(
            title=title,
            ours="its verdict, read from Valkey",
            against="the aim",
            pairs=[(hit, HIT) for hit, _ in pairs],
            aim=1.0,
        ),
        Row(
            title=f"{title}, against a verification",
            ours="its verdict, read from Valkey",
            against="unshared: a verification",
            pairs=pairs,
            note="Both over loopback. A call to Clerk takes tens of milliseconds more.",
        ),
    ]


def question(work: str, *sides: str, given: list[Any]) -> dict[str, Any]:
    """What a worker is asked to do, with each of these verifiers at once."""
    return {"work": work, "sides": sides, "given": given}


def total(processes: Sequence[Process], side: str, tokens: list[str]) -> float:
    """Have all of them verify these tokens; gives how many verifications that took."""
    asked = question("verify_all", side, given=[tokens, CONNECTIONS])
    return float(sum(sent for (sent,) in ask_all(processes, asked)))


def percentile(seconds: list[float]) -> float:
    """The 99th."""
    return sorted(seconds)[ceil(len(seconds) * 0.99) - 1]
