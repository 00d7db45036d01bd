"""Any name can be shown: what would act on the screen is made visible, and cut to its place."""

from __future__ import annotations

from unicodedata import category

import pytest
from drawn_graphs import HOSTILE
from rich.cells import cell_len

from clerk_m2m.cli.graph.drawings.drawn_graph import DrawnGraph
from clerk_m2m.cli.graph.drawings.labels import fitted, padded, visible


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_name_keeps_nothing_that_acts(name: str) -> None:
    shown = visible(name)

    assert shown.isprintable()
    assert not any(category(each) in ("Cc", "Cf", "Cs", "Zl", "Zp") for each in shown)
    assert sum(category(each) in ("Mn", "Me") for each in shown) <= 2
    assert shown.strip()
    assert visible(shown) == shown
    for width in (12, 40):
        assert cell_len(fitted(shown, width)) <= width
        assert cell_len(padded(shown, width)) == width


def test_an_ordinary_name_is_shown_as_it_is() -> None:
    assert [visible(name) for name in ("orders", "søk-2", "注文管理")] == [
        "orders",
        "søk-2",
        "注文管理",
    ]


def test_what_is_not_visible_is_shown_as_an_escape() -> None:
    assert visible("a\x1b[0m\u202eb") == r"a\x1b[0m\u202eb"


def test_a_name_written_from_right_to_left_is_set_apart() -> None:
    assert fitted(HOSTILE["hebrew"], 20) == f"\u2068{HOSTILE['hebrew']}\u2069"


def test_a_long_name_is_cut_in_its_middle() -> None:
    assert fitted("payments-reconciliation-eu-1", 16) == "payments-r…-eu-1"


def test_two_machines_of_one_label_and_an_edge_to_nowhere_are_refused() -> None:
    with pytest.raises(ValueError, match="same label"):
        DrawnGraph(labels=("a\x1b", "a\\x1b"), edges=frozenset())
    with pytest.raises(ValueError, match="not a machine"):
        DrawnGraph(labels=("a",), edges=frozenset({(0, 1)}))
