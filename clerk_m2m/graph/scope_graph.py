"""Who may call whom. Pure: a graph is a value, and a decision says why.

An edge `caller -> callee` means that the caller may call the callee. Edges are directed, and a
machine may call itself only where an edge says so.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from clerk_m2m.decision import Decision, Reason
from clerk_m2m.errors import ConfigurationError
from clerk_m2m.identity import MACHINE_ID

# What a machine's table may hold; the last two speak to the emulator only.
_MACHINE_KEYS: Final = ("id", "may_call", "secret_key", "default_token_ttl")


class ScopeGraph:
    """An immutable set of edges caller -> callee between machine ids.

    `ScopeGraph({"mch_caller…": ["mch_callee…"]})`. Raises `ConfigurationError` on anything that is
    not a machine id.
    """

    __slots__ = ("_callees",)

    def __init__(self, edges: Mapping[str, Iterable[str]]) -> None:
        self._callees = {
            _machine_id(caller): frozenset(map(_machine_id, _several(caller, callees)))
            for caller, callees in edges.items()
        }

    @classmethod
    def from_toml(cls, text: str) -> ScopeGraph:
        """Read a graph from TOML: `[machines.NAME]` tables with `id` and `may_call`.

        `may_call` lists names of the same file or machine ids. The emulator seeds itself from the
        same file; the tables that speak only to it are passed over here. Raises
        `ConfigurationError` naming the entry at fault.
        """
        if _is_path(text):
            raise ConfigurationError(
                "ScopeGraph.from_toml takes the text, not the path of a file. Give the path as "
                "Settings(graph=path), which reads the file again when it changes, or read it "
                'once: ScopeGraph.from_toml(Path(path).read_text("utf-8")).'
            )
        document = _document(text)
        machines = document.get("machines")
        if not isinstance(machines, dict):
            raise ConfigurationError(
                "The scope graph has no [machines.NAME] table. Give each machine one, "
                'with `id = "mch_…"` and `may_call = ["NAME"]`.'
            )
        for name, table in machines.items():
            _refuse_unknown_keys(name, table)
        ids = {name: _id_of(name, table) for name, table in machines.items()}
        if len(set(ids.values())) != len(ids):
            raise ConfigurationError("Two machines of the scope graph have the same id.")
        return cls(
            {
                ids[name]: [_resolve(name, callee, ids) for callee in _may_call(name, table)]
                for name, table in machines.items()
            }
        )

    @property
    def machines(self) -> frozenset[str]:
        """The machines that are caller or callee of at least one edge."""
        callers = (caller for caller, callees in self._callees.items() if callees)
        return frozenset(callers).union(*self._callees.values())

    def callees(self, caller: str) -> frozenset[str]:
        """Give the machines that `caller` may call; empty for an unknown caller."""
        return self._callees.get(caller, frozenset())

    def allows(self, caller: str, callee: str) -> bool:
        """Tell whether there is an edge from `caller` to `callee`."""
        return callee in self._callees.get(caller, ())

    def decide(self, caller: str, callee: str) -> Decision:
        """Tell whether `caller` may call `callee`, and why."""
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


def _document(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as exc:  # bad TOML, an endless number, endless nesting
        fault = str(exc)
    # Not chained: the cause's text would quote what this one leaves out.
    raise ConfigurationError(f"The scope graph is not valid TOML: {fault}")


def _machine_id(value: object) -> str:
    if isinstance(value, str) and MACHINE_ID.fullmatch(value):
        return value
    raise ConfigurationError(
        f"{value!r} in the scope graph is not a machine id (mch_ and 27 more)."
    )


def _several(caller: str, callees: Iterable[str]) -> Iterable[str]:
    if isinstance(callees, str) or not isinstance(callees, Iterable):
        raise ConfigurationError(f"The callees of {caller} must be a list of machine ids.")
    return callees


def _refuse_unknown_keys(name: str, table: Any) -> None:
    # A misspelt may_call would cut every edge of the machine without a word.
    unknown = [key for key in table if key not in _MACHINE_KEYS] if isinstance(table, dict) else []
    if unknown:
        raise ConfigurationError(
            f"[machines.{name}] has an unknown key {unknown[0]!r}; "
            f"there are {', '.join(_MACHINE_KEYS)}."
        )


def _id_of(name: str, table: Any) -> str:
    machine_id = table.get("id") if isinstance(table, dict) else None
    if machine_id is None:
        raise ConfigurationError(f'[machines.{name}] has no id. Add: id = "mch_…"')
    return _machine_id(machine_id)


def _may_call(name: str, table: Mapping[str, Any]) -> list[Any]:
    callees = table.get("may_call", [])
    if not isinstance(callees, list):
        raise ConfigurationError(f"[machines.{name}] may_call must be a list of names or ids.")
    return callees


def _resolve(name: str, callee: Any, ids: Mapping[str, str]) -> str:
    if isinstance(callee, str) and callee in ids:
        return ids[callee]
    if isinstance(callee, str) and MACHINE_ID.fullmatch(callee):
        return callee
    raise ConfigurationError(
        f"[machines.{name}] may_call names {callee!r}, which is neither a machine of this file "
        "nor a machine id."
    )
