"""The commands of `clerk-m2m graph`: their input, questions, output and exit codes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated, Final

import typer

from clerk_m2m.cli.graph import apply as applying
from clerk_m2m.cli.graph import check as checking
from clerk_m2m.cli.graph import file as files
from clerk_m2m.cli.graph import merging, report
from clerk_m2m.cli.graph.assertions import Graph, check_assertions
from clerk_m2m.cli.graph.effect import effect_lines, takes_effect
from clerk_m2m.cli.graph.plan import Plan, is_plan, read_plan
from clerk_m2m.cli.graph.planning import make_plan
from clerk_m2m.cli.graph.reading import Snapshot, read_snapshot
from clerk_m2m.cli.graph.show import show
from clerk_m2m.cli.instance import ApiUrl, Instance
from clerk_m2m.cli.program import (
    FORMAT_VERSION,
    NO,
    AsJson,
    CommandError,
    Yes,
    confirm,
    print_json,
    print_lines,
    print_table,
    progress,
    say,
)

graph: Final = typer.Typer(
    help="The scope graph: who may call whom, as a file that is planned and applied.",
    no_args_is_help=True,
)

GraphPath = Annotated[Path, typer.Argument(metavar="FILE", help="The graph file (TOML).")]
InFile = Annotated[
    Path | None,
    typer.Option("--file", metavar="GRAPH", help="Ask this graph file instead of the instance."),
]
Prune = Annotated[
    bool, typer.Option("--prune", help="Delete the machines that the file does not list.")
]


@graph.callback()
def _graph() -> None:
    """The scope graph: who may call whom, as a file that is planned and applied."""


@graph.command(epilog="Example: clerk-m2m graph pull --out graph.toml")
def pull(
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write or update this file, else print."),
    ] = None,
    api_url: ApiUrl = None,
    as_json: AsJson = False,
) -> None:
    """Write the instance's machines and edges as a graph file.

    An existing file is updated: entries that have not changed stay as they are, with comments.
    """
    existing = files.load(out) if out is not None and out.exists() else None
    snapshot = asyncio.run(_read(Instance.from_env(api_url), as_json=as_json))
    pulled = merging.merged(existing, snapshot) if existing else merging.fresh(snapshot)
    changed = existing is None or existing.text != pulled.text
    if out is not None and changed:
        files.write_text(out, pulled.text)
    for name in pulled.removed:
        say(f"[machines.{name}] is not in the instance: it was removed from {out}.")
    if as_json:
        print_json(_snapshot_json(snapshot))
    elif out is None:
        typer.echo(pulled.text.encode(), nl=False)  # TOML is UTF-8, whatever the locale is
    else:
        machines, edges = len(snapshot.machines), snapshot.edges
        done = "Wrote" if changed else "No change in"
        say(f"{done} {out}. Machines: {machines}. Edges: {edges}.")


@graph.command(epilog="Example: clerk-m2m graph plan graph.toml --out plan.json")
def plan(
    file: GraphPath,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="PLAN", help="Write the plan here, for apply.")
    ] = None,
    prune: Prune = False,
    api_url: ApiUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show what `apply` would change. Exits with 0 if nothing, with 1 if anything."""
    graph_file = files.load(file)
    snapshot = asyncio.run(_read(Instance.from_env(api_url), as_json=as_json))
    made = make_plan(graph_file, snapshot, prune=prune)
    if out is not None:
        document = {"format_version": FORMAT_VERSION, **made.as_json()}
        files.write_text(out, json.dumps(document, indent=2) + "\n")
    if as_json:
        print_json({**made.as_json(), "same": made.same, "takes_effect": _effect(made)})
    else:
        print_lines(report.plan_lines(made))
        if not made.same:
            print_lines(effect_lines(made.longest_token_ttl))
    raise typer.Exit(0 if made.same else NO)


@graph.command(epilog="Example: clerk-m2m graph apply graph.toml")
def apply(
    file: Annotated[
        Path, typer.Argument(metavar="FILE|PLAN", help="The graph file, or a plan of it.")
    ],
    prune: Prune = False,
    allow_large_cut: Annotated[
        bool,
        typer.Option(
            "--allow-large-cut", help="Do not ask before removing more than half the edges."
        ),
    ] = False,
    yes: Yes = False,
    api_url: ApiUrl = None,
    as_json: AsJson = False,
) -> None:
    """Make the instance what the file says. After a stop or an error, run it again.

    Each machine is read again before it is changed; one that somebody has edited since the plan
    was made is not touched. The ids of new machines are written into the file.
    """
    text = files.read_text(file)
    instance = Instance.from_env(api_url)
    if is_plan(text):
        if prune:
            raise CommandError("--prune belongs to `graph plan`: the plan says what is deleted.")
        made = read_plan(file, text)
        snapshot = asyncio.run(_read(instance, as_json=as_json))
    else:
        graph_file = files.load(file)
        snapshot = asyncio.run(_read(instance, as_json=as_json))
        made = make_plan(graph_file, snapshot, prune=prune)
    applying.check_plan(made, snapshot)
    if names := _new_names(made):
        files.refuse_unless_ids_fit(files.load(made.file), names)
    print_lines(report.plan_lines(made), err=as_json)
    if not made.same:
        _ask(instance, made, yes=yes, allow_large_cut=allow_large_cut)
    done = asyncio.run(_apply(instance, made, snapshot, as_json=as_json))
    if as_json:
        print_json({"instance": made.instance_id, **done.as_json(), "takes_effect": _effect(made)})
    elif not made.same:
        print_lines(report.done_lines(done))
        print_lines(effect_lines(made.longest_token_ttl))


def _new_names(made: Plan) -> list[str]:
    """Return the machines whose ids are to be written into the file."""
    return [*made.found, *(each.name for each in made.changes if each.base is None)]


def _ask(instance: Instance, made: Plan, *, yes: bool, allow_large_cut: bool) -> None:
    instance.ask(f"make these changes (machines: {len(made.changes)})", yes=yes)
    if made.ends_most:
        confirm(
            f"Edges to remove: {made.ended} of {made.edges}, more than half. Continue?",
            yes=allow_large_cut,
            instead="--allow-large-cut",
        )


async def _apply(
    instance: Instance, made: Plan, snapshot: Snapshot, *, as_json: bool
) -> applying.Done:
    async with instance.client() as clerk:
        with progress("Applying", shown=not as_json) as advance:
            run = applying.Run(clerk, made, snapshot, advance)
            advance(0, run.steps)
            return await run.run()


@graph.command(epilog="Example: clerk-m2m graph check billing orders")
def check(
    caller: Annotated[str, typer.Argument(help="The calling machine: its name or id.")],
    callee: Annotated[str, typer.Argument(help="The machine to be called: its name or id.")],
    file: InFile = None,
    api_url: ApiUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show whether CALLER may call CALLEE, and why. Exits with 0 for yes, with 1 for no."""
    if file is not None:
        graph_file = files.load(file)
        checked = checking.Checked(
            caller=checking.find_in_file(graph_file, caller),
            callee=checking.find_in_file(graph_file, callee),
            where=str(file),
        )
        token_ttl = None
    else:
        checked = asyncio.run(_check(Instance.from_env(api_url), caller, callee))
        token_ttl = checked.caller.token_ttl
    if as_json:
        print_json({**checked.as_json(), "takes_effect": takes_effect(token_ttl)})
    else:
        print_lines([checked.sentence, ""])
        print_table(
            ["credential of the caller", "service without a graph", "service with this graph"],
            [
                (way.credential, way.without_graph, way.with_graph)
                for way in checking.ways(allowed=checked.allowed)
            ],
        )
        print_lines(["", *effect_lines(token_ttl)])
    raise typer.Exit(0 if checked.allowed else NO)


async def _check(instance: Instance, caller: str, callee: str) -> checking.Checked:
    async with instance.client() as clerk:
        return checking.Checked(
            caller=await checking.find_machine(clerk, caller),
            callee=await checking.find_machine(clerk, callee),
            where=f"the {instance}",
        )


@graph.command("test", epilog="Example: clerk-m2m graph test policy.toml --file graph.toml")
def run_assertions(
    file: GraphPath,
    graph_path: InFile = None,
    api_url: ApiUrl = None,
    as_json: AsJson = False,
) -> None:
    """Assert each `may_call` and `must_not_call` of FILE. Exits with 0 if all hold, else with 1."""
    graph_file = files.load(file)
    if graph_path is not None:
        tested = Graph.of_file(files.load(graph_path))
    else:
        snapshot = asyncio.run(_read(Instance.from_env(api_url), as_json=as_json))
        tested = Graph.of_instance(snapshot)
    assertions = check_assertions(graph_file, tested)
    failed = [each for each in assertions if not each.holds]
    if as_json:
        print_json(
            {
                "graph": tested.where,
                "checked": len(assertions),
                "failed": [
                    {"caller": each.caller, "callee": each.callee, "must_be": each.must_be}
                    for each in failed
                ],
            }
        )
    else:
        print_lines([f"FAILED {each.sentence}" for each in failed])
        print_lines([f"{len(assertions)} assertions, {len(failed)} failed, in {tested.where}."])
    raise typer.Exit(NO if failed else 0)


graph.command(epilog="Example: clerk-m2m graph show --around billing --depth 1")(show)


async def _read(instance: Instance, *, as_json: bool) -> Snapshot:
    async with instance.client() as clerk:
        with progress("Reading machines", shown=not as_json) as advance:
            return await read_snapshot(clerk, advance)


def _snapshot_json(snapshot: Snapshot) -> dict[str, object]:
    return {
        "instance": snapshot.instance_id,
        "machines": [
            {"id": node.id, "name": node.name, "may_call": sorted(node.may_call)}
            for node in sorted(snapshot.machines.values(), key=lambda node: node.name)
        ],
    }


def _effect(made: Plan) -> dict[str, object]:
    return takes_effect(made.longest_token_ttl)
