"""`graph pull`: the machines and edges of an instance as the text of a graph file."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from clerk_m2m.cli.graph import sections
from clerk_m2m.cli.graph.file import GraphFile
from clerk_m2m.cli.graph.reading import Node, Snapshot, refuse_equal_names
from clerk_m2m.cli.graph.sections import Section
from clerk_m2m.cli.program import CommandError
from clerk_m2m.errors import ConfigurationError
from clerk_m2m.graph.document import MachineTable, read_tables

HEAD = "# Who may call whom. After an edit: clerk-m2m graph plan, then clerk-m2m graph apply.\n"
_NO_MACHINES = "\n[machines]\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """The text of the file, and the entries of the file that the instance does not have."""

    text: str
    removed: tuple[str, ...] = ()


def fresh(snapshot: Snapshot) -> Pulled:
    """Write a file of all machines, sorted by name."""
    refuse_equal_names(snapshot.machines.values())
    nodes = sorted(snapshot.machines.values(), key=lambda node: node.name)
    names = {node.id: node.name for node in nodes}
    new = [_new_section(node, names) for node in nodes]
    tables = "".join(f"\n{section.text}" for section in new) or _NO_MACHINES
    return Pulled(text=_checked(HEAD + tables, snapshot))


def merged(file: GraphFile, snapshot: Snapshot) -> Pulled:
    """Update a file to the state of the instance, and leave the rest of the text unchanged.

    Tables keep their order. A new one is inserted before the first whose name sorts after it.
    """
    refuse_equal_names(snapshot.machines.values())
    names = {node.id: node.name for node in snapshot.machines.values()}
    ids = _ids_of(file, snapshot)
    kept: list[Section] = []
    removed: list[str] = []
    tables = file.by_name
    for section in sections.split(file.text):
        if section.name is None or section.name not in tables:
            kept.append(section)
        elif (machine_id := ids.get(section.name)) is None:
            removed.append(section.name)
        else:
            node, table = snapshot.machines[machine_id], tables[section.name]
            kept.append(_updated(section, table, node, _Naming(ids, names)))
    listed = set(ids.values())
    ending = "\r\n" if "\r\n" in file.text else "\n"
    for node in sorted(snapshot.machines.values(), key=lambda node: node.name):
        if node.id not in listed:
            _insert(kept, _new_section(node, names, ending), ending)
    return Pulled(text=_checked(sections.join(kept), snapshot), removed=tuple(removed))


@dataclass(frozen=True, slots=True)
class _Naming:
    """`ids`: the machine id for each name in the file; `names`: the current names of ids."""

    ids: Mapping[str, str]
    names: Mapping[str, str]

    def today(self, items: Iterable[str]) -> dict[str, str]:
        """Return the current names of the items that are names in the file."""
        return {item: self.names[self.ids[item]] for item in items if item in self.ids}


def _ids_of(file: GraphFile, snapshot: Snapshot) -> dict[str, str]:
    """Return the machine id of each table; a table without an id is matched by its name."""
    listed = {table.id for table in file.machines}
    unlisted = {node.name: node.id for node in snapshot.machines.values() if node.id not in listed}
    ids = {table.name: table.id or unlisted.get(table.name) for table in file.machines}
    return {name: own for name, own in ids.items() if own in snapshot.machines}


def _updated(section: Section, table: MachineTable, node: Node, naming: _Naming) -> Section:
    added: list[str] = []
    if table.id is None:
        added.append(f"id = {sections.quoted(node.id)}")
    items = sections.items_of(section)
    for key, live in (("may_call", node.may_call), ("must_not_call", None)):
        before = items.get(key)
        if before is None:
            if live:
                added += sections.array_of(sorted(map(naming.names.__getitem__, live)))
            continue
        after = _items(before, live, naming)
        if after != before:
            section = section.with_items(key, after, naming.today(before))
    if node.name != section.name:
        section = section.renamed(node.name)
    return section.with_lines(added) if added else section


def _items(before: Iterable[str], live: frozenset[str] | None, naming: _Naming) -> list[str]:
    """Return the updated items of an array: removed ones left out, new ones added, current names.

    `live` are the callees in the instance; None keeps all items that exist there.
    """
    after: list[str] = []
    seen: set[str] = set()
    before = list(before)
    today = naming.today(before)
    for item in before:
        callee = naming.ids.get(item, item)
        if callee in naming.names and (live is None or callee in live) and callee not in seen:
            seen.add(callee)
            after.append(today.get(item, item))
    for name in sorted(naming.names[callee] for callee in (live or frozenset()) - seen):
        after.insert(bisect_left(after, name), name)
    return after


def _new_section(node: Node, names: Mapping[str, str], ending: str = "\n") -> Section:
    callees = sorted(names[callee] for callee in node.may_call)
    lines = [f"id = {sections.quoted(node.id)}", *sections.array_of(callees)]
    header = f"[machines.{sections.key_of(node.name)}]{ending}"
    return Section(name=node.name, header=header).with_lines(lines)


def _insert(kept: list[Section], new: Section, ending: str) -> None:
    """Insert a new table before the first that sorts after it, with an empty line between."""
    name = new.name or ""
    places = [(index, each.name) for index, each in enumerate(kept) if each.name is not None]
    after = [index for index, other in places if other > name]
    index = after[0] if after else (places[-1][0] + 1 if places else len(kept))
    before = kept[index - 1].text if index else ""
    lines = before.splitlines(keepends=True)[-1:]
    ended = before.endswith("\n")
    gap = "" if not lines or not lines[0].strip() else ending if ended else 2 * ending
    end = ending if index < len(kept) else ""
    kept.insert(index, Section(name=new.name, header=gap + new.header, body=new.body + end))


def _checked(text: str, snapshot: Snapshot) -> str:
    """Parse the text again and check that it has the machines and edges of the instance."""
    try:
        tables = read_tables(text)
        text.encode("utf-8")
    except (ConfigurationError, UnicodeEncodeError) as exc:
        raise CommandError(
            f"The file would not be one that services can read. Nothing was written. {exc}"
        ) from None
    found = {table.id: (table.name, table.may_call) for table in tables}
    live = {node.id: (node.name, node.may_call) for node in snapshot.machines.values()}
    if found != live:
        raise CommandError(
            "The file is not written in a form that can be edited: give each machine a table of "
            "its own, with the header [machines.NAME] on one line. Nothing was written."
        )
    return text
