"""The kept values of a cache, by key: bounded, and read without a lock.

Rules of this file:

- A read is one look-up in a dict. It marks the entry as used and moves nothing, so it needs no
  lock. Whoever puts in or takes out holds the lock of the cache.
- An entry that has ended may stay for a while. Whoever reads it compares its instants.
- Where the store is full, the oldest entry gives way. One that was read since it was last looked at
  is spared and counts as the youngest again (the "second chance" or CLOCK algorithm).
- Each put looks at a few entries only, so that no request pays for many.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

# How many of the oldest entries a put looks at. More than one, so that ended entries become fewer.
LOOKED_AT: Final = 8


@dataclass(slots=True)
class Entry(Generic[V]):
    """A kept value: due for a refresh, at its end, and past use at three instants (monotonic s).

    `checked` is the number of the last invalidation that is known not to void the value.
    """

    value: V
    due_at: float
    fresh_until: float
    ends_at: float
    checked: int
    used: bool = False


class Store(Generic[K, V]):
    """At most `maxsize` entries; `now` gives monotonic seconds."""

    def __init__(self, maxsize: int, now: Callable[[], float]) -> None:
        self._maxsize = maxsize
        self._now = now
        # (Finding the oldest of a plain dict passes over all that were deleted before it.)
        self._entries: OrderedDict[K, Entry[V]] = OrderedDict()
        # The dict's own method: a hit pays for no frame of this class.
        self.get: Callable[[K], Entry[V] | None] = self._entries.get

    def has(self, key: K) -> bool:
        """Tell whether there is an entry of `key` that has not ended."""
        entry = self.get(key)
        return entry is not None and self._now() < entry.ends_at

    def put(self, key: K, entry: Entry[V]) -> None:
        """Keep an entry as the youngest, in place of another of its key."""
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
        """Drop the entry of `key`; where one is given, only if it is still this one."""
        if entry is None or self.get(key) is entry:
            self._entries.pop(key, None)

    def size(self) -> int:
        """Give the number of entries, after the oldest were dropped as far as they have ended."""
        entries, now = self._entries, self._now()
        while entries and now >= next(iter(entries.values())).ends_at:
            entries.popitem(last=False)
        return len(entries)
