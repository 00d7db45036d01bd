"""The store of a cache: which entry is evicted when it is full, and how many a put examines."""

from __future__ import annotations

from clerk_m2m.lookups.store import LOOKED_AT, Entry, Store
from harness import FakeTime


def opened(time: FakeTime, maxsize: int) -> Store[int, int]:
    """Return a store with a clock that the test moves."""
    return Store(maxsize, time.clock.monotonic)


def put(store: Store[int, int], time: FakeTime, *keys: int, lifetime: float = 60.0) -> None:
    """Put a value for each key."""
    end = time.monotonic + lifetime
    for key in keys:
        store.put(key, Entry(key, end, end, end, 0))


def kept(store: Store[int, int]) -> list[int]:
    """Return the keys, oldest first."""
    return list(store._entries)


def use(store: Store[int, int], *keys: int) -> None:
    """Read these keys, as the cache does."""
    for key in keys:
        entry = store.get(key)
        assert entry is not None
        entry.used = True


def test_a_full_store_evicts_the_oldest_entry_unless_it_was_read() -> None:
    store = opened(time := FakeTime(), 3)
    put(store, time, 1, 2, 3)
    use(store, 1)
    put(store, time, 4)
    assert kept(store) == [3, 1, 4]

    put(store, time, 5, 6)  # 1 was kept once, and has not been read since
    assert kept(store) == [4, 5, 6]


def test_a_full_store_evicts_expired_entries_before_live_ones() -> None:
    store = opened(time := FakeTime(), 3)
    put(store, time, 1, lifetime=10.0)
    use(store, 1)
    put(store, time, 2, 3)
    time.advance(11.0)
    put(store, time, 4)

    assert kept(store) == [2, 3, 4]


def test_expired_entries_are_removed_from_a_store_that_is_not_full() -> None:
    store = opened(time := FakeTime(), 1000)
    put(store, time, *range(100))
    time.advance(61.0)
    put(store, time, *range(100, 120))
    assert kept(store) == list(range(100, 120))

    time.advance(61.0)
    assert store.size() == 0


def test_a_put_examines_few_entries_even_if_all_are_in_use() -> None:
    store = opened(time := FakeTime(), 100)
    put(store, time, *range(100))
    use(store, *range(100))
    put(store, time, 100)

    assert store.size() == 100
    assert kept(store) == [*range(LOOKED_AT + 1, 100), *range(LOOKED_AT), 100]


def test_a_put_replaces_the_entry_of_its_key_and_stores_no_expired_one() -> None:
    store = opened(time := FakeTime(), 3)
    put(store, time, 1, 2, 1)
    assert kept(store) == [2, 1]

    put(store, time, 1, lifetime=0.0)
    assert kept(store) == [2]


def test_discarding_a_replaced_entry_keeps_the_new_one() -> None:
    store = opened(time := FakeTime(), 3)
    put(store, time, 1)
    first = store.get(1)
    put(store, time, 1)

    store.discard(1, first)
    assert store.has(1)
    store.discard(1)
    assert not store.has(1)


def test_has_returns_false_for_an_expired_entry() -> None:
    store = opened(time := FakeTime(), 3)
    put(store, time, 1)
    assert store.has(1)

    time.advance(60.0)
    assert not store.has(1)
