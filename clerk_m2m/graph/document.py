"""The TOML document of a scope graph: its `[machines.NAME]` tables, read and checked.

    [machines.orders]
    id = "mch_…"                    # none yet: a machine that `clerk-m2m graph apply` creates
    may_call = ["billing", "mch_…"] # names in this document, or machine ids; complete
    must_not_call = ["audit"]       # asserted by `clerk-m2m graph test`, and never in may_call

The same document seeds the emulator, which reads `secret_key` and `default_token_ttl` too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from clerk_m2m.errors import ConfigurationError
from clerk_m2m.identity import MACHINE_ID

# The keys of a machine's table; only the emulator reads the last two.
_MACHINE_KEYS: Final = ("id", "may_call", "must_not_call", "secret_key", "default_token_ttl")


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineTable:
    """One `[machines.NAME]` table; `id` is None for a machine that does not exist yet.

    `may_call` and `must_not_call` hold the `key` of each callee.
    """

    name: str
    id: str | None
    may_call: frozenset[str]
    must_not_call: frozenset[str]

    @property
    def key(self) -> str:
        """The id, or the name if there is no id yet. A name never has the form of an id."""
        return self.id or self.name


def read_tables(text: str) -> tuple[MachineTable, ...]:
    """Read the machines of a document; raises `ConfigurationError` that names the wrong entry."""
    machines = _document(text).get("machines")
    if not isinstance(machines, dict):
        raise ConfigurationError(
            "The scope graph has no [machines.NAME] table. Write one for each machine, "
            'with `id = "mch_…"` and `may_call = ["NAME"]`.'
        )
    for name, table in machines.items():
        _refuse_unknown_keys(name, table)
    ids = {name: _id_of(name, table) for name, table in machines.items()}
    _refuse_ambiguous(ids)
    keys = {name: machine_id or name for name, machine_id in ids.items()}
    return tuple(_table(name, table, ids[name], keys) for name, table in machines.items())


def machine_id(value: object) -> str:
    """Return `value` if it is a machine id; raises `ConfigurationError` for anything else."""
    if isinstance(value, str) and MACHINE_ID.fullmatch(value):
        return value
    raise ConfigurationError(
        f"{value!r} in the scope graph is not a machine id (mch_ and 27 more characters)."
    )


def _document(text: str) -> dict[str, Any]:
    if text.startswith("\N{ZERO WIDTH NO-BREAK SPACE}"):
        # Editors do not show it, and the TOML parser's error names only line 1, column 1.
        raise ConfigurationError(
            "The scope graph begins with a byte order mark, which TOML does not allow. Save the "
            'file as UTF-8 without it ("UTF-8", not "UTF-8 with BOM").'
        )
    import tomllib  # imported only where a graph is in a file

    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as exc:  # invalid TOML, too long a number, too deep nesting
        fault = str(exc)
    # Raised outside of `except`, so not chained: the original error may quote a secret of the file.
    raise ConfigurationError(f"The scope graph is not valid TOML: {fault}")


def _refuse_unknown_keys(name: str, table: object) -> None:
    if not isinstance(table, dict):
        raise ConfigurationError(f"[machines.{name}] must be a table.")
    # A misspelt may_call would silently remove every edge of the machine.
    unknown = [key for key in table if key not in _MACHINE_KEYS]
    if unknown:
        raise ConfigurationError(
            f"[machines.{name}] has an unknown key {unknown[0]!r}. "
            f"The keys are {', '.join(_MACHINE_KEYS)}."
        )


def _id_of(name: str, table: Mapping[str, Any]) -> str | None:
    return machine_id(table["id"]) if "id" in table else None


def _refuse_ambiguous(ids: Mapping[str, str | None]) -> None:
    given = [each for each in ids.values() if each is not None]
    if len(set(given)) != len(given):
        raise ConfigurationError("Two machines of the scope graph have the same id.")
    for name, own in ids.items():
        # `may_call = ["mch_…"]` would mean this machine instead of the machine with that id.
        if MACHINE_ID.fullmatch(name) and name != own:
            raise ConfigurationError(
                f"[machines.{name}] has the id of another machine as its name. Rename it."
            )


def _table(
    name: str, table: Mapping[str, Any], own: str | None, keys: Mapping[str, str]
) -> MachineTable:
    may_call = _callees(name, "may_call", table, keys)
    must_not_call = _callees(name, "must_not_call", table, keys)
    if both := may_call & must_not_call:
        raise ConfigurationError(
            f"[machines.{name}] may_call and must_not_call both name {min(both)}."
        )
    return MachineTable(name=name, id=own, may_call=may_call, must_not_call=must_not_call)


def _callees(
    name: str, key: str, table: Mapping[str, Any], keys: Mapping[str, str]
) -> frozenset[str]:
    callees = table.get(key, [])
    if not isinstance(callees, list):
        raise ConfigurationError(f"[machines.{name}] {key} must be a list of names or ids.")
    return frozenset(_resolve(name, key, callee, keys) for callee in callees)


def _resolve(name: str, key: str, callee: Any, keys: Mapping[str, str]) -> str:
    if isinstance(callee, str) and callee in keys:
        return keys[callee]
    if isinstance(callee, str) and MACHINE_ID.fullmatch(callee):
        return callee
    raise ConfigurationError(
        f"[machines.{name}] {key} names {callee!r}, which is neither a machine of this file "
        "nor a machine id."
    )
