"""A graph file as text, in one section for each `[machines.NAME]` table.

So an edit changes only the tables that differ, and comments are kept. A section is the comment
lines directly above a header, the header, and all lines up to the next section. The text is split
by lines without parsing TOML, so a multi-line string could be misread. Therefore callers must read
the result again with `read_tables` before they write it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import tomlkit

_HEADER: Final = re.compile(r"^[ \t]*\[.*$", re.MULTILINE)
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the file; `name` is the machine's name, None for other parts."""

    name: str | None
    comments: str = ""
    header: str = ""
    body: str = ""

    @property
    def text(self) -> str:
        """Return the text of this part."""
        return self.comments + self.header + self.body

    def with_lines(self, lines: Iterable[str]) -> Section:
        """Insert lines directly below the header, with its indentation and line ending."""
        indent = self.header[: len(self.header) - len(self.header.lstrip())]
        ending = "\r\n" if self.header.endswith("\r\n") else "\n"
        header = self.header if self.header.endswith("\n") else self.header + ending
        added = "".join(f"{indent}{line}{ending}" for line in lines)
        return replace(self, header=header, body=added + self.body)

    def renamed(self, name: str) -> Section:
        """Return the section with another name in its header."""
        start, _, rest = self.header.partition("[")
        comment = re.search(r"\][ \t]*(#.*)?$", rest.rstrip("\r\n"))
        end = rest[comment.start() :] if comment else "]\n"
        return replace(self, name=name, header=f"{start}[machines.{key_of(name)}{end}")

    def with_items(self, key: str, wanted: list[str], renamed: Mapping[str, str]) -> Section:
        """Return the section with other items in the array `key`; kept ones keep their comments."""
        document: Any = tomlkit.parse(self.header + self.body)
        array = document["machines"][self.name][key]
        for index, item in enumerate(list(array)):
            if renamed.get(item, item) != item:
                array[index] = renamed[item]
        for index in range(len(array) - 1, -1, -1):
            if array[index] not in wanted or array[index] in array[:index]:
                array.pop(index)
        for index, item in enumerate(wanted):
            if index >= len(array) or array[index] != item:
                array.insert(index, item)
        text = tomlkit.dumps(document)
        line_end = text.find("\n") + 1 or len(text)
        return replace(self, header=text[:line_end], body=text[line_end:])


def items_of(section: Section) -> dict[str, list[str]]:
    """Return the arrays of a machine's table, as they stand in the file."""
    table = tomllib.loads(section.header + section.body)["machines"][section.name]
    return {key: value for key, value in table.items() if isinstance(value, list)}


def split(text: str) -> list[Section]:
    """Split a file into its sections; joined, they are the file."""
    found = [(match.start(), name_of(match[0])) for match in _HEADER.finditer(text)]
    starts = [(at, name) for at, name in found if name is not _NO_HEADER]
    cuts = [*(at for at, _ in starts), len(text)]
    sections = [Section(name=None, body=text[: cuts[0]])]
    for (at, name), end in zip(starts, cuts[1:], strict=True):
        line_end = text.find("\n", at, end) + 1 or end
        before = sections[-1]
        body, comments = _split_comments(before.body)
        sections[-1] = replace(before, body=body)
        sections.append(
            Section(name=name, comments=comments, header=text[at:line_end], body=text[line_end:end])
        )
    return sections


def join(sections: Iterable[Section]) -> str:
    """Join sections to the text of a file; each section starts on its own line."""
    return "".join(section.text for section in sections)


_NO_HEADER: Final = "\n"  # no machine has this name: a header is one line


def name_of(line: str) -> str | None:
    """Return the machine that a header line names; None for a header of anything else."""
    try:
        table = tomllib.loads(line.strip())
    except tomllib.TOMLDecodeError:
        return _NO_HEADER
    machines = table.get("machines")
    if isinstance(machines, dict) and len(machines) == 1 and "[[" not in line:
        [(name, inner)] = machines.items()
        return name if inner == {} else None
    return None


def _split_comments(body: str) -> tuple[str, str]:
    """Split off the comment lines at the end, which belong to the header below them."""
    lines = body.splitlines(keepends=True)
    count = 0
    while count < len(lines) and lines[-1 - count].lstrip().startswith("#"):
        count += 1
    cut = len(lines) - count
    return "".join(lines[:cut]), "".join(lines[cut:])


def key_of(name: str) -> str:
    """Return a name as a TOML key."""
    return name if _BARE_KEY.fullmatch(name) else quoted(name)


def quoted(text: str) -> str:
    """Return a text as a TOML basic string, with unprintable characters escaped."""
    return '"' + "".join(_escaped(char) for char in text) + '"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    if char.isprintable():
        return char
    return f"\\u{ord(char):04X}" if ord(char) <= 0xFFFF else f"\\U{ord(char):08X}"


def array_of(items: Iterable[str]) -> list[str]:
    """Write the lines of `may_call`, one item a line, so that a diff shows single edges."""
    lines = [f"    {quoted(item)}," for item in items]
    return ["may_call = [", *lines, "]"] if lines else ["may_call = []"]


def with_ids(text: str, ids: Mapping[str, str]) -> str:
    """Write the id of each machine of `ids`, which are by name, into its table."""
    return join(
        section.with_lines([f"id = {quoted(ids[section.name])}"])
        if section.name is not None and section.name in ids
        else section
        for section in split(text)
    )
