"""A plan: the changes that bring an instance to the state of a graph file, and their JSON.

A machine is named by its id. One that does not exist yet is named by its name, which never has the
form of an id (`clerk_m2m.graph.document`). A change holds the state for which the plan was made
(`base`) and the new state (`target`). During `apply`, each edge may be as in `base` or as in
`target`, so a killed run can continue. Any other state means that someone edited the machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from clerk_m2m.cli.graph.reading import Node
from clerk_m2m.cli.program import FORMAT_VERSION, CommandError
from clerk_m2m.identity import MACHINE_ID
from clerk_m2m.secret import without_credentials


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A machine's name, and its callees: ids, or names of machines to be created."""

    name: str
    may_call: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One machine's change; `id` and `base` are None if it is created.

    `target` is None if it is deleted.
    """

    id: str | None
    base: State | None
    target: State | None

    @property
    def name(self) -> str:
        """Return the machine's new name."""
        state = self.target or self.base
        return state.name if state else ""

    @property
    def added(self) -> list[str]:
        """Return the callees whose edges are added, in order."""
        return sorted(_callees(self.target) - _callees(self.base))

    @property
    def cut(self) -> list[str]:
        """Return the callees whose edges are removed, in order; a deletion removes them itself."""
        return sorted(_callees(self.base) - _callees(self.target)) if self.target else []

    @property
    def action(self) -> str:
        """Return the kind of change, as one word."""
        return "create" if self.base is None else "delete" if self.target is None else "change"

    def difference(self, live: Node, ids: Mapping[str, str]) -> str | None:
        """Return how a machine differs from both `base` and `target`; None if it does not.

        `ids` are the ids of machines that have been created, by name.
        """
        base = _resolved(self.base, ids)
        target = _resolved(self.target, ids)
        names = {state.name for state in (self.base, self.target) if state}
        if live.name not in names:
            return f"it is now called {live.name}"
        if more := live.may_call - (base | target):
            return f"an edge to {min(more)} has been added"
        if self.target is not None and (less := (base & target) - live.may_call):
            return f"the edge to {min(less)} has been cut"
        return None


def _callees(state: State | None) -> frozenset[str]:
    return state.may_call if state else frozenset()


def _resolved(state: State | None, ids: Mapping[str, str]) -> frozenset[str]:
    return frozenset(ids.get(callee, callee) for callee in _callees(state))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All changes of one file to one instance.

    `found` are existing machines, by name, whose ids must still be written into the file. `edges`
    are the edges of the plan's machines before it is applied. `names` are the names of machines in
    the changes, by id. `longest_token_ttl` is in seconds.
    """

    instance_id: str
    file: Path
    changes: tuple[Change, ...]
    found: Mapping[str, str]
    edges: int
    ended: int
    names: Mapping[str, str]
    longest_token_ttl: int

    @property
    def same(self) -> bool:
        """Whether there is no change."""
        return not self.changes and not self.found

    @property
    def ends_most(self) -> bool:
        """Whether more than half of the edges are removed."""
        return 2 * self.ended > self.edges

    def label(self, key: str) -> str:
        """Return the name of a machine, or its id if its name is unknown."""
        return self.names.get(key, key)

    def as_json(self) -> dict[str, Any]:
        """Return the plan as the members of a JSON object."""
        return {
            "instance": self.instance_id,
            "file": str(self.file),
            "edges": self.edges,
            "ended": self.ended,
            "longest_token_ttl": self.longest_token_ttl,
            "found": dict(self.found),
            "changes": [
                {
                    "action": change.action,
                    "id": change.id,
                    "base": _state_json(change.base),
                    "target": _state_json(change.target),
                }
                for change in self.changes
            ],
            "names": dict(self.names),
        }


def _state_json(state: State | None) -> dict[str, Any] | None:
    return {"name": state.name, "may_call": sorted(state.may_call)} if state else None


def is_plan(text: str) -> bool:
    """Return whether a text is a plan and not a graph file: no TOML begins with a brace."""
    return text.lstrip().startswith("{")


_MEMBERS: Final = ("instance", "file", "edges", "ended", "longest_token_ttl", "found", "names")


def read_plan(path: Path, text: str) -> Plan:
    """Read the JSON of a plan; raises `CommandError` if it is not a complete plan."""
    try:
        document = json.loads(text)
        if document["format_version"] != FORMAT_VERSION:
            raise CommandError(
                f"{path} is a plan of format {without_credentials(str(document['format_version']))}"
                f"; this version reads {FORMAT_VERSION}. Make a new plan."
            )
        given = {name: document[name] for name in _MEMBERS}
        plan = Plan(
            instance_id=_text(given["instance"]),
            file=Path(_text(given["file"])),
            edges=_count(given["edges"]),
            ended=_count(given["ended"]),
            longest_token_ttl=_count(given["longest_token_ttl"]),
            found={_text(name): _id(own) for name, own in given["found"].items()},
            names={_id(own): _text(name) for own, name in given["names"].items()},
            changes=tuple(_read_change(change) for change in document["changes"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        fault = f"{path} is not a plan of `graph plan`. Make a new one."
    else:
        return plan
    raise CommandError(fault)


def _read_change(value: Mapping[str, Any]) -> Change:
    own = value["id"]
    change = Change(
        id=None if own is None else _id(own),
        base=_read_state(value["base"]),
        target=_read_state(value["target"]),
    )
    if (change.id is None) != (change.base is None) or change.base is change.target:
        raise ValueError("a change without a difference")
    return change


def _read_state(value: Mapping[str, Any] | None) -> State | None:
    if value is None:
        return None
    return State(
        name=_text(value["name"]), may_call=frozenset(map(_text, _list(value["may_call"])))
    )


def _list(value: Any) -> Iterable[Any]:
    if not isinstance(value, list):
        raise TypeError("expected a list")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError("expected a text")
    return value


def _id(value: Any) -> str:
    if not MACHINE_ID.fullmatch(_text(value)):
        raise ValueError("expected a machine id")
    return _text(value)


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError("expected a count")
    return value
