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
    """One edge that has to be there (`may_call`) or must not; names, or ids where none is known."""

    caller: str
    callee: str
    must_be: bool
    holds: bool

    @property
    def sentence(self) -> str:
        """Say what is asserted, and what is the case where it is not."""
        says = "may call" if self.must_be else "must not call"
        found = "" if self.holds else f": there is {'no' if self.must_be else 'an'} edge"
        return f"{self.caller} {says} {self.callee}{found}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """A graph that assertions are checked against.

    `edges` are by caller, `keys` tells the caller of a name, and `where` says what graph it is.
    """

    edges: Mapping[str, frozenset[str]]
    keys: Mapping[str, str]
    where: str

    @classmethod
    def of_instance(cls, snapshot: Snapshot) -> Self:
        """Take the graph of an instance."""
        nodes = snapshot.machines.values()
        refuse_equal_names(nodes)
        return cls(
            edges={node.id: node.may_call for node in nodes},
            keys={node.name: node.id for node in nodes},
            where=f"the instance {snapshot.instance_id}",
        )

    @classmethod
    def of_file(cls, file: GraphFile) -> Self:
        """Take the graph of a file; a machine that it names by its id alone may call nobody."""
        named = {callee for table in file.machines for callee in table.may_call}
        tables = {table.key: table.may_call for table in file.machines}
        return cls(
            edges={**dict.fromkeys(named, frozenset()), **tables},
            keys={table.name: table.key for table in file.machines},
            where=str(file.path),
        )

    def key_of(self, machine: str) -> str | None:
        """Give what the graph calls a machine; None for a name that it does not have (yet).

        Raises `CommandError` for an id that it does not have: an assertion about a machine that
        does not exist would tell nothing.
        """
        if not MACHINE_ID.fullmatch(machine):
            return self.keys.get(machine)
        if machine not in self.edges:
            raise CommandError(f"{machine} is not in {self.where}.")
        return machine


def check_assertions(file: GraphFile, graph: Graph) -> Sequence[Assertion]:
    """Check each edge that a file asserts, in its order."""
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
