"""The order of a matrix's rows and columns, so that clusters show as blocks on its diagonal.

1. Groups: each machine joins the group with which it has more edges than chance would give it,
   compared with every other group (the modularity of Newman and Girvan, machine by machine and then
   group by group, as in the method of Louvain). Machines without edges form the last group.
2. Groups stand in the order of their machines' mean level, so that most calls point right.
3. Within a group callers stand before callees (by level); on one level, each machine is followed by
   the one that shares most callees and callers with it.

In a tie the lower index comes first, so the order of a graph is always the same.
"""

from __future__ import annotations

from typing import Final

from clerk_m2m.cli.graph.drawings.drawn_graph import DrawnGraph, members
from clerk_m2m.cli.graph.drawings.reach import Reach

# Each round improves the groups; later rounds improve them only slightly.
_MAX_ROUNDS: Final = 10


def arranged(graph: DrawnGraph, reach: Reach) -> list[list[int]]:
    """Return the groups in order, each with its machines in order."""
    linked = [
        (graph.callees[index] | graph.callers[index]) & ~(1 << index) for index in range(len(graph))
    ]
    alone = [index for index, others in enumerate(linked) if not others]
    groups = [_in_order(graph, reach, group) for group in _groups(linked)]
    groups.sort(key=lambda group: (_mean_level(reach, group), group))
    return [*groups, alone] if alone else groups


def _groups(linked: list[int]) -> list[int]:
    groups = [1 << index for index, others in enumerate(linked) if others]
    groups = _move_machines(linked, groups)
    groups = _join_groups(linked, groups)
    return _move_machines(linked, groups)


def _move_machines(linked: list[int], groups: list[int]) -> list[int]:
    """Move each machine to the group where it has most edges beyond chance, until none improves."""
    groups = list(groups)
    degree = [others.bit_count() for others in linked]
    total = sum(degree)
    for _ in range(_MAX_ROUNDS):
        before = list(groups)
        weight = [sum(degree[index] for index in members(group)) for group in groups]
        for home, group in enumerate(before):
            for index in members(group):
                others, own = linked[index], degree[index]
                groups[home] ^= 1 << index
                weight[home] -= own
                best, most = home, (others & groups[home]).bit_count() * total - own * weight[home]
                for at, candidate in enumerate(groups):
                    if common := others & candidate:
                        gain = common.bit_count() * total - own * weight[at]
                        if gain > most:
                            best, most = at, gain
                groups[best] |= 1 << index
                weight[best] += own
        if groups == before:
            break
        groups = [group for group in groups if group]
    return groups


def _join_groups(linked: list[int], groups: list[int]) -> list[int]:
    """Join the two groups whose modularity gains most, until no join improves it."""
    groups = list(groups)
    total = sum(others.bit_count() for others in linked)
    weight = [sum(linked[index].bit_count() for index in members(group)) for group in groups]
    between = [
        [sum((linked[index] & other).bit_count() for index in members(group)) for other in groups]
        for group in groups
    ]
    while len(groups) > 1:
        gain, first, second = max(
            (between[first][second] * total - weight[first] * weight[second], -first, -second)
            for first in range(len(groups))
            for second in range(first + 1, len(groups))
        )
        if gain <= 0:
            break
        first, second = -first, -second
        groups[first] |= groups.pop(second)
        weight[first] += weight.pop(second)
        row_of_second = between.pop(second)
        between[first] = [a + b for a, b in zip(between[first], row_of_second, strict=True)]
        for row in between:
            row[first] += row.pop(second)
    return groups


def _in_order(graph: DrawnGraph, reach: Reach, group: int) -> list[int]:
    by_level: dict[int, list[int]] = {}
    for index in members(group):
        by_level.setdefault(reach.level[index], []).append(index)
    return [index for level in sorted(by_level) for index in _by_likeness(graph, by_level[level])]


def _by_likeness(graph: DrawnGraph, indexes: list[int]) -> list[int]:
    """Begin with the machine that has most edges; after each, place the most similar one."""

    def edges(index: int) -> int:
        return graph.callees[index].bit_count() + graph.callers[index].bit_count()

    left = sorted(indexes, key=lambda index: -edges(index))
    order = [left.pop(0)]
    while left:
        callees, callers = graph.callees[order[-1]], graph.callers[order[-1]]
        likeness = [
            (graph.callees[index] & callees).bit_count()
            + (graph.callers[index] & callers).bit_count()
            for index in left
        ]
        order.append(left.pop(likeness.index(max(likeness))))
    return order


def _mean_level(reach: Reach, group: list[int]) -> float:
    return sum(reach.level[index] for index in group) / len(group)
