"""Names of machines as they may be shown: whoever creates a machine chooses its name.

A name can hold what moves a terminal's cursor, what reverses the text around it (Unicode Technical
Report 36), or what looks like nothing. `visible` makes all of it visible; each format then
escapes what is special in it.
"""

from __future__ import annotations

from typing import Final
from unicodedata import bidirectional, category, normalize

from rich.cells import cell_len, set_cell_size

# Letters and symbols by their category, but blank on the screen.
_BLANK: Final = frozenset("\u115f\u1160\u3164\uffa0\u2800")
# Marks of one letter, one above the other; more would be drawn over the lines around it.
_MAX_MARKS: Final = 2
_RIGHT_TO_LEFT: Final = frozenset({"R", "AL", "AN"})
_ISOLATE, _END_ISOLATE = "\u2068", "\u2069"  # Unicode Standard Annex 9: FSI and PDI


def visible(name: str) -> str:
    r"""Give the name with what is not visible as an escape, such as `\x1b` or `\u202e`.

    A name that begins or ends with a space is in quotes.
    """
    if not (name.isascii() and name.isprintable()):
        name = "".join(_escaped(normalize("NFC", name)))
    if name != name.strip():
        name = f'"{name}"'
    return name or "(no name)"


def _escaped(name: str) -> list[str]:
    shown, marks = [], 0
    for each in name:
        marks = marks + 1 if category(each) in ("Mn", "Me") else 0
        if each.isprintable() and each not in _BLANK and marks <= _MAX_MARKS:
            shown.append(each)
        else:
            shown.append(each.encode("unicode_escape").decode("ascii"))
    return shown


def fitted(label: str, width: int) -> str:
    """Cut a label in its middle to at most `width` columns of a terminal.

    The end is kept because names of one kind often differ there.
    """
    if cell_len(label) <= width:
        return isolated(label)
    tail = (width - 1) // 3
    head = set_cell_size(label, width - 1 - tail)
    return isolated(f"{head}…{set_cell_size(label[::-1], tail)[::-1]}")


def isolated(label: str) -> str:
    """Keep a name that is written from right to left from reversing what stands beside it."""
    if label.isascii() or not any(bidirectional(each) in _RIGHT_TO_LEFT for each in label):
        return label
    return f"{_ISOLATE}{label}{_END_ISOLATE}"


def padded(label: str, width: int) -> str:
    """Cut or fill a label to exactly `width` columns of a terminal."""
    shown = fitted(label, width)
    return shown + " " * (width - cell_len(shown))


def counted(count: int, one: str, several: str | None = None) -> str:
    """Give a number with its noun: `1 edge`, `2 edges`, `1,000 edges`."""
    return f"{count:,} {one if count == 1 else several or f'{one}s'}"
