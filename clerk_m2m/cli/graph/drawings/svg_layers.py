"""A small graph as SVG: boxes in columns by level, and an arrow for each edge.

An arrow over several columns has its own place in each, so it does not cross boxes. The order
within a column is found by the method of Sugiyama, Tagawa and Toda: in each sweep, each box is
moved near the mean of its neighbours, so that few arrows cross.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from clerk_m2m.cli.graph.drawings.drawn_graph import DrawnGraph
from clerk_m2m.cli.graph.drawings.reach import Reach
from clerk_m2m.cli.graph.drawings.svg_parts import MARGIN, MONO, page, text, width_of

MAX_LABEL: Final = 30
_FONT: Final = 13
_BOX: Final = 32  # height
_STEP: Final = 52  # from box to box
_PASSING: Final = 26  # the height for an arrow that passes a column
_GAP: Final = 84  # between columns
_HEAD: Final = 78
_SMALL_ADVANCE: Final = 7.0  # the width of a character of the counts, about
_SWEEPS: Final = 8
_MAX_BACK: Final = 12
_MAX_COLUMNS: Final = 8


@dataclass(slots=True)
class _Spot:
    """A place in a column: a box, or where an arrow passes (`index` is None)."""

    level: int
    index: int | None
    before: list[_Spot] = field(default_factory=list)
    after: list[_Spot] = field(default_factory=list)
    x: float = 0
    y: float = 0
    width: float = 0


def suits_layers(graph: DrawnGraph, reach: Reach) -> bool:
    """Return whether a small graph is readable in layers: few arrows in cycles, no long chain."""
    back = sum(_in_cycles(graph, reach))
    return back <= _MAX_BACK and max(reach.level, default=0) < _MAX_COLUMNS


def draw_svg_layers(graph: DrawnGraph, reach: Reach) -> str:
    """Draw boxes and arrows; a box has a tooltip with the machines that it reaches."""
    linked = [index for index in range(len(graph)) if graph.callees[index] | graph.callers[index]]
    alone = [index for index in range(len(graph)) if index not in linked]
    boxes = {index: _Spot(reach.level[index], index) for index in linked}
    routes = [
        (caller, callee, _route(boxes[caller], boxes[callee]))
        for caller, callee in sorted(graph.edges)
        if reach.level[callee] > reach.level[caller]
    ]
    columns = _columns(boxes, [route for _, _, route in routes])
    _untangle(columns)
    width, height = _place(graph, columns)
    counts = _counts(graph, reach)
    width = max(width, 2 * MARGIN + len(counts) * _SMALL_ADVANCE)
    apart = {index: _Spot(0, index) for index in alone}
    bottom = _place_alone(graph, apart, width, height)
    parts = ["<defs>", *_arrowheads(), "</defs>\n"]
    parts += [_arrow(graph, caller, callee, _along(route)) for caller, callee, route in routes]
    parts += [
        _arrow(graph, caller, callee, _beside(boxes[caller], boxes[callee]), back=caller != callee)
        for caller, callee in sorted(graph.edges)
        if reach.level[callee] <= reach.level[caller]
    ]
    parts += [_box(graph, reach, spot) for spot in [*boxes.values(), *apart.values()]]
    if alone:
        parts.append(
            f'<text class="faint" x="{MARGIN}" y="{height + 24}" font-size="12">No edges</text>\n'
        )
    return page(width, bottom + MARGIN, graph.title, counts, parts)


def _counts(graph: DrawnGraph, reach: Reach) -> str:
    if not graph.edges:
        return graph.counts
    cycles = ", and an orange one is part of a cycle" if any(_in_cycles(graph, reach)) else ""
    return f"{graph.counts}. An arrow points to the callee{cycles}."


def _in_cycles(graph: DrawnGraph, reach: Reach) -> Iterator[bool]:
    return (a != b and bool(reach.cycle[a] >> b & 1) for a, b in graph.edges)


def _route(caller: _Spot, callee: _Spot) -> list[_Spot]:
    route = [caller, *(_Spot(level, None) for level in range(caller.level + 1, callee.level))]
    route.append(callee)
    for left, right in pairwise(route):
        left.after.append(right)
        right.before.append(left)
    return route


def _columns(boxes: dict[int, _Spot], routes: list[list[_Spot]]) -> list[list[_Spot]]:
    columns: list[list[_Spot]] = [
        [] for _ in range(max((spot.level for spot in boxes.values()), default=-1) + 1)
    ]
    for spot in [*boxes.values(), *(spot for route in routes for spot in route[1:-1])]:
        columns[spot.level].append(spot)
    return columns


def _untangle(columns: list[list[_Spot]]) -> None:
    for column in columns:
        _number(column)
    for sweep in range(_SWEEPS):
        rightwards = sweep % 2 == 0
        for column in columns if rightwards else reversed(columns):
            column.sort(key=lambda spot: _mean(spot, spot.before if rightwards else spot.after))
            _number(column)


def _number(column: list[_Spot]) -> None:
    """Number the places of a column as parts of its length, to compare columns of any length."""
    for at, spot in enumerate(column):
        spot.y = (at + 0.5) / len(column)


def _mean(spot: _Spot, neighbours: list[_Spot]) -> float:
    return sum(each.y for each in neighbours) / len(neighbours) if neighbours else spot.y


def _place(graph: DrawnGraph, columns: list[list[_Spot]]) -> tuple[float, float]:
    """Set the pixel position of every spot; return the total width and height."""
    heights = [sum(map(_height, column)) for column in columns]
    tallest, x = max(heights, default=0), float(MARGIN)
    for column, height in zip(columns, heights, strict=True):
        widest = max((_box_width(graph, spot.index) for spot in column), default=0)
        y = _HEAD + (tallest - height) / 2
        for spot in column:
            spot.x, spot.width = x, widest
            spot.y = y + _height(spot) / 2
            y += _height(spot)
        x += widest + _GAP
    return x - _GAP + MARGIN + 14 if columns else 0, _HEAD + tallest


def _height(spot: _Spot) -> int:
    return _PASSING if spot.index is None else _STEP


def _box_width(graph: DrawnGraph, index: int | None) -> float:
    return 0 if index is None else width_of(graph.labels[index], _FONT, MAX_LABEL) + 28


def _place_alone(graph: DrawnGraph, spots: dict[int, _Spot], width: float, top: float) -> float:
    """Place the boxes without edges in lines below the others; return the lower end."""
    x, y = float(MARGIN), top + 52
    for index, spot in spots.items():
        spot.width = _box_width(graph, index)
        if x > MARGIN and x + spot.width > width - MARGIN:
            x, y = float(MARGIN), y + _BOX + 10
        spot.x, spot.y = x, y
        x += spot.width + 12
    return y + _BOX / 2 if spots else top


def _arrowheads() -> list[str]:
    return [
        f'<marker id="{name}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" '
        f'markerHeight="8" markerUnits="userSpaceOnUse" orient="auto">'
        f'<path class="{fill}" d="M0 .8L10 5L0 9.2z"/></marker>'
        for name, fill in (("head", "direct"), ("head-back", "cycle"))
    ]


def _along(route: list[_Spot]) -> str:
    first = route[0]
    drawn = f"M{first.x + first.width:.1f} {first.y:.1f}"
    for left, right in pairwise(route):
        if left.index is None:
            drawn += f"H{left.x + left.width:.1f}"
        start = left.x + left.width
        bend = (right.x - start) / 2
        drawn += (
            f"C{start + bend:.1f} {left.y:.1f} {right.x - bend:.1f} {right.y:.1f} "
            f"{right.x - (right.index is not None):.1f} {right.y:.1f}"
        )
    return drawn


def _beside(caller: _Spot, callee: _Spot) -> str:
    """Draw an arrow within a column: downwards at the right of the boxes, upwards at the left."""
    if caller is callee:
        x, y = caller.x + caller.width - 18, caller.y - _BOX / 2
        return f"M{x:.1f} {y:.1f}c0 -16 26 -10 18.5 12"
    down = callee.y > caller.y
    x = caller.x + caller.width if down else caller.x
    bulge = (24 + abs(callee.y - caller.y) / 6) * (1 if down else -1)
    start, end = (caller.y + 7, callee.y - 7) if down else (caller.y - 7, callee.y + 7)
    return (
        f"M{x:.1f} {start:.1f}C{x + bulge:.1f} {start:.1f} "
        f"{x + bulge:.1f} {end:.1f} {x + (1 if down else -1):.1f} {end:.1f}"
    )


def _arrow(graph: DrawnGraph, caller: int, callee: int, path: str, *, back: bool = False) -> str:
    kind, head = ("call-back", "head-back") if back else ("call", "head")
    names = [text(graph.labels[index], 60) for index in (caller, callee)]
    return (
        f'<path class="{kind}" stroke-width="1.6" marker-end="url(#{head})" d="{path}">'
        f"<title>{names[0]} may call {names[1]}</title></path>\n"
    )


def _box(graph: DrawnGraph, reach: Reach, spot: _Spot) -> str:
    index = spot.index
    if index is None:
        return ""
    width = spot.width
    return (
        f"<g><title>{text(reach.sentence(graph, index), 2000)}</title>"
        f'<rect class="box" x="{spot.x:.1f}" y="{spot.y - _BOX / 2:.1f}" width="{width:.1f}" '
        f'height="{_BOX}" rx="6"/>'
        f'<text class="text" x="{spot.x + width / 2:.1f}" y="{spot.y + 4.5:.1f}" '
        f'text-anchor="middle" font-family="{MONO}" font-size="{_FONT}">'
        f"{text(graph.labels[index], MAX_LABEL)}</text></g>\n"
    )
