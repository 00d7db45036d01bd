"""Keys of the last one to two periods, with a limit for each period."""

from __future__ import annotations

from clerk_m2m.lookups.recent_keys import RecentKeys
from harness import FakeTime


def test_a_key_is_kept_for_one_to_two_periods() -> None:
    time = FakeTime()
    keys = RecentKeys[str](10.0, 5, time.clock.monotonic)
    keys.add("early")
    time.monotonic = 1_009.9
    keys.add("late")

    time.monotonic = 1_010.0
    assert ("early" in keys, "late" in keys) == (True, True)
    time.monotonic = 1_019.9
    assert ("early" in keys, "late" in keys) == (True, True)
    time.monotonic = 1_020.0
    assert ("early" in keys, "late" in keys) == (False, False)


def test_a_key_is_dropped_after_two_periods_without_any_call() -> None:
    time = FakeTime()
    keys = RecentKeys[str](10.0, 5, time.clock.monotonic)
    keys.add("old")

    time.monotonic = 1_020.0
    assert "old" not in keys


def test_keys_over_the_limit_of_a_period_are_not_added() -> None:
    time = FakeTime()
    keys = RecentKeys[int](10.0, 3, time.clock.monotonic)
    for number in range(5):
        keys.add(number)
    assert [number for number in range(5) if number in keys] == [0, 1, 2]

    time.monotonic = 1_010.0
    for number in range(5, 10):
        keys.add(number)
    assert [number for number in range(10) if number in keys] == [0, 1, 2, 5, 6, 7]


def test_a_discarded_key_is_removed_from_both_periods() -> None:
    time = FakeTime()
    keys = RecentKeys[str](10.0, 5, time.clock.monotonic)
    keys.add("key")
    time.monotonic = 1_010.0
    keys.add("key")
    keys.discard("key")

    assert "key" not in keys
