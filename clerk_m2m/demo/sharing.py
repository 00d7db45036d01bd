"""The scene in which three workers of one service share verdicts."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from clerk_m2m.demo.outcomes import LET_IN, LET_IN_PAID
from clerk_m2m.demo.report import Expected, ServiceAnswer
from clerk_m2m.demo.runner import MakeCall, StepRunner
from clerk_m2m.demo.valkey import lacking
from clerk_m2m.demo.workers import Worker

# How long the workers may take to start sharing, and to receive a revocation, in seconds.
BEGIN_TIMEOUT: Final = 10.0
HEAR_TIMEOUT: Final = 1.0


async def tell_sharing(runner: StepRunner) -> None:
    """Run this scene, or report what is missing for it."""
    runner.scene("Three workers of orders, each a process, share verdicts through a Valkey")
    if missing := lacking():
        runner.leave_out(f"Skipped: this needs {missing}.")
        return
    company = runner.company
    first, *others = workers = company.workers
    await _until_they_share(runner, workers)
    token = await company.mint("shop")
    presented = token.token.reveal()
    await runner.step(
        "shop", "orders", "a token, to worker 1", _call(runner, first, presented), LET_IN_PAID
    )
    for number, worker in enumerate(others, 2):
        await runner.step(
            "shop",
            "orders",
            f"the same, to worker {number}",
            _call(runner, worker, presented),
            LET_IN,
            note="Verified once for all three.",
        )
    await company.clerk.m2m_tokens.revoke(token.id)

    async def revoked_everywhere() -> ServiceAnswer:
        await first.invalidate_everywhere(token.id)
        answers = await asyncio.gather(
            *(_until_refused(runner, each, presented) for each in workers)
        )
        return min(answers, key=lambda answer: answer.status)

    await runner.step(
        "shop",
        "orders",
        "the same, revoked, to all three until all refuse",
        revoked_everywhere,
        Expected(status=401, code="token_invalid", paid=len(workers), timeout=HEAR_TIMEOUT),
        note="invalidate_everywhere() was called in worker 1.",
    )


def _call(runner: StepRunner, worker: Worker, token: str) -> MakeCall:
    async def call() -> ServiceAnswer:
        return await runner.calls.get(await worker.origin(), token)

    return call


async def _until_refused(runner: StepRunner, worker: Worker, token: str) -> ServiceAnswer:
    return await runner.calls.until(401, _call(runner, worker, token), timeout=HEAR_TIMEOUT)


async def _until_they_share(runner: StepRunner, workers: list[Worker]) -> None:
    """Wait until a token that is sent to all workers is verified only once."""
    emulator, end = runner.company.emulator, time.monotonic() + BEGIN_TIMEOUT
    paid = 0
    while paid != 1 and time.monotonic() < end:
        token, before = await runner.company.token("shop"), emulator.verifications
        for worker in workers:
            await _call(runner, worker, token)()
        paid = emulator.verifications - before
