"""Applies a plan: one machine after the other; each is read again before it is changed.

The order: renames, creations, edges to add, edges to remove, deletions. So if a caller moves from
one callee to another, it gets the new edge before it loses the old one. A machine at the limit of
edges loses one edge for each new one. If a run is stopped (Ctrl-C, `kill -9`, an outage), the same
command continues it: completed changes are no longer a difference.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from clerk_m2m.backend_api.client import ClerkClient
from clerk_m2m.cli.graph.file import write_ids
from clerk_m2m.cli.graph.plan import Change, Plan
from clerk_m2m.cli.graph.planning import MAX_EDGES
from clerk_m2m.cli.graph.reading import Node, Snapshot, node_of, patiently, read_named
from clerk_m2m.cli.program import Advance, CommandError
from clerk_m2m.errors import ConflictError, NotFoundError
from clerk_m2m.identity import MACHINE_ID

# Writing ids of new machines into a large file takes seconds; limit it to this part of the time.
_WRITING_SHARE: Final = 0.1


@dataclass(slots=True)
class Done:
    """The changes of a run. `created` are ids by name; edges are counted."""

    created: dict[str, str] = field(default_factory=dict)
    renamed: int = 0
    deleted: int = 0
    added: int = 0
    cut: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return it as the members of a JSON object."""
        return {
            "created": dict(self.created),
            "renamed": self.renamed,
            "deleted": self.deleted,
            "added": self.added,
            "cut": self.cut,
        }


def check_plan(plan: Plan, snapshot: Snapshot) -> None:
    """Raise `CommandError` before anything is changed if the plan does not fit the instance."""
    if plan.instance_id != snapshot.instance_id:
        raise CommandError(
            f"The plan is for the instance {plan.instance_id}, and this one is "
            f"{snapshot.instance_id}. Nothing was changed."
        )
    for name, machine_id in plan.found.items():
        if machine_id not in snapshot.machines:
            raise CommandError(f"{name} ({machine_id}) has been deleted. Make a new plan.")
    ids = _created_before(plan, snapshot)
    for change in plan.changes:
        own = change.id or ids.get(change.name)
        live = snapshot.machines.get(own) if own else None
        if live is not None:
            _refuse_edited(change, live, ids)
        elif change.base and change.target:
            raise _edited(change, "it has been deleted")


def _created_before(plan: Plan, snapshot: Snapshot) -> dict[str, str]:
    """Return the machines of the plan that an earlier run has already created."""
    ids = dict(plan.found)
    created = {change.name: change for change in plan.changes if change.base is None}
    named: dict[str, list[Node]] = {}
    for node in snapshot.machines.values():
        if node.name in created and not _leaves(plan, node):
            named.setdefault(node.name, []).append(node)
    for name, namesakes in named.items():
        if existing := _only(created[name], namesakes):
            ids[name] = existing.id
    return ids


def _leaves(plan: Plan, node: Node) -> bool:
    """Return whether the plan renames or deletes a machine."""
    return any(
        change.id == node.id and (change.target is None or change.target.name != node.name)
        for change in plan.changes
    )


def _only(change: Change, namesakes: list[Node]) -> Node | None:
    if len(namesakes) > 1:
        ids = " and ".join(node.id for node in namesakes)
        raise CommandError(f"Two machines are called {change.name}: {ids}. Delete one of them.")
    return namesakes[0] if namesakes else None


def _refuse_edited(change: Change, live: Node, ids: dict[str, str]) -> None:
    if difference := change.difference(live, ids):
        raise _edited(change, difference)


def _edited(change: Change, what: str) -> CommandError:
    return CommandError(
        f"{change.name} ({change.id or 'new'}) has been changed since the plan was made: {what}. "
        "It was not touched. Make a new plan."
    )


class Run:
    """One run of `apply`. Call `check_plan` first; `advance` is called for each step."""

    def __init__(
        self, clerk: ClerkClient, plan: Plan, snapshot: Snapshot, advance: Advance
    ) -> None:
        self._clerk = clerk
        self._machines = clerk.machines
        self._plan = plan
        self._advance = advance
        self._ids = _created_before(plan, snapshot)
        self._unwritten = dict(self._ids)
        self._write_at = 0.0
        self._whole: set[str] = set()  # created with all their edges
        self._live = snapshot.machines
        self.done = Done()

    @property
    def steps(self) -> int:
        """Return the number of machines and edges that are still to be changed."""
        return sum(self._steps(change) for change in self._plan.changes)

    def _steps(self, change: Change) -> int:
        own = change.id or self._ids.get(change.name)
        live = self._live.get(own) if own else None
        if change.target is None:
            return 1 if live else 0
        if live is None:
            return 1 + len(change.target.may_call)
        missing, surplus = self._edges(change, live)
        return len(missing) + len(surplus) + (live.name != change.target.name)

    async def run(self) -> Done:
        """Apply the remaining changes of the plan."""
        to_do = [change for change in self._plan.changes if self._steps(change)]
        kept = [change for change in to_do if change.target is not None]
        try:
            for change in kept:
                await self._rename(change)
            for change in kept:
                await self._create(change)
        finally:
            self._write_ids()  # also if the run is interrupted
        for change in kept:
            await self._add(change)
        for change in kept:
            await self._cut(change)
        for change in to_do:
            await self._delete(change)
        return self.done

    async def _rename(self, change: Change) -> None:
        if not (change.base and change.target) or change.base.name == change.target.name:
            return
        live = await self._read(change)
        if live.name != change.target.name:
            await patiently(partial(self._machines.update, live.id, name=change.target.name))
            self.done.renamed += 1
            self._advance(1)

    async def _create(self, change: Change) -> None:
        if change.base is not None or change.target is None:
            return
        name = change.target.name
        if name not in self._ids:
            found = await read_named(self._clerk, name)
            namesakes = [node for node in found if not _leaves(self._plan, node)]
            existing = _only(change, namesakes)
            if existing is None:
                await self._create_now(name, change)
            else:
                _refuse_edited(change, existing, self._ids)
                self._learn(name, existing.id)

    async def _create_now(self, name: str, change: Change) -> None:
        # Edges to machines that come later are added when those have their ids.
        wanted = self._callees(change)
        callees = sorted(filter(MACHINE_ID.fullmatch, wanted))
        created = await patiently(partial(self._machines.create, name, scoped_machines=callees))
        self.done.created[name] = created.id
        self.done.added += len(callees)
        if len(callees) == len(wanted):
            self._whole.add(name)
        self._learn(name, created.id)
        self._advance(1 + len(callees))

    def _learn(self, name: str, machine_id: str) -> None:
        self._ids[name] = self._unwritten[name] = machine_id
        if time.monotonic() >= self._write_at:
            self._write_ids()

    def _write_ids(self) -> None:
        if self._unwritten:
            started = time.monotonic()
            write_ids(self._plan.file, self._unwritten)
            self._unwritten = {}
            ended = time.monotonic()
            self._write_at = ended + (ended - started) / _WRITING_SHARE

    async def _add(self, change: Change) -> None:
        if not change.added or change.name in self._whole:
            return
        live = await self._read(change)
        missing, surplus = self._edges(change, live)
        held = len(live.may_call)
        for callee in missing:
            if held >= MAX_EDGES and surplus:
                await self._cut_edge(live.id, surplus.pop(0))
                held -= 1
            await self._add_edge(live.id, callee)
            held += 1

    async def _cut(self, change: Change) -> None:
        if not change.cut:
            return
        live = await self._read(change)
        _, surplus = self._edges(change, live)
        for callee in surplus:
            await self._cut_edge(live.id, callee)

    async def _delete(self, change: Change) -> None:
        if change.target is not None or change.id is None:
            return
        try:
            await self._read(change)
            await patiently(partial(self._machines.delete, change.id))
        except NotFoundError:
            pass  # it is already deleted
        self.done.deleted += 1
        self._advance(1)

    async def _read(self, change: Change) -> Node:
        """Read the machine of a change again; raises `CommandError` if it was edited."""
        machine_id = change.id or self._ids[change.name]
        try:
            live = node_of(await patiently(partial(self._machines.get, machine_id)))
        except NotFoundError:
            if change.target is None:
                raise
            raise _edited(change, "it has been deleted") from None
        _refuse_edited(change, live, self._ids)
        return live

    def _callees(self, change: Change) -> frozenset[str]:
        callees = change.target.may_call if change.target else frozenset()
        return frozenset(self._ids.get(callee, callee) for callee in callees)

    def _edges(self, change: Change, live: Node) -> tuple[list[str], list[str]]:
        """Return the edges that a machine lacks, and its surplus edges, in order."""
        wanted = self._callees(change)
        return sorted(wanted - live.may_call), sorted(live.may_call - wanted)

    async def _add_edge(self, caller: str, callee: str) -> None:
        try:
            await patiently(partial(self._machines.create_scope, caller, callee))
        except ConflictError:
            pass  # the edge exists already
        self.done.added += 1
        self._advance(1)

    async def _cut_edge(self, caller: str, callee: str) -> None:
        try:
            await patiently(partial(self._machines.delete_scope, caller, callee))
        except NotFoundError:
            pass  # the edge is already removed
        self.done.cut += 1
        self._advance(1)
