"""The characters that drawings for a terminal are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Glyphs:
    """One set of characters; `pairs` holds two cells per character, if the set has such ones."""

    direct: str
    in_cycle: str
    through_others: str
    itself: str
    group: tuple[str, str, str]  # first row, rows between, last row
    branch: str
    last_branch: str
    trunk: str
    elsewhere: str
    back: str
    more: str
    pairs: bool


UNICODE: Final = Glyphs(
    direct="■",
    in_cycle="●",
    through_others="·",
    itself="╲",
    group=("┌", "│", "└"),
    branch="├── ",
    last_branch="└── ",
    trunk="│   ",
    elsewhere="*",
    back="↻",
    more="…",
    pairs=True,
)
ASCII: Final = Glyphs(
    direct="#",
    in_cycle="@",
    through_others=".",
    itself="\\",
    group=("/", "|", "\\"),
    branch="|-- ",
    last_branch="`-- ",
    trunk="|   ",
    elsewhere="*",
    back="^",
    more="...",
    pairs=False,
)
