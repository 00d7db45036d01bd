"""`Position`: whether a page of the log continues from the last row that was applied."""

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
    ("found", "continues"),
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
def test_a_page_continues_the_log_if_no_row_is_missing(found: Page, continues: bool) -> None:
    assert at(7).is_continued_by(found) is continues


def test_a_page_whose_first_row_names_another_predecessor_does_not_continue_the_log() -> None:
    forged = Page(
        epoch="e", number=8, first=0, nonce="nonce8", floor=None, rows=(row(8, "another"),)
    )

    assert not at(7).is_continued_by(forged)


def test_only_the_next_row_of_the_same_chain_follows_the_position() -> None:
    assert at(7).is_before(row(8))
    assert not at(7).is_before(row(9))
    assert not at(7).is_before(row(8, "another"))


def test_rows_may_be_missing_from_the_history_of_the_first_read() -> None:
    assert at(7, history_to=9).is_continued_by(page(9, 12))
    assert not at(9, history_to=9).is_continued_by(page(11, 12))
    assert not at(7, history_to=9).is_continued_by(page(9, 12, first=9))


def test_only_lost_rows_end_the_epoch() -> None:
    gap, behind, new, dropped = at(7), at(7), at(7), at(7)

    gap.give_up(page(9))
    behind.give_up(page(head=6))
    new.give_up(page(9, epoch="other"))
    dropped.give_up(page(9, first=9))

    assert [each.ending for each in (gap, behind, new, dropped)] == ["e", "e", "", ""]
    assert [each.epoch for each in (gap, behind, new, dropped)] == [None] * 4


def test_begin_sets_the_position_before_the_oldest_row() -> None:
    position = Position(ending="e")
    position.begin(page(3, 5, first=3))

    assert position == Position(epoch="e", number=2, nonce="nonce2", history_to=5)
    position.advance(row(3))
    assert position == Position(epoch="e", number=3, nonce="nonce3", history_to=5)
