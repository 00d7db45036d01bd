"""Which machines reach which, and the order of machines in which clusters are visible."""

from __future__ import annotations

import pytest
from drawn_graphs import clusters, dense, graph_of

from clerk_m2m.cli.graph.drawings.arrangement import arranged
from clerk_m2m.cli.graph.drawings.drawn_graph import DrawnGraph, members
from clerk_m2m.cli.graph.drawings.reach import find_reach


def walked(graph: DrawnGraph, start: int) -> set[int]:
    """Compute the reach by following the edges one by one."""
    found: set[int] = set()
    waiting = [start]
    while waiting:
        caller = waiting.pop()
        callees = {callee for a, callee in graph.edges if a == caller}
        waiting += callees - found
        found |= callees
    return found


CYCLIC = graph_of(
    {"web": ["a"], "a": ["b"], "b": ["c"], "c": ["a", "db"], "self": ["self"], "alone": []}
)


@pytest.mark.parametrize("graph", [CYCLIC, clusters(3, 8), dense(20)], ids=["cyclic", "3x8", "20"])
def test_reach_equals_a_walk_along_the_edges(graph: DrawnGraph) -> None:
    reach = find_reach(graph)
    all_walked = [walked(graph, index) for index in range(len(graph))]

    for index, found in enumerate(all_walked):
        together = {other for other in found if index in all_walked[other]}
        assert set(members(reach.reached[index])) == found
        assert set(members(reach.cycle[index])) == together
        for callee in members(graph.callees[index]):
            if callee in together:
                assert reach.level[callee] == reach.level[index]
            else:
                assert reach.level[callee] > reach.level[index]


def test_the_level_is_the_longest_path_from_a_machine_without_callers() -> None:
    graph = graph_of({"web": ["api", "db"], "api": ["db"], "db": [], "job": ["db"]})
    levels = dict(zip(graph.labels, find_reach(graph).level, strict=True))

    assert levels == {"web": 0, "api": 1, "db": 2, "job": 0}


def test_each_cluster_is_a_group_with_its_callers_first() -> None:
    graph = clusters(6, 10)
    reach = find_reach(graph)
    groups = arranged(graph, reach)

    assert sorted(index for group in groups for index in group) == list(range(60))
    teams = [{graph.labels[index].partition("-")[0] for index in group} for group in groups]
    assert sorted(teams, key=min) == [{f"team{number}"} for number in range(6)]
    for group in groups:
        levels = [reach.level[index] for index in group]
        assert levels == sorted(levels)


def test_machines_without_edges_come_last_and_self_edges_are_ignored() -> None:
    groups = arranged(CYCLIC, find_reach(CYCLIC))

    assert [CYCLIC.labels[index] for index in groups[-1]] == ["alone", "self"]


def test_an_empty_graph_has_no_groups() -> None:
    empty = graph_of({})

    assert arranged(empty, find_reach(empty)) == []


def test_around_selects_callers_and_callees_up_to_the_depth() -> None:
    chain = graph_of({"a": ["b"], "b": ["c"], "c": ["d"], "d": ["e"], "x": ["d"]})

    assert chain.around(chain.labels.index("c"), 1).labels == ("b", "c", "d")
    assert chain.around(chain.labels.index("c"), 2).labels == ("a", "b", "c", "d", "e")
    near = chain.around(chain.labels.index("d"), 1)
    assert (near.labels, near.counts) == (("c", "d", "e", "x"), "4 machines, 3 edges")
    assert near.title == "Scope graph around d, depth 1"
