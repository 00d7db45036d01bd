"""`graph test`: `may_call` and `must_not_call` of a file as assertions about a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from clerk_m2m.cli.graph.file import GraphFile
from clerk_m2m.cli.graph.reading import Snapshot, refuse_equal_names
from clerk_m2m.cli.program import CommandError
from clerk_m2m.identity import MACHINE_ID


@dataclass(frozen=True, slots=True, kw_only=True)
class Assertion:
    """One edge that must exist (`may_call`) or must not; names, or ids if the name is unknown."""

    caller: str
    callee: str
    must_be: bool
    holds: bool

    @property
    def sentence(self) -> str:
        """Return the assertion as text and, if it fails, the actual state."""
        says = "may call" if self.must_be else "must not call"
        found = "" if self.holds else f": there is {'no' if self.must_be else 'an'} edge"
        return f"{self.caller} {says} {self.callee}{found}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """A graph that assertions are checked against.

    `edges` are by caller, `keys` maps names to callers, and `where` describes the graph.
    """

    edges: Mapping[str, frozenset[str]]
    keys: Mapping[str, str]
    where: str

    @classmethod
    def of_instance(cls, snapshot: Snapshot) -> Self:
        """Make it from an instance."""
        nodes = snapshot.machines.values()
        refuse_equal_names(nodes)
        return cls(
            edges={node.id: node.may_call for node in nodes},
            keys={node.name: node.id for node in nodes},
            where=f"the instance {snapshot.instance_id}",
        )

    @classmethod
    def of_file(cls, file: GraphFile) -> Self:
        """Make it from a file; a machine that the file names only by its id has no callees."""
        named = {callee for table in file.machines for callee in table.may_call}
        tables = {table.key: table.may_call for table in file.machines}
        return cls(
            edges={**dict.fromkeys(named, frozenset()), **tables},
            keys={table.name: table.key for table in file.machines},
            where=str(file.path),
        )

    def key_of(self, machine: str) -> str | None:
        """Return the key of a machine in the graph; None for a name that it does not have (yet).

        Raises `CommandError` for an id that it does not have, because an assertion about an unknown
        machine would be meaningless.
        """
        if not MACHINE_ID.fullmatch(machine):
            return self.keys.get(machine)
        if machine not in self.edges:
            raise CommandError(f"{machine} is not in {self.where}.")
        return machine


def check_assertions(file: GraphFile, graph: Graph) -> Sequence[Assertion]:
    """Check each edge that a file asserts, in the file's order."""
    names = {table.key: table.name for table in file.machines}
    keys = {
        machine: graph.key_of(machine)
        for table in file.machines
        for machine in (table.key, *table.may_call, *table.must_not_call)
    }
    return [
        Assertion(
            caller=table.name,
            callee=names.get(callee, callee),
            must_be=must_be,
            holds=(keys[callee] in graph.edges.get(keys[table.key] or "", ())) is must_be,
        )
        for table in file.machines
        for must_be, callees in ((True, table.may_call), (False, table.must_not_call))
        for callee in sorted(callees)
    ]
