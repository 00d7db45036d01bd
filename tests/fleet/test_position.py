"""Which rows of the log go on from the last one that was applied."""

from __future__ import annotations

import pytest

from clerk_m2m.fleet.log import Page
from clerk_m2m.fleet.position import Position
from clerk_m2m.fleet.rows import Row


def row(number: int, previous: str | None = None) -> Row:
    before = f"nonce{number - 1}" if previous is None else previous
    return Row(
        nonce=f"nonce{number}", body="{}", signature="signed", number=number, previous=before
    )


def page(*numbers: int, epoch: str = "e", head: int | None = None, first: int = 0) -> Page:
    number = (numbers[-1] if numbers else 7) if head is None else head
    rows = tuple(row(each) for each in numbers)
    return Page(
        epoch=epoch, number=number, first=first, nonce=f"nonce{number}", floor=None, rows=rows
    )


def at(number: int, *, history_to: int = -1) -> Position:
    return Position(epoch="e", number=number, nonce=f"nonce{number}", history_to=history_to)


@pytest.mark.parametrize(
    ("found", "goes_on"),
    [
        (page(), True),
        (page(8, 9), True),
        (page(8, 9, epoch="other"), False),
        (page(9), False),
        (page(8, 10), False),
        (page(head=6), False),
        (page(head=8), False),
        (page(8, 9, first=8), True),
        (page(9, 10, first=9), False),
    ],
    ids=["nothing new", "two", "epoch", "gap", "gap inside", "back", "no row", "dropped", "lost"],
)
def test_rows_that_follow_one_another_go_on_from_the_last_one(found: Page, goes_on: bool) -> None:
    assert at(7).is_continued_by(found) is goes_on


def test_a_row_that_names_another_one_before_it_does_not_go_on() -> None:
    forged = Page(
        epoch="e", number=8, first=0, nonce="nonce8", floor=None, rows=(row(8, "another"),)
    )

    assert not at(7).is_continued_by(forged)


def test_only_the_next_row_of_the_same_chain_comes_after_the_last_one() -> None:
    assert at(7).is_before(row(8))
    assert not at(7).is_before(row(9))
    assert not at(7).is_before(row(8, "another"))


def test_rows_may_be_missing_from_the_history_that_is_read_at_the_start() -> None:
    assert at(7, history_to=9).is_continued_by(page(9, 12))
    assert not at(9, history_to=9).is_continued_by(page(11, 12))
    assert not at(7, history_to=9).is_continued_by(page(9, 12, first=9))


def test_a_log_that_does_not_go_on_ends_its_epoch_unless_another_has_begun_or_rows_ended() -> None:
    lost, new, dropped = at(7), at(7), at(7)

    lost.give_up(page(9))
    new.give_up(page(9, epoch="other"))
    dropped.give_up(page(9, first=9))

    assert [each.ending for each in (lost, new, dropped)] == ["e", "", ""]
    assert [each.epoch for each in (lost, new, dropped)] == [None] * 3


def test_a_reading_begins_before_the_oldest_row() -> None:
    position = Position(ending="e")
    position.begin(page(3, 5, first=3))

    assert position == Position(epoch="e", number=2, nonce="nonce2", history_to=5)
    position.advance(row(3))
    assert position == Position(epoch="e", number=3, nonce="nonce3", history_to=5)
