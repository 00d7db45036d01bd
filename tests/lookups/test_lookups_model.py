"""Cache, single flight and invalidations against a model, in thousands of random schedules.

The model keeps a version for each key. A look-up returns the version that is current when it is
sent, and an invalidation increments the version. A value of an older version must never be returned
after that. The test controls the time, so nothing waits in real time.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from clerk_m2m.lookups.cache import Cache
from clerk_m2m.lookups.invalidations import Invalidations
from clerk_m2m.lookups.single_flight import Demand
from clerk_m2m.lookups.verdict import Answer
from harness import FakeTime

KEYS = ["a", "b", "c"]
FOREVER = 1e6
TTL = 60.0

keys = strategies.sampled_from(KEYS)


@dataclass(frozen=True)
class Value:
    """An answer of the authority: the version of a key, and the instant when it was asked."""

    key: str
    version: int
    asked_at: float


@dataclass
class PendingLoad:
    """A look-up that the authority has not answered yet."""

    value: Value
    demand: Demand
    answered: asyncio.Future[None]


@dataclass
class Waiter:
    """A request that waits for the value of a key."""

    key: str
    task: asyncio.Task[tuple[Value, bool]]


class LookupsMachine(RuleBasedStateMachine):
    """Requests start and are cancelled, the authority answers late, and keys are invalidated."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.time = FakeTime()
        self.versions = dict.fromkeys(KEYS, 0)
        self.pending: list[PendingLoad] = []
        self.waiters: list[Waiter] = []
        self.invalidations = Invalidations(self.time.clock)

    @initialize(maxsize=strategies.integers(1, 4))
    def open(self, maxsize: int) -> None:
        self.cache: Cache[str, Value] = Cache(
            ttl=TTL,
            negative_ttl=10.0,
            stale_if_error=0.0,
            maxsize=maxsize,
            clock=self.time.clock,
            invalidations=self.invalidations,
            names=lambda key, _value: (key,),
        )

    def teardown(self) -> None:
        for waiter in self.waiters:
            waiter.task.cancel()
        if hasattr(self, "cache"):
            self.loop.run_until_complete(self.cache.aclose())
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()

    def settle(self) -> None:
        """Run all tasks that can continue, and check the values that finished waiters got."""

        async def passes() -> None:
            for _ in range(8):
                await asyncio.sleep(0)

        self.loop.run_until_complete(passes())
        for waiter in [each for each in self.waiters if each.task.done()]:
            self.waiters.remove(waiter)
            if not waiter.task.cancelled():
                value, _shared = waiter.task.result()
                assert value.key == waiter.key
                assert value.version == self.versions[waiter.key]

    async def load(self, key: str, demand: Demand) -> Answer[Value]:
        value = Value(key, self.versions[key], self.time.monotonic)
        pending = PendingLoad(value, demand, self.loop.create_future())
        self.pending.append(pending)
        await pending.answered
        return Answer(value=value, negative=self.next_is_negative)

    next_is_negative = False

    @rule(key=keys)
    def ask(self, key: str) -> None:
        """A request asks for a key that it has not found in the cache."""

        async def get() -> tuple[Value, bool]:
            return await self.cache.get_or_load(
                key, lambda demand: self.load(key, demand), timeout=FOREVER
            )

        self.waiters.append(Waiter(key, self.loop.create_task(get())))
        self.settle()

    @rule(key=keys)
    def read(self, key: str) -> None:
        """A value that is read is of the current version, and within its lifetime."""

        async def read() -> None:
            found = self.cache.read(key)
            if found is not None:
                value, due = found
                assert value.version == self.versions[key]
                assert self.time.monotonic < value.asked_at + TTL + self.slowest
                if due:
                    self.cache.refresh(key, lambda demand: self.load(key, demand))

        self.loop.run_until_complete(read())
        self.settle()

    slowest = 0.0

    @precondition(lambda self: self.pending)
    @rule(chosen=strategies.integers(0, 100), negative=strategies.booleans())
    def answer(self, chosen: int, negative: bool) -> None:
        """The authority answers one of the look-ups in progress."""
        pending = self.pending.pop(chosen % len(self.pending))
        self.slowest = max(self.slowest, self.time.monotonic - pending.value.asked_at)
        self.next_is_negative = negative
        pending.answered.set_result(None)
        self.settle()

    @precondition(lambda self: self.waiters)
    @rule(chosen=strategies.integers(0, 100))
    def cancel(self, chosen: int) -> None:
        """A waiter is cancelled; the look-up that it waited for continues."""
        out = len(self.pending)
        self.waiters[chosen % len(self.waiters)].task.cancel()
        self.settle()
        assert len(self.pending) == out
        assert not any(each.answered.cancelled() for each in self.pending)

    @rule(key=keys, lifetime=strategies.sampled_from([1000.0, FOREVER]))
    def invalidate(self, key: str, lifetime: float) -> None:
        """From now on only an answer requested after this is valid."""
        self.versions[key] += 1
        self.invalidations.add(key, lifetime=lifetime)
        self.settle()

    @rule(seconds=strategies.sampled_from([0.1, 1.0, 10.0, 30.0, 50.0]))
    def pass_time(self, seconds: float) -> None:
        self.time.advance(seconds)

    @invariant()
    def one_look_up_per_key_and_version(self) -> None:
        """Requests for one key share one look-up, however many they are."""
        under_way = [(each.value.key, each.value.version) for each in self.pending]
        assert len(under_way) == len(set(under_way))

    @invariant()
    def waiters_are_counted(self) -> None:
        for key in KEYS:
            waiting = sum(each.key == key for each in self.waiters)
            assert sum(p.demand.waiters for p in self.pending if p.value.key == key) == waiting


LookupsMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestLookups = LookupsMachine.TestCase
