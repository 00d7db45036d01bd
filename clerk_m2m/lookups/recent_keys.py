"""`RecentKeys`: a set of recently added keys, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from clerk_m2m.tasks import fork_safe_lock

K = TypeVar("K")


class RecentKeys(Generic[K]):
    """Remembers a key for at least `period` seconds and at most twice as long.

    There are two generations of at most `maxsize` keys. New keys are added to the younger one.
    Every `period` the older one is dropped, and the younger one takes its place. When the younger
    one is full, new keys are not added, so a flood of keys displaces no key.
    """

    def __init__(self, period: float, maxsize: int, now: Callable[[], float]) -> None:
        self._period = period
        self._maxsize = maxsize
        self._now = now
        self._lock = fork_safe_lock()
        self._younger: set[K] = set()
        self._older: set[K] = set()
        self._turns_at = now() + period

    def add(self, key: K) -> None:
        """Add a key, unless the younger generation is full."""
        with self._lock:
            self._turn()
            if len(self._younger) < self._maxsize:
                self._younger.add(key)

    def discard(self, key: K) -> None:
        """Remove a key."""
        with self._lock:
            self._younger.discard(key)
            self._older.discard(key)

    def __contains__(self, key: K) -> bool:
        with self._lock:
            self._turn()
            return key in self._younger or key in self._older

    def _turn(self) -> None:
        now = self._now()
        if now < self._turns_at:
            return
        if now >= self._turns_at + self._period:
            self._younger = set()
        self._older, self._younger = self._younger, set()
        self._turns_at = now + self._period
