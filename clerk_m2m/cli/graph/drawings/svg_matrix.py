"""An adjacency matrix as SVG: a row calls a column, and clusters are blocks on the diagonal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from clerk_m2m.cli.graph.drawings.drawn_graph import DrawnGraph
from clerk_m2m.cli.graph.drawings.reach import Reach, named
from clerk_m2m.cli.graph.drawings.svg_parts import ADVANCE, MARGIN, MONO, page, text, width_of

MAX_LABEL: Final = 36
_HEAD: Final = 104  # title, counts and legend
_FOOT: Final = 48
_LEAST_WIDTH: Final = 620


@dataclass(frozen=True, slots=True)
class _Place:
    """Where cells and labels are, in pixels; `order` are the machines of rows and columns."""

    order: list[int]
    names: list[str]  # of all machines, escaped
    cell: int
    font: float
    left: int
    top: int

    @property
    def digits(self) -> int:
        return len(str(len(self.order)))

    @property
    def side(self) -> int:
        return len(self.order) * self.cell


def draw_svg_matrix(graph: DrawnGraph, reach: Reach, groups: list[list[int]]) -> str:
    """Draw the matrix; rows, cells and column labels have tooltips that explain them."""
    order = [index for group in groups for index in group]
    cell = 22 if len(order) <= 30 else 15 if len(order) <= 90 else 11
    font = min(13.0, cell - 1.5)
    widest = max((width_of(label, font, MAX_LABEL) for label in graph.labels), default=0)
    numbers = len(str(len(order))) * font * ADVANCE + 8
    names = [text(label, 60) for label in graph.labels]
    left, top = round(MARGIN + widest + numbers + 8), round(_HEAD + widest + numbers + 10)
    place = _Place(order, names, cell, font, left, top)
    right = place.left + place.side + numbers + MARGIN
    parts = [
        *_legend(),
        *_grid(graph, place, groups),
        *_columns(graph, place),
        *(_row(graph, reach, place, at) for at in range(len(order))),
        _frames(graph, place, groups),
        _foot(place.top + place.side + 30),
    ]
    height = place.top + place.side + _FOOT
    return page(max(right, _LEAST_WIDTH), height, graph.title, graph.counts, parts)


def _legend() -> list[str]:
    y = 80
    return [
        f'<rect class="direct" x="{MARGIN}" y="{y - 10}" width="11" height="11" rx="2"/>',
        _legend_text(MARGIN + 18, y, "may call"),
        f'<circle class="cycle" cx="{MARGIN + 102}" cy="{y - 4.5}" r="5.5"/>',
        _legend_text(MARGIN + 115, y, "may call, and is reached back: a cycle"),
        f'<circle class="dot" cx="{MARGIN + 378}" cy="{y - 4.5}" r="2.5"/>',
        _legend_text(MARGIN + 388, y, "reaches only through others"),
        "\n",
    ]


def _legend_text(x: float, y: float, words: str) -> str:
    return f'<text class="text" x="{x}" y="{y}" font-size="13">{words}</text>'


def _foot(y: float) -> str:
    words = (
        "A row may call a column. Frames: machines that call one another most; callers come first."
    )
    return f'<text class="faint" x="{MARGIN}" y="{y:g}" font-size="12">{words}</text>\n'


def _grid(graph: DrawnGraph, place: _Place, groups: list[list[int]]) -> list[str]:
    """Draw the groups' blocks, a line between cells, and the diagonal."""
    blocks = [
        f'<rect class="group" x="{place.left + start:g}" y="{place.top + start:g}" '
        f'width="{size}" height="{size}"/>'
        for start, size in _blocks(graph, place, groups)
    ]
    lines = "".join(
        f"M{place.left:g} {place.top + step:g}h{place.side}"
        f"M{place.left + step:g} {place.top:g}v{place.side}"
        for step in range(0, place.side + 1, place.cell)
    )
    diagonal = f"M{place.left:g} {place.top:g}l{place.side} {place.side}"
    return [*blocks, f'<path class="line" d="{lines}"/><path class="itself" d="{diagonal}"/>\n']


def _frames(graph: DrawnGraph, place: _Place, groups: list[list[int]]) -> str:
    lines = "".join(
        f"M{place.left + start:g} {place.top + start:g}h{size}v{size}h-{size}z"
        for start, size in _blocks(graph, place, groups)
    )
    return f'<path class="frame" stroke-width="1.5" d="{lines}"/>\n'


def _blocks(graph: DrawnGraph, place: _Place, groups: list[list[int]]) -> Iterator[tuple[int, int]]:
    """Return start and size of each group's block on the diagonal, for groups with edges."""
    start = 0
    for group in groups:
        size = len(group) * place.cell
        if any(graph.callees[index] | graph.callers[index] for index in group):
            yield start, size
        start += size


def _columns(graph: DrawnGraph, place: _Place) -> list[str]:
    shown = []
    for at, index in enumerate(place.order):
        x = place.left + (at + 0.5) * place.cell + place.font * 0.35
        label = graph.labels[index]
        by = f"{named(graph, graph.callers[index])} may call it"
        shown.append(
            f'<text transform="translate({x:.1f} {place.top - 7:.1f}) rotate(-90)">'
            f"<title>{text(label)}: {text(by, 1000)}</title>"
            f'<tspan class="faint">{at + 1:>{place.digits}}</tspan> {text(label, MAX_LABEL)}</text>'
        )
    font = f'font-family="{MONO}" font-size="{place.font:g}"'
    return [f'<g class="text label" {font}>', *shown, "</g>\n"]


def _row(graph: DrawnGraph, reach: Reach, place: _Place, at: int) -> str:
    index = place.order[at]
    y = place.top + at * place.cell
    base = y + place.cell / 2 + place.font * 0.35
    label, font = graph.labels[index], f'font-family="{MONO}" font-size="{place.font:g}"'
    beyond = reach.through_others(graph, index)
    return "".join(
        [
            f'<g class="row"><title>{text(reach.sentence(graph, index), 2000)}</title>',
            f'<rect class="band" x="{MARGIN}" y="{y:g}" '
            f'width="{place.left - MARGIN + place.side:g}" height="{place.cell}"/>',
            f'<text class="text label" x="{place.left - 8:.1f}" y="{base:.1f}" text-anchor="end" '
            f"{font}>{text(label, MAX_LABEL)} "
            f'<tspan class="faint">{at + 1:>{place.digits}}</tspan></text>',
            f'<text class="faint" x="{place.left + place.side + 7:.1f}" y="{base:.1f}" {font}>'
            f"{at + 1}</text>",
            _dots(place, y, beyond),
            *_edges(graph, reach, place, at),
            "</g>\n",
        ]
    )


def _dots(place: _Place, y: float, beyond: int) -> str:
    """Draw a dot in each cell; adjacent cells share one dashed line, whose dashes are the dots."""
    runs, start, cell = [], None, place.cell
    for at, index in enumerate([*place.order, None]):
        within = index is not None and beyond >> index & 1
        if within and start is None:
            start = at
        elif not within and start is not None:
            x = place.left + (start + 0.5) * cell
            runs.append(f"M{x} {y + cell / 2:g}h{(at - start - 1) * cell}")
            start = None
    if not runs:
        return ""
    dot = max(3, cell / 4)
    return (
        f'<path class="others" stroke-width="{dot:g}" stroke-linecap="round" '
        f'stroke-dasharray="0 {cell}" d="{"".join(runs)}"/>'
    )


def _edges(graph: DrawnGraph, reach: Reach, place: _Place, at: int) -> list[str]:
    caller = place.order[at]
    callees, cycle = graph.callees[caller], reach.cycle[caller] & ~(1 << caller)
    inset = 1.5 if place.cell < 15 else 2.5
    size = place.cell - 2 * inset
    y = place.top + at * place.cell + inset
    square, disc = (
        f'<rect class="{kind}" y="{y:g}" width="{size:g}" height="{size:g}" rx="{corner:g}" x="'
        for kind, corner in (("direct", 2), ("cycle", size / 2))
    )
    title = f'"><title>{place.names[caller]} may call '
    left = place.left + inset
    return [
        f"{disc if cycle >> callee & 1 else square}{left + column * place.cell}{title}"
        f"{place.names[callee]}</title></rect>"
        for column, callee in enumerate(place.order)
        if callees >> callee & 1
    ]
