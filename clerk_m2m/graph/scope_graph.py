"""`ScopeGraph`: which machine may call which, as an immutable value.

An edge `caller -> callee` means that the caller may call the callee. Edges are directed, and a
machine may call itself only if it has an edge to itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from clerk_m2m.decision import Decision, Reason
from clerk_m2m.errors import ConfigurationError
from clerk_m2m.graph.document import MachineTable, machine_id, read_tables


class ScopeGraph:
    """An immutable set of edges caller -> callee between machine ids.

    `ScopeGraph({"mch_caller…": ["mch_callee…"]})`. Raises `ConfigurationError` for a value that is
    not a machine id.
    """

    __slots__ = ("_callees",)

    def __init__(self, edges: Mapping[str, Iterable[str]]) -> None:
        self._callees = {
            machine_id(caller): frozenset(map(machine_id, _several(caller, callees)))
            for caller, callees in edges.items()
        }

    @classmethod
    def from_toml(cls, text: str) -> ScopeGraph:
        """Read a graph from TOML: `[machines.NAME]` tables with `id` and `may_call`.

        `may_call` lists names of the same file or machine ids. It must not contain anything that
        `must_not_call` lists. The emulator can be seeded from the same file; tables that only the
        emulator reads are ignored here. Raises `ConfigurationError`, which names the wrong entry,
        also for a machine without an `id`: `clerk-m2m graph apply` creates that machine and writes
        its id into the file.
        """
        if _is_path(text):
            raise ConfigurationError(
                "ScopeGraph.from_toml needs the text, not the path of a file. Set the path as "
                "Settings(graph=path), which reads the file again when it changes, or read it "
                'once: ScopeGraph.from_toml(Path(path).read_text("utf-8")).'
            )
        # `_id_of` requires an id in every table, so `may_call` holds ids only.
        tables = {_id_of(table): table for table in read_tables(text)}
        return cls({own: table.may_call for own, table in tables.items()})

    @property
    def machines(self) -> frozenset[str]:
        """The machines that are the caller or callee of at least one edge."""
        callers = (caller for caller, callees in self._callees.items() if callees)
        return frozenset(callers).union(*self._callees.values())

    def callees(self, caller: str) -> frozenset[str]:
        """Return the machines that `caller` may call; none for an unknown caller."""
        return self._callees.get(caller, frozenset())

    def allows(self, caller: str, callee: str) -> bool:
        """Return whether there is an edge from `caller` to `callee`."""
        return callee in self._callees.get(caller, ())

    def decide(self, caller: str, callee: str) -> Decision:
        """Return whether `caller` may call `callee`, and why."""
        allowed = self.allows(caller, callee)
        reason = Reason.ALLOWED if allowed else Reason.EDGE_MISSING
        return Decision(caller=caller, callee=callee, reason=reason)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ScopeGraph) and self._callees == other._callees

    def __hash__(self) -> int:
        return hash(frozenset(self._callees.items()))

    def __repr__(self) -> str:
        edges = sum(map(len, self._callees.values()))
        return f"<ScopeGraph: {len(self._callees)} callers, {edges} edges>"


def _is_path(text: object) -> bool:
    return not isinstance(text, str) or (text.endswith(".toml") and "\n" not in text)


def _several(caller: str, callees: Iterable[str]) -> Iterable[str]:
    if isinstance(callees, str) or not isinstance(callees, Iterable):
        raise ConfigurationError(f"The callees of {caller} must be a list of machine ids.")
    return callees


def _id_of(table: MachineTable) -> str:
    if table.id is None:
        raise ConfigurationError(
            f"[machines.{table.name}] has no id. To create the machine and write its id into the "
            'file, run: clerk-m2m graph apply FILE. If the machine exists, add: id = "mch_…"'
        )
    return table.id
