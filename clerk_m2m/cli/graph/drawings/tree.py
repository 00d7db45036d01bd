"""A graph as a tree of text lines: below each machine, the machines that it may call.

A machine with several callers is drawn with its callees only once, at the place nearest to the top,
and marked at the other places. So the tree has one line per edge, not one per path.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from clerk_m2m.cli.graph.drawings.drawn_graph import DrawnGraph, members, union
from clerk_m2m.cli.graph.drawings.glyphs import Glyphs
from clerk_m2m.cli.graph.drawings.labels import counted, fitted
from clerk_m2m.cli.graph.drawings.reach import Reach


def draw_tree(graph: DrawnGraph, reach: Reach, glyphs: Glyphs, width: int) -> list[str]:
    """Draw all machines, beginning with those that no other machine may call."""
    roots = list(_roots(graph, reach))
    tree = _Tree(graph, graph.callees, glyphs, width, roots)
    lines = [graph.headline(width), ""]
    for root in roots:
        if graph.callees[root] or graph.callers[root]:
            lines += tree.whole(root)
    alone = [index for index in roots if not graph.callees[index] | graph.callers[index]]
    if alone:
        lines += ["", "No edges:"] if len(alone) < len(graph) else ["No edges:"]
        lines += [f"  {tree.label(index)}" for index in alone]
    return [*lines, *tree.legend()]


def draw_around(
    graph: DrawnGraph, center: int, depth: int, glyphs: Glyphs, width: int
) -> list[str]:
    """Draw the machines that one machine reaches, or that reach it, over at most `depth` edges."""
    part = graph.around(center, depth)
    lines = [part.headline(width)]
    legend: dict[str, None] = {}
    for neighbours, heading in ((graph.callees, "May call"), (graph.callers, "May be called by")):
        tree = _Tree(graph, neighbours, glyphs, width, [center], depth)
        count = neighbours[center].bit_count()
        found = counted(count, "machine") if count else "nobody"
        lines += ["", f"{heading} {found}:", *tree.whole(center)]
        legend |= dict.fromkeys(tree.legend())
    return [*lines, *legend]


def _roots(graph: DrawnGraph, reach: Reach) -> Iterator[int]:
    """Return machines from which all others are reached, in the order of their labels."""
    seen = 0
    for index in sorted(range(len(graph)), key=lambda index: graph.labels[index].casefold()):
        callers = graph.callers[index] & ~(1 << index)
        # For a cycle without callers from outside, its first machine is the root.
        from_outside = union(graph.callers[each] for each in members(reach.cycle[index]))
        first = not seen & reach.cycle[index] and not from_outside & ~reach.cycle[index]
        if not callers or (reach.cycle[index] and first):
            seen |= reach.cycle[index]
            yield index


@dataclass(slots=True)
class _Tree:
    graph: DrawnGraph
    neighbours: tuple[int, ...]
    glyphs: Glyphs
    width: int
    roots: Sequence[int]
    most: int | None = None
    _depth: dict[int, int] = field(default_factory=dict)
    _used: set[str] = field(default_factory=set)
    _drawn: int = 0

    def __post_init__(self) -> None:
        found, frontier, depth = 0, union(1 << root for root in self.roots), 0
        while frontier:
            self._depth |= dict.fromkeys(members(frontier), depth)
            found |= frontier
            frontier = union(self.neighbours[index] for index in members(frontier)) & ~found
            depth += 1

    def label(self, index: int, mark: str = "", prefix: str = "") -> str:
        """Return a line, cut to the width."""
        room = max(self.width - len(prefix) - len(mark) - 1, 12)
        return f"{prefix}{fitted(self.graph.labels[index], room)}{mark and ' ' + mark}"

    def whole(self, root: int) -> Iterator[str]:
        """Draw a root and what is below it, depth first; a stack, because a chain can be long."""
        yield self.label(root, self._own_mark(root))
        self._drawn |= 1 << root
        stack = [self._children(root, "", 1 << root)]
        while stack:
            entry = next(stack[-1], None)
            if entry is None:
                stack.pop()
                continue
            index, branch, prefix, path = entry
            mark = self._mark(index, len(stack), path)
            itself = self._own_mark(index)
            yield self.label(index, mark or itself, branch)
            if not mark:
                self._drawn |= 1 << index
                stack.append(self._children(index, prefix, path | 1 << index))

    def _children(self, index: int, prefix: str, path: int) -> Iterator[tuple[int, str, str, int]]:
        labels = self.graph.labels
        # An edge to itself is a mark beside the machine.
        children = sorted(
            members(self.neighbours[index] & ~(1 << index)),
            key=lambda child: labels[child].casefold(),
        )
        for child in children:
            last = child == children[-1]
            branch = self.glyphs.last_branch if last else self.glyphs.branch
            trunk = "    " if last else self.glyphs.trunk
            yield child, prefix + branch, prefix + trunk, path

    def _own_mark(self, index: int) -> str:
        mark = self.glyphs.back if self.neighbours[index] >> index & 1 else ""
        self._used.add(mark)
        return mark

    def _mark(self, index: int, depth: int, path: int) -> str:
        further = self.neighbours[index] & ~(1 << index)
        if path >> index & 1:
            mark = self.glyphs.back
        elif further and (self._drawn >> index & 1 or depth > self._depth[index]):
            mark = self.glyphs.elsewhere
        elif further and depth == self.most:
            mark = self.glyphs.more
        else:
            mark = ""
        self._used.add(mark)
        return mark

    def legend(self) -> Iterable[str]:
        """Explain the marks that were used."""
        meanings = {
            self.glyphs.elsewhere: "what is below it is drawn once, at its other place",
            self.glyphs.back: "may call itself, or a machine that leads to it",
            self.glyphs.more: "more is beyond the depth",
        }
        lines = [f"{mark} {text}" for mark, text in meanings.items() if mark in self._used]
        return ["", *lines] if lines else []
