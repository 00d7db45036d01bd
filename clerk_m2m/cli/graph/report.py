"""The texts of `graph plan` and `graph apply` for a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from clerk_m2m.cli.graph.apply import Done
from clerk_m2m.cli.graph.plan import Change, Plan

# A list of more edges than this is for `--json`.
_SHOWN: Final = 20


def plan_lines(plan: Plan) -> Iterator[str]:
    """Return the changes of a plan, one machine or edge per line."""
    for name, machine_id in plan.found.items():
        yield f"found     {name} is {machine_id}; apply writes its id into {plan.file}"
    for change in plan.changes:
        yield from _change_lines(plan, change)
    yield summary(plan)


def _change_lines(plan: Plan, change: Change) -> Iterator[str]:
    if change.base and change.target and change.base.name != change.target.name:
        yield f"rename    {change.base.name} to {change.target.name} ({change.id})"
    elif change.action != "change":
        yield f"{change.action:<9} {change.name}" + (f" ({change.id})" if change.id else "")
    for sign, callees in (("+", change.added), ("-", change.cut)):
        for callee in callees[:_SHOWN]:
            yield f"  {sign} {change.name} -> {plan.label(callee)}"
        if len(callees) > _SHOWN:
            yield f"  {sign} {change.name} -> {len(callees) - _SHOWN} more"


def summary(plan: Plan) -> str:
    """Return the numbers of changes in a plan, as a sentence."""
    if plan.same:
        return "Nothing to change: the instance has what the file says."
    actions = [change.action for change in plan.changes]
    renamed = sum(
        1 for each in plan.changes if each.base and each.target and each.base.name != each.name
    )
    counts = (
        f"{actions.count('create')} to create, {renamed} to rename, "
        f"{actions.count('delete')} to delete"
    )
    added = sum(len(change.added) for change in plan.changes)
    return f"Machines: {counts}. Edges: {added} to add, {plan.ended} to cut, of {plan.edges}."


def done_lines(done: Done) -> Iterator[str]:
    """Return the changes of a run as lines."""
    for name, machine_id in done.created.items():
        yield f"created   {name} ({machine_id})"
    yield (
        f"Done. Machines: {len(done.created)} created, {done.renamed} renamed, {done.deleted} "
        f"deleted. Edges: {done.added} added, {done.cut} cut."
    )
