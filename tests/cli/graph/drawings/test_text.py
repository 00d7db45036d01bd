"""The drawings for a terminal: their content and their width."""

from __future__ import annotations

import re

import pytest
from drawn_graphs import HOSTILE, clusters, graph_of, hostile_graph
from rich.cells import cell_len

from clerk_m2m.cli.graph.drawings.arrangement import arranged
from clerk_m2m.cli.graph.drawings.drawn_graph import DrawnGraph
from clerk_m2m.cli.graph.drawings.glyphs import ASCII, UNICODE, Glyphs
from clerk_m2m.cli.graph.drawings.reach import find_reach
from clerk_m2m.cli.graph.drawings.text_matrix import TooWideError, draw_text_matrix
from clerk_m2m.cli.graph.drawings.tree import draw_around, draw_tree


def tree(graph: DrawnGraph, glyphs: Glyphs = UNICODE) -> str:
    return "\n".join(draw_tree(graph, find_reach(graph), glyphs, 80))


def matrix(graph: DrawnGraph, width: int, glyphs: Glyphs = UNICODE) -> list[str]:
    reach = find_reach(graph)
    return draw_text_matrix(graph, reach, arranged(graph, reach), glyphs, width)


SHOP = graph_of(
    {
        "shop": ["orders"],
        "orders": ["stock", "audit"],
        "reports": ["orders", "stock"],
        "stock": [],
        "audit": ["audit"],
        "ping": ["pong"],
        "pong": ["ping"],
        "stranger": [],
    }
)


def test_a_tree_has_each_edge_once_and_marks_machines_drawn_elsewhere() -> None:
    assert (
        tree(SHOP)
        == """\
Scope graph: 8 machines, 8 edges

ping
└── pong
    └── ping ↻
reports
├── orders
│   ├── audit ↻
│   └── stock
└── stock
shop
└── orders *

No edges:
  stranger

* what is below it is drawn once, at its other place
↻ may call itself, or a machine that leads to it"""
    )


def test_a_tree_of_an_empty_graph_and_of_one_machine() -> None:
    assert tree(graph_of({})).rstrip() == "Scope graph: 0 machines, 0 edges"
    assert tree(graph_of({"a": []})) == "Scope graph: 1 machine, 0 edges\n\nNo edges:\n  a"


def test_around_draws_both_directions_up_to_the_depth() -> None:
    lines = draw_around(SHOP, SHOP.labels.index("stock"), 1, ASCII, 80)

    assert (
        "\n".join(lines)
        == """\
Scope graph around stock, depth 1: 3 machines, 3 edges

May call nobody:
stock

May be called by 2 machines:
stock
|-- orders ...
`-- reports

... more is beyond the depth"""
    )


def test_a_long_chain_is_drawn_without_recursion() -> None:
    chain = graph_of({f"m{at:04}": [f"m{at + 1:04}"] for at in range(1_200)})

    assert len(draw_around(chain, 0, 1_200, UNICODE, 80)) > 1_200


def test_a_text_matrix_distinguishes_calls_cycles_and_indirect_reach() -> None:
    assert (
        "\n".join(matrix(SHOP, 100)[:-1])
        == """\
Scope graph: 8 machines, 8 edges

            1 2 3 4 5 6 7 8
1 ping     ┌╲ ●             1
2 pong     └● ╲             2
3 reports  ┌    ╲ ■   ■ ·   3
4 stock    └      ╲         4
5 shop     ┌      · ╲ ■ ·   5
6 orders   │      ■   ╲ ■   6
7 audit    └            ■   7
8 stranger                ╲ 8

■ may call   ● may call, and is reached back: a cycle   · reaches only through others"""
    )


def cells_of(lines: list[str], count: int, halves: int) -> list[list[str]]:
    """Read the drawn cells back: `X` an edge, `.` through others, and blank."""
    meaning = {"■": "X", "●": "X", "·": "."}
    start = next(line for line in lines if line.startswith(" " * (len(str(count)) - 1) + "1 "))
    left = min(start.index(mark) for mark in "┌│" if mark in start) + 1
    rows = []
    for line in [each for each in lines if re.fullmatch(r" *(\d+) \S.* \1", each)]:
        drawn = line[left : left + (count * halves + 1) // 2]
        if halves == 1:
            dots = [ord(each) - 0x2800 if each != " " else 0 for each in drawn]
            found = [(each & mask) for each in dots for mask in (0x47, 0xB8)][:count]
            rows.append([{0x47: "X", 0xB8: "X", 0x02: ".", 0x10: "."}.get(f, " ") for f in found])
        else:
            rows.append([meaning.get(each, " ") for each in drawn[:: halves // 2]])
    return rows


@pytest.mark.parametrize(
    ("graph", "width", "halves"),
    [
        (clusters(2, 10), 80, 4),
        (clusters(6, 10), 72, 1),
        (clusters(6, 10), 100, 2),
        (clusters(10, 20), 200, 1),
        (clusters(10, 20), 240, 2),
    ],
    ids=["20 in 80", "60 in 72", "60 in 100", "200 in 200", "200 in 240"],
)
def test_a_matrix_fits_the_terminal_and_has_every_cell(
    graph: DrawnGraph, width: int, halves: int
) -> None:
    reach = find_reach(graph)
    groups = arranged(graph, reach)
    lines = matrix(graph, width)
    order = [index for group in groups for index in group]

    assert max(map(cell_len, lines)) <= width
    assert cells_of(lines, len(graph), halves) == [
        [
            "X"
            if graph.callees[a] >> b & 1
            else "."
            if a != b and reach.reached[a] >> b & 1
            else " "
            for b in order
        ]
        for a in order
    ]
    assert all(any(label in line for line in lines) for label in graph.labels)


def test_a_matrix_that_does_not_fit_raises_with_the_columns_needed() -> None:
    with pytest.raises(TooWideError) as raised:
        matrix(clusters(10, 20), 80)

    assert raised.value.needed == len(max(matrix(clusters(10, 20), raised.value.needed), key=len))


@pytest.mark.parametrize("glyphs", [UNICODE, ASCII], ids=["unicode", "ascii"])
def test_hostile_names_stay_on_their_line_of_the_terminal(glyphs: Glyphs) -> None:
    graph = hostile_graph()
    drawings = [
        tree(graph, glyphs).splitlines(),
        matrix(graph, 80, glyphs),
        draw_around(graph, len(graph) - 1, 3, glyphs, 80),
    ]

    for lines in drawings:
        for line in lines:
            assert line.replace("\u2068", "").replace("\u2069", "").isprintable()
            assert line.count("\u2068") == line.count("\u2069")
    assert max(map(cell_len, drawings[1])) <= 80
    assert len(drawings[1]) < len(HOSTILE) + 12
