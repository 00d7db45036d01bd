"""Makes a plan from a graph file and the machines of an instance; without I/O."""

from __future__ import annotations

from collections.abc import Iterable

from clerk_m2m.cli.graph.file import GraphFile
from clerk_m2m.cli.graph.plan import Change, Plan, State
from clerk_m2m.cli.graph.reading import Node, Snapshot
from clerk_m2m.cli.program import CommandError
from clerk_m2m.graph.document import MachineTable
from clerk_m2m.identity import MACHINE_ID

# Clerk's limit of edges per machine.
MAX_EDGES = 150


def make_plan(file: GraphFile, snapshot: Snapshot, *, prune: bool) -> Plan:
    """Compare file and instance; raises `CommandError` if the file cannot be applied.

    `may_call` of a listed machine is complete. A machine that is not listed is deleted with
    `prune`, and otherwise not changed.
    """
    found = _found(file, snapshot)
    listed = {table.id or found.get(table.name) for table in file.machines} - {None}
    deleted = [node for node in snapshot.machines.values() if prune and node.id not in listed]
    gone = {node.id for node in deleted}
    changes: list[Change] = []
    before: list[Node] = []
    for table in file.machines:
        target = State(
            name=table.name,
            may_call=frozenset(found.get(callee, callee) for callee in table.may_call),
        )
        _refuse_impossible(file, table, target, snapshot, gone)
        own = table.id or found.get(table.name)
        if own is None:
            changes.append(Change(id=None, base=None, target=target))
            continue
        node = snapshot.machines[own]
        before.append(node)
        base = State(name=node.name, may_call=node.may_call)
        if base != target:
            changes.append(Change(id=own, base=base, target=target))
    for node in deleted:
        base = State(name=node.name, may_call=node.may_call)
        changes.append(Change(id=node.id, base=base, target=None))
    _refuse_equal_names(file, snapshot, changes)
    return _plan(file, snapshot, changes, found, before=[*before, *deleted])


def _found(file: GraphFile, snapshot: Snapshot) -> dict[str, str]:
    """Return machines that a killed run created without writing their ids into the file.

    Clerk does not record who created a machine. So a machine with the name is used only if that
    removes nothing from it: the file has all its edges.
    """
    listed = {table.id for table in file.machines}
    unlisted: dict[str, list[Node]] = {}
    for node in snapshot.machines.values():
        if node.id not in listed:
            unlisted.setdefault(node.name, []).append(node)
    new = [table for table in file.machines if table.id is None]
    found = {
        table.name: unlisted[table.name][0].id
        for table in new
        if len(unlisted.get(table.name, ())) == 1
    }
    for table in new:
        namesakes = unlisted.get(table.name, [])
        if len(namesakes) > 1:
            raise _equal_names(table.name, namesakes)
        if namesakes:
            wanted = {found.get(callee, callee) for callee in table.may_call}
            if not namesakes[0].may_call <= wanted:
                raise CommandError(
                    f"The instance has a machine {table.name} already, {namesakes[0].id}, with "
                    f"edges that [machines.{table.name}] does not have. If it is the same machine, "
                    f'add to its table: id = "{namesakes[0].id}". If not, choose another name.'
                )
    return found


def _refuse_impossible(
    file: GraphFile, table: MachineTable, target: State, snapshot: Snapshot, gone: set[str]
) -> None:
    place = f"{file.path}: [machines.{table.name}]"
    if table.id is not None and table.id not in snapshot.machines:
        raise CommandError(
            f"{place} {table.id} is not in this instance ({snapshot.instance_id}). If it was "
            "deleted, remove its table from the file, or only its id to create it again."
        )
    if len(target.may_call) > MAX_EDGES:
        raise CommandError(f"{place} may_call has more than {MAX_EDGES} machines, Clerk's limit.")
    for callee in sorted(target.may_call):
        if callee in gone:
            raise CommandError(f"{place} may_call names {callee}, which --prune would delete.")
        if MACHINE_ID.fullmatch(callee) and callee not in snapshot.machines:
            raise CommandError(f"{place} may_call names {callee}, which is not in this instance.")


def _refuse_equal_names(file: GraphFile, snapshot: Snapshot, changes: Iterable[Change]) -> None:
    """Raise if the plan would leave two machines with one name, one of them in the file."""
    changed = {change.id: change for change in changes if change.id is not None}
    listed = {table.name for table in file.machines}
    holders: dict[str, list[Node]] = {}
    for node in snapshot.machines.values():
        change = changed.get(node.id)
        target = State(name=node.name) if change is None else change.target
        if target is not None and target.name in listed:
            holders.setdefault(target.name, []).append(node)
    for name, nodes in holders.items():
        if len(nodes) > 1:
            raise _equal_names(name, nodes)


def _equal_names(name: str, nodes: list[Node]) -> CommandError:
    ids = " and ".join(node.id for node in nodes)
    return CommandError(
        f"There would be two machines called {name}: {ids}. Rename or delete one of them."
    )


def _plan(
    file: GraphFile,
    snapshot: Snapshot,
    changes: list[Change],
    found: dict[str, str],
    *,
    before: list[Node],
) -> Plan:
    kept = {change.id: change.target for change in changes if change.id is not None}
    ended = sum(
        len(node.may_call - (target.may_call if target else frozenset()))
        for node in before
        if node.id in kept
        for target in [kept[node.id]]
    )
    mentioned = {
        key
        for change in changes
        for key in (change.id, *change.added, *change.cut)
        if key is not None and key in snapshot.machines
    }
    return Plan(
        instance_id=snapshot.instance_id,
        file=file.path,
        changes=tuple(changes),
        found=found,
        edges=sum(len(node.may_call) for node in before),
        ended=ended,
        names={own: snapshot.machines[own].name for own in sorted(mentioned)},
        longest_token_ttl=snapshot.longest_token_ttl,
    )
