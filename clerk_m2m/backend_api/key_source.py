"""`KeySource`: where one of our keys comes from, and which one is sent.

Rules of this file:

- Text is a fixed key. A callable that does not await is called for each call. An async callable and
  a file are read at first use, after a refusal, and at most once in `READ_EVERY` seconds while they
  are in use; calls go on with the key at hand meanwhile. Concurrent calls share one read.
- The newest key is sent. When Clerk refuses it, the source is read once more, and the call repeated
  once with another key: the one that the source gives now, else the one that Clerk took last.
  During a rotation either may be the active one.
- A key that was refused is not sent with that operation for a pause (`key_pauses`). Where no other
  key may be sent, calls fail at once with the same refusal.
- A source that fails, or gives something else than a key, leaves the last good key in use.
- A key is a `Secret` in every local of every frame, and no error is chained to what a callable
  raised, since that may hold a key.

Event loops and threads share a source; a read under way belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from inspect import isawaitable, iscoroutine
from math import inf
from pathlib import Path
from typing import Any, Final, NoReturn, SupportsIndex, TypeVar

from clerk_m2m.backend_api.key_pauses import KeyPauses
from clerk_m2m.clock import Clock
from clerk_m2m.environment import SecretKey, checked_key, checked_secret_key, key_of_file
from clerk_m2m.errors import (
    ConfigurationError,
    ConflictError,
    InvalidRequestError,
    KeyRefusedError,
    KeyUnavailableError,
    NotFoundError,
)
from clerk_m2m.secret import Secret, SecretCallable, hidden, not_pickled
from clerk_m2m.tasks import PerLoop, detached, fork_safe_lock

T = TypeVar("T")

logger = logging.getLogger("clerk_m2m")

READ_EVERY: Final = 60.0
# How often a source is read at most while its key pauses, or while it has given none yet.
READ_AGAIN: Final = 1.0
# How long an async callable or a file may take.
READ_TIMEOUT: Final = 10.0
LOG_PAUSE: Final = 60.0

# Clerk answers these only to a key that it takes.
_KEY_WAS_TAKEN: Final = (InvalidRequestError, NotFoundError, ConflictError)


@dataclass(slots=True)
class _Reading:
    """The read under way in one event loop, and whether it began after a refusal."""

    task: asyncio.Task[None] | None = None
    after_refusal: bool = False

    def under_way(self) -> asyncio.Task[None] | None:
        return None if self.task is None or self.task.done() else self.task


class KeySource:
    """Gives one of our keys: a fixed one, or what a callable or a file gives.

    `name` is the setting's, and `prefix` what such keys begin with. `check` raises
    `ConfigurationError` for a key that may not be used. Raises `ConfigurationError` where a text or
    a file holds no such key; a callable is not called before the first use.
    """

    def __init__(
        self,
        name: str,
        prefix: str,
        given: Secret | Path | SecretCallable,
        *,
        clock: Clock,
        check: Callable[[Secret], None] | None = None,
    ) -> None:
        self._name = name
        self._prefix = prefix
        self._given = given
        self._check = check
        self._now = clock.monotonic
        self._lock = fork_safe_lock()
        self._pauses = KeyPauses(clock.monotonic)
        self._readings: PerLoop[_Reading] = PerLoop(_Reading)
        self._calls_at_once = isinstance(given, SecretCallable) and not given.is_async
        self._keys: tuple[Secret, ...] = ()  # the newest, and perhaps an older one
        self._taken: Secret | None = None  # the key that Clerk took last
        self._fault: str | None = None  # why the last read gave no key
        self._read_at = -inf
        self._logged_at = -inf
        if isinstance(given, Path):
            self._read_at = self._now()
            self._keep(self._checked(key_of_file(name, prefix, given)))
        elif isinstance(given, Secret):
            self._keep(self._checked(given))

    def __deepcopy__(self, memo: object) -> KeySource:
        return self  # like the `Secret` that it holds

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise not_pickled("The source of a key")

    async def use(
        self, operation: str, call: Callable[[Secret], Awaitable[T]], *, timeout: float
    ) -> T:
        """Run `call` with the newest key, and once more with another where Clerk refuses that one.

        `timeout` bounds the waits for the source, in seconds; `call` keeps its own deadline.

        Raises what `call` raises, `KeyRefusedError` at once while the key pauses (`retry_after` is
        what is left of the pause), and `KeyUnavailableError` where the source has given no key yet.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        key = self._at_hand(operation) or await self._first(operation, deadline)
        sent_at = self._now()
        try:
            return await self._send(operation, key, call)
        except KeyRefusedError as exc:
            await self._read_after_refusal(operation, key, deadline)
            self._pauses.refused(operation, key, exc, sent_at=sent_at)
            other = self._admitted(operation, other_than=key)
            if other is None:
                exc.retry_after = min(self._pauses.left(operation, each) for each in self._keys)
                raise
        return await self._send_again(operation, other, call)

    def at_hand(self) -> Secret | None:
        """Give the newest key without asking the source; None where it has given none yet."""
        return self._keys[0] if self._keys else None

    # Sending

    async def _send(self, operation: str, key: Secret, call: Callable[[Secret], Awaitable[T]]) -> T:
        try:
            value = await call(key)
        except _KEY_WAS_TAKEN:
            self._note_taken(operation, key)
            raise
        self._note_taken(operation, key)
        return value

    async def _send_again(
        self, operation: str, key: Secret, call: Callable[[Secret], Awaitable[T]]
    ) -> T:
        sent_at = self._now()
        try:
            return await self._send(operation, key, call)
        except KeyRefusedError as exc:
            self._pauses.refused(operation, key, exc, sent_at=sent_at)
            exc.retry_after = self._pauses.left(operation, key)
            raise

    def _note_taken(self, operation: str, key: Secret) -> None:
        self._pauses.end(operation, key)
        if key in self._keys:
            self._taken = key

    def _at_hand(self, operation: str) -> Secret | None:
        """Give the key to send; None where the source must be waited for."""
        self._look(operation)
        if not self._keys:
            if self._calls_at_once:
                raise self._unavailable(operation)
            return None
        key = self._admitted(operation)
        if key is None:
            refusal = self._pauses.refusal(operation, self._keys)
            if refusal is not None:
                raise refusal
        return key or self._keys[0]

    def _admitted(self, operation: str, *, other_than: Secret | None = None) -> Secret | None:
        """Give the newest key that may be sent now; None where all of them pause."""
        for key in self._keys:
            if key != other_than and self._pauses.admits(operation, key):
                return key
        return None

    # Reading

    def _look(self, operation: str) -> None:
        """Ask the source for a newer key, as often as its kind allows; waits for nothing."""
        pauses = bool(self._keys) and self._pauses.left(operation, self._keys[0]) > 0
        if self._calls_at_once:
            if not (pauses and self._was_just_read()):
                self._call()
        elif self._keys and not isinstance(self._given, Secret):
            age = self._now() - self._read_at
            if age >= (READ_AGAIN if pauses else READ_EVERY):
                self._begin_read()

    async def _first(self, operation: str, deadline: float) -> Secret:
        """Wait for the first key; raises `KeyUnavailableError` where there is none."""
        under_way = self._readings.get().under_way()
        if under_way is not None or self._fault is None or not self._was_just_read():
            await _wait(under_way or self._begin_read(), deadline)
        if not self._keys:
            raise self._unavailable(operation)
        return self._keys[0]

    async def _read_after_refusal(self, operation: str, refused: Secret, deadline: float) -> None:
        """Read the source once more, unless another refusal has had this done."""
        newest = self._keys[0]
        pauses = self._pauses.left(operation, newest) > 0
        if (newest != refused and not pauses) or (pauses and self._was_just_read()):
            return
        if self._calls_at_once:
            self._call()
        elif not isinstance(self._given, Secret):
            await self._read_anew(deadline)

    async def _read_anew(self, deadline: float) -> None:
        reading, known = self._readings.get(), self._keys
        under_way = reading.under_way()
        if under_way is not None:
            # It may have begun before the source changed, unless a refusal began it.
            enough = reading.after_refusal
            await _wait(under_way, deadline)
            if enough or self._keys != known:
                return
        await _wait(reading.under_way() or self._begin_read(after_refusal=True), deadline)

    def _begin_read(self, *, after_refusal: bool = False) -> asyncio.Task[None]:
        reading = self._readings.get()
        task = reading.under_way()
        if task is None:
            self._read_at = self._now()
            task = reading.task = detached(self._read())
            reading.after_refusal = after_refusal
        return task

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(READ_TIMEOUT):
                key = self._checked(await self._give())
        except Exception as exc:  # noqa: BLE001  the user's callable may raise anything
            self._failed(exc)
        else:
            self._keep(key)

    async def _give(self) -> object:
        if isinstance(self._given, Path):
            return await asyncio.to_thread(key_of_file, self._name, self._prefix, self._given)
        given = self._given() if isinstance(self._given, SecretCallable) else self._given
        return hidden(await given) if isawaitable(given) else given

    def _call(self) -> None:
        self._read_at = self._now()
        try:
            given = self._given() if isinstance(self._given, SecretCallable) else self._given
            if isawaitable(given):
                # A plain function around an async one: from now on it is read like that one.
                self._calls_at_once = False
                if iscoroutine(given):
                    given.close()
                return
            key = self._checked(given)
        except Exception as exc:  # noqa: BLE001  the user's callable may raise anything
            self._failed(exc)
        else:
            self._keep(key)

    def _checked(self, given: object) -> Secret:
        """Give a key of the right form; raises `ConfigurationError`, which does not quote it."""
        if not isinstance(given, Secret):
            raise ConfigurationError(
                f"{self._name}: its callable gave {type(given).__name__} instead of text."
            )
        key = checked_key(self._name, self._prefix, given)
        if key is None:
            raise ConfigurationError(f"{self._name} is empty.")
        if self._check is not None:
            self._check(key)
        return key

    # Keeping

    def _keep(self, key: Secret) -> None:
        with self._lock:
            self._fault = None
            newest = self._keys[0] if self._keys else None
            if key == newest:
                return
            older = newest if self._taken is None or self._taken == key else self._taken
            self._keys = (key,) if older is None else (key, older)
        self._pauses.keep_only(self._keys)
        if newest is not None:
            logger.info("%s: its source gives another key from now on.", self._name)

    def _failed(self, exc: Exception) -> None:
        match exc:
            case ConfigurationError():
                self._fault = str(exc)
            case TimeoutError():
                self._fault = f"{self._name}: its source took too long."
            case _:
                self._fault = f"{self._name}: its callable raised {type(exc).__name__}."
        now = self._now()
        if self._keys and now - self._logged_at >= LOG_PAUSE:
            self._logged_at = now
            logger.warning("%s The last good key stays in use.", self._fault)

    def _was_just_read(self) -> bool:
        return self._now() - self._read_at < READ_AGAIN

    def _unavailable(self, operation: str) -> KeyUnavailableError:
        fault = self._fault or f"{self._name}: its source has given no key in time."
        return KeyUnavailableError(f"{operation}: {fault}", retry_after=READ_AGAIN)


def key_source(
    name: str,
    prefix: str,
    given: SecretKey | None,
    *,
    clock: Clock,
    check: Callable[[Secret], None] | None = None,
) -> KeySource | None:
    """Give the source of a key that was given in one of its forms; None for none.

    Raises `ConfigurationError`.
    """
    given = hidden(given)  # first of all: tracebacks may show the locals of this frame
    checked = checked_secret_key(name, prefix, given)
    return None if checked is None else KeySource(name, prefix, checked, clock=clock, check=check)


async def _wait(task: asyncio.Task[Any], deadline: float) -> None:
    # `wait` leaves the task alone when the waiter is cancelled or time runs out.
    left = deadline - asyncio.get_running_loop().time()
    await asyncio.wait({task}, timeout=max(left, 0.0))
