"""The SVG and Mermaid drawings: complete, fast, and safe for hostile names."""

from __future__ import annotations

import re
from collections import Counter
from xml.etree import ElementTree

import pytest
from drawn_graphs import clusters, dense, graph_of, hostile_graph

from clerk_m2m.cli.graph.drawings.arrangement import arranged
from clerk_m2m.cli.graph.drawings.drawn_graph import DrawnGraph
from clerk_m2m.cli.graph.drawings.labels import fitted
from clerk_m2m.cli.graph.drawings.mermaid import draw_mermaid
from clerk_m2m.cli.graph.drawings.reach import find_reach
from clerk_m2m.cli.graph.drawings.svg_layers import draw_svg_layers, suits_layers
from clerk_m2m.cli.graph.drawings.svg_matrix import draw_svg_matrix

SVG = "{http://www.w3.org/2000/svg}"
ELEMENTS = {"svg", "title", "style", "rect", "text", "tspan", "circle", "path", "g", "defs"}
ELEMENTS |= {"marker"}


def matrix(graph: DrawnGraph) -> str:
    reach = find_reach(graph)
    return draw_svg_matrix(graph, reach, arranged(graph, reach))


def layers(graph: DrawnGraph) -> str:
    return draw_svg_layers(graph, find_reach(graph))


DRAW = pytest.mark.parametrize("draw", [matrix, layers])
ODD = {
    "empty": graph_of({}),
    "one": graph_of({"a": []}),
    "self": graph_of({"a": ["a"]}),
    "cycle": graph_of({"a": ["b"], "b": ["c"], "c": ["a"], "d": []}),
    "two cycles": graph_of({"a": ["b"], "b": ["a", "c"], "c": ["d"], "d": ["c", "d"], "x": ["d"]}),
    "long way": graph_of({"a": ["b", "d"], "b": ["c"], "c": ["d"], "d": []}),
}


def titles(drawing: str) -> list[str]:
    return [each.text or "" for each in ElementTree.fromstring(drawing).iter(f"{SVG}title")]


@DRAW
@pytest.mark.parametrize("graph", ODD.values(), ids=ODD)
def test_any_graph_is_drawn_with_every_edge_and_machine(graph: DrawnGraph, draw: object) -> None:
    assert callable(draw)
    drawing = draw(graph)
    said = Counter(titles(drawing))

    for caller, callee in graph.edges:
        assert said[f"{graph.labels[caller]} may call {graph.labels[callee]}"] == 1
    shown = "".join(ElementTree.fromstring(drawing).itertext())
    assert all(label in shown for label in graph.labels)
    assert "nan" not in drawing
    assert "inf" not in drawing


@DRAW
def test_a_hostile_name_is_escaped_in_the_drawing(draw: object) -> None:
    assert callable(draw)
    graph = hostile_graph()
    drawing = draw(graph)
    root = ElementTree.fromstring(drawing)

    assert drawing.isascii()
    assert {each.tag.removeprefix(SVG) for each in root.iter()} <= ELEMENTS
    attributes = {name for each in root.iter() for name in each.attrib}
    assert not any(name.lower().startswith("on") or "href" in name for name in attributes)
    for each in root.iter():
        text = re.sub("[\u2068\u2069\n]", "", each.text or "")
        assert text.isprintable()
        assert len(text) < 3_000
    assert any("<script>alert(1)</script>" in title for title in titles(drawing)), "as text"


def test_a_matrix_distinguishes_edges_cycles_and_indirect_reach() -> None:
    graph = graph_of({"a": ["b"], "b": ["c"], "c": ["d"], "d": ["c"]})
    root = ElementTree.fromstring(matrix(graph))
    rows = [each for each in root.iter(f"{SVG}g") if each.get("class") == "row"]
    drawn = [
        {
            kind: sum(each.get("class") == kind for each in row.iter())
            for kind in ("direct", "cycle", "others")
        }
        for row in rows
    ]

    assert drawn == [
        {"direct": 1, "cycle": 0, "others": 1},
        {"direct": 1, "cycle": 0, "others": 1},
        {"direct": 0, "cycle": 1, "others": 0},
        {"direct": 0, "cycle": 1, "others": 0},
    ]
    assert titles(matrix(graph))[0] == "Scope graph: 4 machines, 4 edges"
    assert "a may call b; reaches c, d through others; 0 callers" in titles(matrix(graph))


def test_long_chains_and_many_cycles_are_not_drawn_with_arrows() -> None:
    chain = [graph_of({f"m{at}": [f"m{at + 1}"] for at in range(length)}) for length in (7, 8)]

    assert [suits_layers(graph, find_reach(graph)) for graph in chain] == [True, False]
    thicket = dense(16)
    assert len(thicket.edges) > 12
    assert not suits_layers(thicket, find_reach(thicket))
    assert all(suits_layers(graph, find_reach(graph)) for graph in ODD.values())


def test_the_drawing_of_a_graph_is_deterministic() -> None:
    graph = clusters(4, 10)

    assert matrix(graph) == matrix(clusters(4, 10))


def test_mermaid_contains_every_label_as_text_and_every_edge() -> None:
    graph = hostile_graph()
    head, *lines = draw_mermaid(graph).splitlines()
    nodes, edges = lines[: len(graph)], lines[len(graph) :]

    assert head == "flowchart LR"
    for index, line in enumerate(nodes):
        found = re.fullmatch(rf'  m{index}\["((?:[A-Za-z0-9_ -]|#\d+;)+)"\]', line)
        assert found is not None
        text = re.sub(r"#(\d+);", lambda code: chr(int(code[1])), found[1])
        assert text == fitted(graph.labels[index], 60)
    assert edges == [f"  m{index} --> m{index + 1}" for index in range(len(graph) - 1)]
