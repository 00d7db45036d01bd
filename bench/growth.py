"""The costs that might grow with the number of callers."""

from __future__ import annotations

import json
import random
from functools import partial
from itertools import cycle
from time import perf_counter

from bench import endless
from bench.measure import Effort, Row, compared
from clerk_m2m import ScopeGraph, Verifier
from clerk_m2m.backend_api.parsing import read_m2m_token
from clerk_m2m.lookups.verdict import Answer
from clerk_m2m.verification.online import identity_of

FEW = 10
VERDICTS = 100_000
MACHINES = 10_000
EDGES = 150


async def _known(verifier: Verifier, tokens: list[str]) -> list[str]:
    for token in tokens:
        await verifier.verify(token)
    return tokens


def _fill(verifier: Verifier, verdicts: int) -> None:
    """Cache this number of verdicts, each read from its own answer, but without calls.

    100,000 calls would take some minutes. The tokens and their machines differ. The scopes are the
    same in every answer, as they are for a service that few machines may call.
    """
    for number in range(verdicts):
        record = read_m2m_token(json.loads(endless.verified(endless.machine_id(number))))
        digest, cache = verifier._digest.of(endless.new_token().encode()), verifier._verdicts
        cache.put(digest, Answer(value=identity_of(record)), asked_at=0)


async def _hit(verifier: Verifier, tokens: list[str], times: int) -> float:
    """Return the seconds of a cached hit, over `tokens` in turn."""
    turn = cycle(tokens)
    picked = [next(turn) for _ in range(times)]
    began = perf_counter()
    for token in picked:
        await verifier.verify(token)
    return (perf_counter() - began) / times


async def verdicts(effort: Effort) -> list[Row]:
    """Measure hits among many verdicts."""
    many = effort.count(VERDICTS)
    large = endless.verifier(cache_size=2 * VERDICTS)
    _fill(large, many)
    small = endless.verifier(cache_size=2 * VERDICTS)
    hot = [endless.new_token() for _ in range(FEW)]
    for verifier in (large, small):
        await _known(verifier, hot)
    everyone = await _known(large, [endless.new_token() for _ in range(effort.count(20_000))])
    random.shuffle(everyone)
    times = effort.count(5000)
    rows = [
        Row(
            title=f"Cached hit among {many:,} verdicts",
            ours=f"among {many:,}, the same {FEW} tokens in use",
            against=f"among {FEW}",
            pairs=await compared(
                effort.rounds, partial(_hit, large, hot, times), partial(_hit, small, hot, times)
            ),
            aim=1.2,
        ),
        Row(
            title=f"The same, {len(everyone):,} tokens in use at random",
            ours=f"{len(everyone):,} tokens in use",
            against=f"{FEW} tokens in use, of the same verifier",
            pairs=await compared(
                effort.rounds,
                partial(_hit, large, everyone, times),
                partial(_hit, large, hot, times),
            ),
            aim=2.0,
            note="This number of verdicts does not fit into the processor's caches.",
        ),
    ]
    for verifier in (large, small):
        await verifier.aclose()
    return rows


async def invalidation(effort: Effort) -> Row:
    """Measure the invalidation of a machine, among few verdicts and among many."""
    many, times = effort.count(VERDICTS), effort.count(500)
    large = endless.verifier(cache_size=2 * VERDICTS)
    small = endless.verifier(cache_size=2 * VERDICTS)
    _fill(large, many)
    _fill(small, FEW)

    async def invalidate(verifier: Verifier) -> float:
        began = perf_counter()
        for number in range(times):
            verifier.invalidate(machine_id=endless.machine_id(number % FEW))
        return (perf_counter() - began) / times

    pairs = await compared(effort.rounds, partial(invalidate, large), partial(invalidate, small))
    for verifier in (large, small):
        await verifier.aclose()
    return Row(
        title=f"`invalidate()` with {many:,} verdicts in the cache",
        ours=f"invalidate a machine, among {many:,} verdicts",
        against=f"the same among {FEW}",
        pairs=pairs,
        aim=1.2,
    )


def _graph(machines: int, edges: int) -> ScopeGraph:
    """Return a graph in which each machine may call the callee and the machines after it."""
    ids = [endless.machine_id(number) for number in range(machines)]
    return ScopeGraph(
        {
            caller: [endless.CALLEE, *(ids[(number + 1 + n) % machines] for n in range(edges - 1))]
            for number, caller in enumerate(ids)
        }
    )


async def scopes(effort: Effort) -> Row:
    """Measure a cached hit with its scope check, in the largest graph that Clerk allows."""
    machines = max(FEW, effort.count(MACHINES))
    large = endless.verifier(callers=machines, graph=_graph(machines, EDGES))
    small = endless.verifier(callers=FEW, graph=_graph(FEW, FEW))
    tokens = [endless.new_token() for _ in range(FEW)]
    times = effort.count(5000)
    for verifier in (large, small):
        await _known(verifier, tokens)
    pairs = await compared(
        effort.rounds, partial(_hit, large, tokens, times), partial(_hit, small, tokens, times)
    )
    for verifier in (large, small):
        await verifier.aclose()
    return Row(
        title=f"Scope check among {machines:,} machines with {EDGES} edges each",
        ours="a cached hit, static graph",
        against=f"the same among {FEW} machines with {FEW} edges each",
        pairs=pairs,
        aim=1.2,
    )
