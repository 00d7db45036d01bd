"""Runs one step: makes the call, measures its cost, and adds the row."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from clerk_m2m.demo.calls import Calls
from clerk_m2m.demo.report import Cost, Expected, Report, Row, ServiceAnswer
from clerk_m2m.demo.screen import Screen
from clerk_m2m.demo.services import Company

MakeCall: TypeAlias = Callable[[], Awaitable[ServiceAnswer]]


class StepRunner:
    """Runs the steps, one at a time."""

    def __init__(self, company: Company, calls: Calls, report: Report, screen: Screen) -> None:
        self.company = company
        self.calls = calls
        self._report = report
        self._screen = screen
        self._scene = ""

    def scene(self, title: str) -> None:
        """Begin a scene."""
        self._scene = title
        self._screen.scene(title)

    def leave_out(self, why: str) -> None:
        """Report that the scene cannot run here."""
        self._report.left_out.append(why)
        self._screen.leave_out(why)

    async def step(
        self,
        caller: str,
        callee: str,
        presented: str,
        make_call: MakeCall,
        expected: Expected,
        *,
        note: str = "",
        billed: bool = True,
    ) -> None:
        """Make a call from `caller` to `callee`, and record the result as a row."""
        self._screen.begin(f"{caller} calls {callee}: {presented}")
        before, began = await self._counters(), time.perf_counter()
        answer = await make_call()
        seconds, after = time.perf_counter() - began, await self._counters()
        row = Row(
            scene=self._scene,
            caller=caller,
            callee=callee,
            presented=presented,
            note=note,
            billed=billed,
            expected=expected,
            answer=ServiceAnswer(
                status=answer.status,
                code=answer.code,
                detail=self.company.with_names(answer.detail),
            ),
            cost=Cost(
                requests=after.requests - before.requests,
                paid=after.paid - before.paid,
                cached=after.cached - before.cached,
                offline=after.offline - before.offline,
                shared=after.shared - before.shared,
            ),
            seconds=seconds,
        )
        self._report.rows.append(row)
        self._screen.end(row)

    def get(self, callee: str, *credentials: str, path: str = "/") -> MakeCall:
        """Return a function that calls a service with these credentials."""
        return lambda: self.calls.get(self._origin(callee) + path, *credentials)

    def connect(self, callee: str, credential: str) -> MakeCall:
        """Return a function that opens a WebSocket to a service."""
        return lambda: self.calls.connect(self._origin(callee), credential)

    def at_once(self, count: int, make_call: MakeCall) -> MakeCall:
        """Return a function that makes the same call `count` times concurrently."""
        return lambda: self.calls.at_once(count, make_call)

    def until(self, expected: Expected, make_call: MakeCall) -> MakeCall:
        """Return a function that repeats the call until the answer is expected or time is up."""
        timeout = expected.timeout or 0.0
        return lambda: self.calls.until(expected.status, make_call, timeout=timeout)

    def _origin(self, callee: str) -> str:
        return self.company.services[callee].served.origin

    async def _counters(self) -> Cost:
        stats = [service.verifier.stats for service in self.company.services.values()]
        of_workers = [await worker.counters() for worker in self.company.workers]
        return Cost(
            requests=self.calls.sent + self.company.hops,
            paid=self.company.emulator.verifications,
            cached=sum(each.hits + each.shared for each in stats)
            + sum(cached for cached, _ in of_workers),
            offline=sum(each.offline for each in stats),
            shared=sum(shared for _, shared in of_workers),
        )
