"""The value that is drawn: labels, and edges as pairs of their indexes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from clerk_m2m.cli.graph.drawings.labels import counted, fitted, visible


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnGraph:
    """A scope graph to be drawn; an edge `(caller, callee)` is a pair of indexes into `labels`.

    Labels are made printable. Raises `ValueError` if two are then equal, or an edge has an end that
    is not an index. `callees` and `callers` are sets of indexes, stored as the bits of an integer,
    because the drawings compare thousands of them.
    """

    labels: tuple[str, ...]
    edges: frozenset[tuple[int, int]]
    title: str = "Scope graph"
    callees: tuple[int, ...] = field(init=False, repr=False)
    callers: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        labels = tuple(map(visible, self.labels))
        if len(set(labels)) != len(labels):
            raise ValueError("Two machines of the drawing have the same label.")
        callees, callers = [0] * len(labels), [0] * len(labels)
        for caller, callee in self.edges:
            if not (0 <= caller < len(labels) and 0 <= callee < len(labels)):
                raise ValueError(f"The edge {(caller, callee)} has an end that is not a machine.")
            callees[caller] |= 1 << callee
            callers[callee] |= 1 << caller
        object.__setattr__(self, "title", visible(self.title))
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "callees", tuple(callees))
        object.__setattr__(self, "callers", tuple(callers))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def counts(self) -> str:
        """The counts: `5 machines, 4 edges`."""
        return f"{counted(len(self), 'machine')}, {counted(len(self.edges), 'edge')}"

    def headline(self, width: int) -> str:
        """Return the title and the counts as a line of at most `width` columns."""
        return f"{fitted(self.title, max(width - len(self.counts) - 2, 12))}: {self.counts}"

    def around(self, center: int, depth: int) -> DrawnGraph:
        """Return the machines that call `center` or are called by it over at most `depth` edges.

        With all edges between them.
        """
        start = 1 << center
        kept = closure(self.callees, start, depth) | closure(self.callers, start, depth)
        indexes = list(members(kept))
        place = {index: at for at, index in enumerate(indexes)}
        return DrawnGraph(
            labels=tuple(self.labels[index] for index in indexes),
            edges=frozenset(
                (place[caller], place[callee])
                for caller, callee in self.edges
                if caller in place and callee in place
            ),
            title=f"{self.title} around {self.labels[center]}, depth {depth}",
        )


def closure(neighbours: tuple[int, ...], start: int, depth: int | None = None) -> int:
    """Return `start` with all machines that it reaches, over at most `depth` edges or any."""
    found = frontier = start
    while frontier and depth != 0:
        frontier = union(neighbours[index] for index in members(frontier)) & ~found
        found |= frontier
        depth = None if depth is None else depth - 1
    return found


def members(bits: int) -> Iterator[int]:
    """Iterate over a set of indexes, lowest first."""
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


def union(sets: Iterable[int]) -> int:
    """Return the union of the sets."""
    found = 0
    for each in sets:
        found |= each
    return found
