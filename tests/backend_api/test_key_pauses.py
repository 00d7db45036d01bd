"""Pauses of a key that Clerk refused, with an injected clock."""

from __future__ import annotations

import pytest

from clerk_m2m import KeyRefusedError, Secret
from clerk_m2m.backend_api.key_pauses import KeyPauses
from harness import FakeTime

KEY, OTHER = Secret("ak_key"), Secret("ak_other")


def refuse(pauses: KeyPauses, time: FakeTime, key: Secret = KEY, operation: str = "get") -> None:
    pauses.refused(operation, key, KeyRefusedError("refused", status=403), sent_at=time.monotonic)


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def pauses(time: FakeTime) -> KeyPauses:
    return KeyPauses(time.clock.monotonic)


def test_a_pause_doubles_from_one_second_to_thirty(time: FakeTime, pauses: KeyPauses) -> None:
    seconds = []
    for _ in range(7):
        assert pauses.admits("get", KEY)
        refuse(pauses, time)
        seconds.append(pauses.left("get", KEY))
        time.advance(seconds[-1])

    assert seconds == [1, 2, 4, 8, 16, 30, 30]


def test_a_pause_is_reset_when_clerk_accepts_the_key(time: FakeTime, pauses: KeyPauses) -> None:
    for _ in range(3):
        time.advance(10)
        refuse(pauses, time)
    pauses.end("get", KEY)
    assert pauses.admits("get", KEY)

    time.advance(1)
    refuse(pauses, time)

    assert pauses.left("get", KEY) == 1


def test_concurrent_refusals_double_the_pause_once(time: FakeTime, pauses: KeyPauses) -> None:
    sent_at = time.monotonic
    time.advance(0.2)
    for _ in range(20):
        pauses.refused("get", KEY, KeyRefusedError("refused"), sent_at=sent_at)

    assert pauses.left("get", KEY) == 1


def test_after_a_pause_one_call_at_a_time_tries_the_key(time: FakeTime, pauses: KeyPauses) -> None:
    refuse(pauses, time)
    time.advance(1)
    assert [pauses.admits("get", KEY) for _ in range(5)] == [True, False, False, False, False]

    time.advance(1)  # that call has not ended

    assert [pauses.admits("get", KEY) for _ in range(2)] == [True, False]


def test_a_pause_applies_to_one_key_and_one_operation(time: FakeTime, pauses: KeyPauses) -> None:
    refuse(pauses, time)

    assert not pauses.admits("get", KEY)
    assert pauses.admits("get", OTHER)
    assert pauses.admits("list", KEY)


def test_the_repeated_refusal_has_the_shortest_remaining_pause(
    time: FakeTime, pauses: KeyPauses
) -> None:
    refuse(pauses, time)
    time.advance(0.25)
    refuse(pauses, time, OTHER)

    again = pauses.refusal("get", [KEY, OTHER])

    assert isinstance(again, KeyRefusedError)
    assert (str(again), again.code, again.status) == ("refused", "key_refused", 403)
    assert again.retry_after == 0.75
    assert pauses.refusal("list", [KEY, OTHER]) is None


def test_the_pauses_of_other_keys_are_deleted(time: FakeTime, pauses: KeyPauses) -> None:
    refuse(pauses, time)
    refuse(pauses, time, OTHER)

    pauses.keep_only([OTHER])

    assert pauses.admits("get", KEY)
    assert not pauses.admits("get", OTHER)
