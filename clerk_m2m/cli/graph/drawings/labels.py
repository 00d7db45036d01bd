"""Makes names of machines safe to show, because their creators may choose any text.

A name can contain characters that move a terminal's cursor, reverse the text around it (Unicode
Technical Report 36), or are invisible. `visible` makes all of them visible. Each format then
escapes its own special characters.
"""

from __future__ import annotations

from typing import Final
from unicodedata import bidirectional, category, normalize

from rich.cells import cell_len, set_cell_size

# Letters and symbols by category that are blank on the screen.
_BLANK: Final = frozenset("\u115f\u1160\u3164\uffa0\u2800")
# The most combining marks on one letter; more would be drawn over other lines.
_MAX_MARKS: Final = 2
_RIGHT_TO_LEFT: Final = frozenset({"R", "AL", "AN"})
_ISOLATE, _END_ISOLATE = "\u2068", "\u2069"  # Unicode Standard Annex 9: FSI and PDI


def visible(name: str) -> str:
    r"""Return the name with invisible characters as escapes, such as `\x1b` or `\u202e`.

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
    """Shorten a label in its middle to at most `width` columns of a terminal.

    The end is kept, because similar names often differ there.
    """
    if cell_len(label) <= width:
        return isolated(label)
    tail = (width - 1) // 3
    head = set_cell_size(label, width - 1 - tail)
    return isolated(f"{head}…{set_cell_size(label[::-1], tail)[::-1]}")


def isolated(label: str) -> str:
    """Isolate a right-to-left name, so that it does not reverse the text beside it."""
    if label.isascii() or not any(bidirectional(each) in _RIGHT_TO_LEFT for each in label):
        return label
    return f"{_ISOLATE}{label}{_END_ISOLATE}"


def padded(label: str, width: int) -> str:
    """Cut or fill a label to exactly `width` columns of a terminal."""
    shown = fitted(label, width)
    return shown + " " * (width - cell_len(shown))


def counted(count: int, one: str, several: str | None = None) -> str:
    """Return a number with its noun: `1 edge`, `2 edges`, `1,000 edges`."""
    return f"{count:,} {one if count == 1 else several or f'{one}s'}"
