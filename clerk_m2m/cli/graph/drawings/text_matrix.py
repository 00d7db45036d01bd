"""An adjacency matrix for a terminal: a row calls a column.

A cell takes two characters, or one, or half of one (a Braille pattern holds two cells), whatever
the width allows.
"""

from __future__ import annotations

from textwrap import wrap
from typing import Final

from rich.cells import cell_len

from clerk_m2m.cli.graph.drawings.drawn_graph import DrawnGraph
from clerk_m2m.cli.graph.drawings.glyphs import Glyphs
from clerk_m2m.cli.graph.drawings.labels import padded
from clerk_m2m.cli.graph.drawings.reach import Reach

MAX_LABEL: Final = 40
# A shorter label would not identify the machine.
_LEAST_LABEL: Final = 14
# Unicode Standard, Braille Patterns: the left dots are 1 2 3 7, the right ones 4 5 6 8.
_BRAILLE: Final = 0x2800
_LEFT_BAR, _LEFT_DOT, _RIGHT_BAR, _RIGHT_DOT = 0x47, 0x02, 0xB8, 0x10


_MEANING: Final = (
    "A row may call a column. Brackets: machines that call one another most; callers come first."
)


class TooWideError(ValueError):
    """The matrix does not fit; `needed` is the least number of columns."""

    def __init__(self, needed: int) -> None:
        super().__init__(f"The matrix needs {needed} columns.")
        self.needed = needed


def draw_text_matrix(
    graph: DrawnGraph, reach: Reach, groups: list[list[int]], glyphs: Glyphs, width: int
) -> list[str]:
    """Draw the matrix in at most `width` columns; raises `TooWideError` if it does not fit."""
    order = [index for group in groups for index in group]
    halves, label_width = _fit(graph, glyphs, width)
    digits = len(str(len(order)))
    margin = " " * (digits + 1 + label_width + 2)
    lines = [graph.headline(width), ""]
    lines += [f"{margin}{line}".rstrip() for line in _numbers(len(order), halves)]
    brackets = [mark for group in groups for mark in _bracket(graph, group, glyphs)]
    for number, (index, bracket) in enumerate(zip(order, brackets, strict=True), 1):
        states = [_state(graph, reach, index, other) for other in order]
        label = padded(graph.labels[index], label_width)
        cells = _cells(states, halves, glyphs)
        lines.append(f"{number:>{digits}} {label} {bracket}{cells} {number}")
    return [*lines, "", *_legend(halves, glyphs, width)]


def _fit(graph: DrawnGraph, glyphs: Glyphs, width: int) -> tuple[int, int]:
    """Return the width of a cell in half characters, and the width of the labels."""
    longest = min(max(map(cell_len, graph.labels), default=0), MAX_LABEL)
    numbers = 2 * (len(str(len(graph))) + 1) + 2
    needed = 0
    for halves in (4, 2, 1) if glyphs.pairs else (4, 2):
        cells = (len(graph) * halves + 1) // 2
        room = width - cells - numbers
        if room >= min(longest, 24 if halves == 4 else _LEAST_LABEL):
            return halves, min(longest, room)
        needed = cells + numbers + min(longest, _LEAST_LABEL)
    raise TooWideError(needed)


def _numbers(count: int, halves: int) -> list[str]:
    """Number the columns: units above each, and above every tenth the rest, read downwards."""
    if halves == 1:  # no room above each: the number of every tenth column ends above it
        line = "".join(f"{number:>5}" for number in range(10, count + 1, 10))
        return [line, "    ╷" * (count // 10)] if line else []
    step = halves // 2
    lines = []
    for power in reversed(range(len(str(count)))):
        shown = [
            str(number // 10**power % 10)
            if number >= 10**power and (power == 0 or number % 10 == 0)
            else " "
            for number in range(1, count + 1)
        ]
        lines.append((" " * (step - 1)).join(shown))
    return lines


def _bracket(graph: DrawnGraph, group: list[int], glyphs: Glyphs) -> list[str]:
    first, between, last = glyphs.group
    if len(group) == 1 or not any(graph.callees[each] | graph.callers[each] for each in group):
        return [" "] * len(group)
    return [first, *[between] * (len(group) - 2), last]


def _state(graph: DrawnGraph, reach: Reach, caller: int, callee: int) -> str:
    if graph.callees[caller] >> callee & 1:
        in_cycle = caller != callee and reach.cycle[caller] >> callee & 1
        return "in_cycle" if in_cycle else "direct"
    if caller == callee:
        return "itself"
    return "through_others" if reach.reached[caller] >> callee & 1 else ""


def _cells(states: list[str], halves: int, glyphs: Glyphs) -> str:
    if halves == 1:
        pairs = zip(states[::2], [*states[1::2], *[""] * (len(states) % 2)], strict=True)
        return "".join(_braille(left, right) for left, right in pairs)
    gap = " " * (halves // 2 - 1)
    return gap.join(getattr(glyphs, state) if state else " " for state in states)


def _braille(left: str, right: str) -> str:
    dots = 0
    if left in ("direct", "in_cycle"):
        dots |= _LEFT_BAR
    elif left == "through_others":
        dots |= _LEFT_DOT
    if right in ("direct", "in_cycle"):
        dots |= _RIGHT_BAR
    elif right == "through_others":
        dots |= _RIGHT_DOT
    return chr(_BRAILLE + dots) if dots else " "


def _legend(halves: int, glyphs: Glyphs, width: int) -> list[str]:
    if halves == 1:
        bar, dot = chr(_BRAILLE + _LEFT_BAR), chr(_BRAILLE + _LEFT_DOT)
        marks = [
            f"{bar} may call",
            f"{dot} reaches only through others",
            "(two columns a character)",
        ]
    else:
        marks = [
            f"{glyphs.direct} may call",
            f"{glyphs.in_cycle} may call, and is reached back: a cycle",
            f"{glyphs.through_others} reaches only through others",
        ]
    text = "   ".join(marks)
    lines = [text] if cell_len(text) <= width else marks
    return [*lines, *wrap(_MEANING, width)]
