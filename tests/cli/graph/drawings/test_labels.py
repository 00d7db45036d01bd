"""Labels: invisible and hostile characters are escaped, and long labels are shortened."""

from __future__ import annotations

from unicodedata import category

import pytest
from drawn_graphs import HOSTILE
from rich.cells import cell_len

from clerk_m2m.cli.graph.drawings.drawn_graph import DrawnGraph
from clerk_m2m.cli.graph.drawings.labels import fitted, padded, visible


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_name_keeps_no_control_characters(name: str) -> None:
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


def test_invisible_characters_are_shown_as_escapes() -> None:
    assert visible("a\x1b[0m\u202eb") == r"a\x1b[0m\u202eb"


def test_a_right_to_left_name_is_isolated() -> None:
    assert fitted(HOSTILE["hebrew"], 20) == f"\u2068{HOSTILE['hebrew']}\u2069"


def test_a_long_name_is_shortened_in_its_middle() -> None:
    assert fitted("payments-reconciliation-eu-1", 16) == "payments-r…-eu-1"


def test_duplicate_labels_and_edges_to_unknown_machines_are_rejected() -> None:
    with pytest.raises(ValueError, match="same label"):
        DrawnGraph(labels=("a\x1b", "a\\x1b"), edges=frozenset())
    with pytest.raises(ValueError, match="not a machine"):
        DrawnGraph(labels=("a",), edges=frozenset({(0, 1)}))
