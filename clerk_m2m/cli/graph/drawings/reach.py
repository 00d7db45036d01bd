"""Which machines a machine reaches: over one edge, or through other machines."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Final

from clerk_m2m.cli.graph.drawings.drawn_graph import DrawnGraph, closure, members
from clerk_m2m.cli.graph.drawings.labels import counted, fitted

_MAX_NAMED: Final = 12


@dataclass(frozen=True, slots=True)
class Reach:
    """The machines that are reached over edges. Sets of indexes are bits of an integer.

    `reached[i]` are the machines that `i` reaches over one or more edges; it contains `i` only if
    `i` is in a cycle. `cycle[i]` are the machines of the same cycle, 0 if there is none. `level[i]`
    is the length of the longest chain of calls to `i` from a machine without callers; all machines
    of a cycle have the same level.
    """

    reached: tuple[int, ...]
    cycle: tuple[int, ...]
    level: tuple[int, ...]

    def through_others(self, graph: DrawnGraph, index: int) -> int:
        """Return the machines that `index` reaches only through others."""
        return self.reached[index] & ~graph.callees[index] & ~(1 << index)

    def sentence(self, graph: DrawnGraph, index: int) -> str:
        """Return a sentence with a machine's callees, indirect callees and number of callers."""
        calls = f"may call {named(graph, graph.callees[index])}"
        beyond = self.through_others(graph, index)
        reaches = f"; reaches {named(graph, beyond)} through others" if beyond else ""
        callers = counted(graph.callers[index].bit_count(), "caller")
        return f"{graph.labels[index]} {calls}{reaches}; {callers}"


def named(graph: DrawnGraph, indexes: int) -> str:
    """Return the names of a set of machines; after twelve names, the number of the others."""
    shown = ", ".join(
        fitted(graph.labels[index], 60) for index in islice(members(indexes), _MAX_NAMED)
    )
    more = indexes.bit_count() - _MAX_NAMED
    return f"{shown} and {more} more" if more > 0 else shown or "nobody"


def find_reach(graph: DrawnGraph) -> Reach:
    """Compute the reach of all machines."""
    reached, cycle = [0] * len(graph), [0] * len(graph)
    for index in range(len(graph)):
        if cycle[index]:
            continue  # already found, with the others of its cycle
        further = reached[index] = closure(graph.callees, graph.callees[index])
        if further >> index & 1:
            together = further & closure(graph.callers, graph.callers[index])
            for other in members(together):
                reached[other], cycle[other] = further, together
    return Reach(tuple(reached), tuple(cycle), tuple(_levels(graph, reached, cycle)))


def _levels(graph: DrawnGraph, reached: list[int], cycle: list[int]) -> list[int]:
    level = [0] * len(graph)
    # A machine that reaches another, and is not reached by it, reaches more machines than that one.
    order = sorted(range(len(graph)), key=lambda index: -(reached[index] | 1 << index).bit_count())
    levelled = 0
    for index in order:
        if cycle[index] & ~levelled:  # the first of its cycle; all callers of the cycle came before
            highest = max(level[other] for other in members(cycle[index]))
            for other in members(cycle[index]):
                level[other] = highest
            levelled |= cycle[index]
        for callee in members(graph.callees[index] & ~cycle[index] & ~(1 << index)):
            level[callee] = max(level[callee], level[index] + 1)
    return level
