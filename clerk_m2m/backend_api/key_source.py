"""`KeySource`: reads one of our keys and chooses the key to send.

Rules of this file:

- Text is a fixed key. A synchronous callable is called for each call. An async callable and a file
  are read at first use, after a refusal, and while in use at most once in `READ_EVERY` seconds.
  During a read, calls use the key that is known. Concurrent calls share one read.
- The newest key is sent. If Clerk refuses it, the source is read again, and the call is repeated
  once with another key: the one that the source returns now, else the one that Clerk accepted last.
  During a rotation either of them may be the active one.
- After a refusal, the key is not sent with that operation for a pause (`key_pauses`). If no other
  key may be sent, calls fail at once with the same refusal.
- If a source fails or returns something that is not a key, the last good key stays in use.
- A key is a `Secret` in every local of every frame. No error is chained to an exception of a
  callable, because that exception may contain a key.

Event loops and threads share a source; a read in progress belongs to one event loop.
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
# The shortest time between two reads while the key is in a pause, or there is no key yet.
READ_AGAIN: Final = 1.0
# The timeout of a read of an async callable or a file.
READ_TIMEOUT: Final = 10.0
LOG_PAUSE: Final = 60.0

# Clerk answers with these only if it accepts the key.
_KEY_WAS_TAKEN: Final = (InvalidRequestError, NotFoundError, ConflictError)


@dataclass(slots=True)
class _Reading:
    """The read in progress in one event loop, and whether a refusal started it."""

    task: asyncio.Task[None] | None = None
    after_refusal: bool = False

    def under_way(self) -> asyncio.Task[None] | None:
        return None if self.task is None or self.task.done() else self.task


class KeySource:
    """Provides one of our keys: a fixed one, or one that is read from a callable or a file.

    `name` is the name of the setting, and `prefix` the prefix of such keys. `check` raises
    `ConfigurationError` for a key that may not be used. The constructor raises
    `ConfigurationError` if a text or a file holds no such key. A callable is first called when the
    key is first used.
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
        self._taken: Secret | None = None  # the key that Clerk accepted last
        self._fault: str | None = None  # why the last read returned no key
        self._read_at = -inf
        self._logged_at = -inf
        if isinstance(given, Path):
            self._read_at = self._now()
            self._keep(self._checked(key_of_file(name, prefix, given)))
        elif isinstance(given, Secret):
            self._keep(self._checked(given))

    def __deepcopy__(self, memo: object) -> KeySource:
        return self  # a `Secret` is not copied either

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise not_pickled("The source of a key")

    async def use(
        self, operation: str, call: Callable[[Secret], Awaitable[T]], *, timeout: float
    ) -> T:
        """Run `call` with the newest key, and again once with another key if Clerk refuses it.

        `timeout` limits the waits for the source, in seconds; `call` keeps its own deadline.

        Raises what `call` raises, `KeyRefusedError` at once during a pause of the key
        (`retry_after` is the rest of the pause), and `KeyUnavailableError` if the source has not
        returned a key yet.
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
        """Return the newest known key without reading the source; None if none is known yet."""
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
        """Return the key to send; None if the caller must wait for the source."""
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
        """Return the newest key that may be sent now; None if all keys are in a pause."""
        for key in self._keys:
            if key != other_than and self._pauses.admits(operation, key):
                return key
        return None

    # Reading

    def _look(self, operation: str) -> None:
        """Call the source, or start a read of it, if one is due; never waits."""
        pauses = bool(self._keys) and self._pauses.left(operation, self._keys[0]) > 0
        if self._calls_at_once:
            if not (pauses and self._was_just_read()):
                self._call()
        elif self._keys and not isinstance(self._given, Secret):
            age = self._now() - self._read_at
            if age >= (READ_AGAIN if pauses else READ_EVERY):
                self._begin_read()

    async def _first(self, operation: str, deadline: float) -> Secret:
        """Wait for the first key; raises `KeyUnavailableError` if none is read in time."""
        under_way = self._readings.get().under_way()
        if under_way is not None or self._fault is None or not self._was_just_read():
            await _wait(under_way or self._begin_read(), deadline)
        if not self._keys:
            raise self._unavailable(operation)
        return self._keys[0]

    async def _read_after_refusal(self, operation: str, refused: Secret, deadline: float) -> None:
        """Read the source again, unless it was read after another refusal of this key."""
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
            # That read may have begun before the key was rotated, unless a refusal started it.
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
                # A plain function that returns an awaitable: from now on read it as an async one.
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
        """Return `given` as a valid key; raises `ConfigurationError`, which does not quote it."""
        if not isinstance(given, Secret):
            raise ConfigurationError(
                f"{self._name}: its callable returned {type(given).__name__} instead of text."
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
            logger.info("%s: its source has returned a new key, which is used now.", self._name)

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
        fault = self._fault or f"{self._name}: its source has not returned a key in time."
        return KeyUnavailableError(f"{operation}: {fault}", retry_after=READ_AGAIN)


def key_source(
    name: str,
    prefix: str,
    given: SecretKey | None,
    *,
    clock: Clock,
    check: Callable[[Secret], None] | None = None,
) -> KeySource | None:
    """Return the source of a key in any form that a setting accepts; None if `given` is None.

    Raises `ConfigurationError`.
    """
    given = hidden(given)  # first of all: tracebacks may show the locals of this frame
    checked = checked_secret_key(name, prefix, given)
    return None if checked is None else KeySource(name, prefix, checked, clock=clock, check=check)


async def _wait(task: asyncio.Task[Any], deadline: float) -> None:
    # `asyncio.wait` does not cancel the task when the waiter is cancelled or times out.
    left = deadline - asyncio.get_running_loop().time()
    await asyncio.wait({task}, timeout=max(left, 0.0))
