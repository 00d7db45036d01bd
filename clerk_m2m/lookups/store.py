"""The entries of a cache, by key: a bounded store that is read without a lock.

Rules of this file:

- A read is one look-up in a dict. The reader marks the entry as used and moves nothing, so it needs
  no lock. The callers of `put`, `discard` and `size` hold the lock of the cache.
- An expired entry may stay in the store for a while. Readers compare its instants with the clock.
- When the store is full, the oldest entry is evicted, unless it was read since it was last
  examined. Then it becomes the youngest again (the "second chance" or CLOCK algorithm).
- Each `put` examines a few entries only, so that no request has to evict many. If all of these were
  read, the next oldest entry is evicted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

# The number of oldest entries that one `put` examines. Above 1, so that puts remove more expired
# entries than they add.
LOOKED_AT: Final = 8


@dataclass(slots=True)
class Entry(Generic[V]):
    """A cached value with three instants, in monotonic seconds.

    From `due_at` on, the value should be refreshed. From `fresh_until` on, it may be used only in
    an outage. From `ends_at` on, it may not be used. The number of the last invalidation that the
    value was checked against is `checked`. `used` is set by readers.
    """

    value: V
    due_at: float
    fresh_until: float
    ends_at: float
    checked: int
    used: bool = False


class Store(Generic[K, V]):
    """A store of at most `maxsize` entries; `now` returns monotonic seconds."""

    def __init__(self, maxsize: int, now: Callable[[], float]) -> None:
        self._maxsize = maxsize
        self._now = now
        # Not a plain dict: to find its oldest key, Python steps over every deleted key before it.
        self._entries: OrderedDict[K, Entry[V]] = OrderedDict()
        # The dict's own method, so that a read does not pay for a Python function call.
        self.get: Callable[[K], Entry[V] | None] = self._entries.get

    def has(self, key: K) -> bool:
        """Return whether there is an entry of `key` that has not expired."""
        entry = self.get(key)
        return entry is not None and self._now() < entry.ends_at

    def put(self, key: K, entry: Entry[V]) -> None:
        """Store an entry as the youngest; it replaces an entry with the same key."""
        entries, now = self._entries, self._now()
        entries.pop(key, None)
        if now >= entry.ends_at:
            return
        for _ in range(min(LOOKED_AT, len(entries))):
            oldest_key, oldest = next(iter(entries.items()))
            if now >= oldest.ends_at:
                del entries[oldest_key]
            elif len(entries) < self._maxsize:
                break
            elif oldest.used:
                oldest.used = False
                entries.move_to_end(oldest_key)
            else:
                del entries[oldest_key]
        if len(entries) >= self._maxsize:
            entries.popitem(last=False)
        entries[key] = entry

    def discard(self, key: K, entry: Entry[V] | None = None) -> None:
        """Remove the entry of `key`; with `entry`, only if the stored entry is this object."""
        if entry is None or self.get(key) is entry:
            self._entries.pop(key, None)

    def size(self) -> int:
        """Remove the expired entries at the old end, and return the number of entries left."""
        entries, now = self._entries, self._now()
        while entries and now >= next(iter(entries.values())).ends_at:
            entries.popitem(last=False)
        return len(entries)
