"""`clerk-m2m machines`: the machines of an instance, and their secret keys."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer

from clerk_m2m.backend_api.client import ClerkClient
from clerk_m2m.backend_api.resources import Machine
from clerk_m2m.cli.graph.check import find_machine
from clerk_m2m.cli.graph.reading import Node
from clerk_m2m.cli.instance import ApiUrl, Instance
from clerk_m2m.cli.program import AsJson, Yes, print_json, print_table, say
from clerk_m2m.cli.secret_text import HandOver, SecretFile, ShowSecret, handed_over

MAX_PREVIOUS_TTL: Final = 28_800
# An exact pattern, because a machine may have a name such as `user_service`.
_SUBJECT: Final = re.compile(r"(user|org|mch)_[A-Za-z0-9_]{27}")

machines: Final = typer.Typer(
    help="The machines of an instance, and their secret keys.", no_args_is_help=True
)


@machines.callback()
def _machines() -> None:
    """The machines of an instance, and their secret keys."""


@machines.command("list", epilog="Example: clerk-m2m machines list --query orders")
def list_machines(
    query: Annotated[
        str | None, typer.Option("--query", metavar="TEXT", help="Part of a name, or an id.")
    ] = None,
    api_url: ApiUrl = None,
    as_json: AsJson = False,
) -> None:
    """List the machines, the oldest first. `graph show` draws who may call whom."""
    found = asyncio.run(_list(Instance.from_env(api_url), query))
    if as_json:
        print_json({"machines": [_machine_json(each) for each in found]})
        return
    print_table(
        ["id", "name", "may call", "tokens live", "created"],
        [
            (
                each.id,
                each.name,
                str(len(each.scoped_machines)),
                f"{each.default_token_ttl} s",
                each.created_at.isoformat(" ", "minutes") if each.created_at else "",
            )
            for each in found
        ],
    )


async def _list(instance: Instance, query: str | None) -> list[Machine]:
    async with instance.client() as clerk:
        return [each async for each in clerk.machines.iter(query=query, order_by="+created_at")]


@machines.command(
    epilog="Example: clerk-m2m machines create orders --may-call stock --secret-file orders.key"
)
def create(
    name: Annotated[str, typer.Argument(help="The name of the new machine.")],
    may_call: Annotated[
        list[str] | None,
        typer.Option("--may-call", metavar="NAME|ID", help="A machine to be called; repeatable."),
    ] = None,
    token_ttl: Annotated[
        int | None,
        typer.Option("--token-ttl", metavar="SECONDS", help="How long its tokens live."),
    ] = None,
    secret_file: SecretFile = None,
    show_secret: ShowSecret = False,
    yes: Yes = False,
    api_url: ApiUrl = None,
    as_json: AsJson = False,
) -> None:
    """Create a machine. Without --secret-file or --show-secret its key is not handed over.

    `machines rotate-key` gives it a key that is.
    """
    instance = Instance.from_env(api_url)
    with handed_over(secret_file, show_secret, required=False) as hand_over:
        instance.ask(f"create the machine {name}", yes=yes)
        made = asyncio.run(_create(instance, name, may_call or [], token_ttl, hand_over))
    if as_json:
        print_json({"machine": _machine_json(made)}, err=show_secret)
    else:
        callees = ", ".join(each.name for each in made.scoped_machines) or "nobody"
        print_table(["id", "name", "may call"], [(made.id, made.name, callees)], err=show_secret)


async def _create(
    instance: Instance,
    name: str,
    may_call: Sequence[str],
    token_ttl: int | None,
    hand_over: HandOver,
) -> Machine:
    async with instance.client() as clerk:
        callees = [(await find_machine(clerk, each)).id for each in may_call]
        made = await clerk.machines.create(
            name, scoped_machines=callees, default_token_ttl=token_ttl
        )
        hand_over(made.secret_key)
        return made


@machines.command(
    "rotate-key",
    epilog="Example: clerk-m2m machines rotate-key orders --secret-file orders.key",
)
def rotate_key(
    machine: Annotated[str, typer.Argument(help="The machine: its name or id.")],
    keep_old: Annotated[
        int,
        typer.Option(
            "--keep-old",
            metavar="SECONDS",
            min=0,
            max=MAX_PREVIOUS_TTL,
            help="How long the old key still works.",
        ),
    ] = 3600,
    secret_file: SecretFile = None,
    show_secret: ShowSecret = False,
    yes: Yes = False,
    api_url: ApiUrl = None,
    as_json: AsJson = False,
) -> None:
    """Rotate a machine's secret key; the old one stays valid for --keep-old seconds."""
    instance = Instance.from_env(api_url)
    with handed_over(secret_file, show_secret) as hand_over:
        instance.ask(f"give {machine} a new key (the old one ends in {keep_old} s)", yes=yes)
        found = asyncio.run(_rotate(instance, machine, keep_old, hand_over))
    if as_json:
        rotated = {"id": found.id, "name": found.name}
        print_json({"machine": rotated, "old_key_seconds": keep_old}, err=show_secret)
    else:
        say(f"{found.name} ({found.id}) has a new key. The old one works for {keep_old} s more.")


async def _rotate(instance: Instance, machine: str, keep_old: int, hand_over: HandOver) -> Node:
    async with instance.client() as clerk:
        found = await find_machine(clerk, machine)
        hand_over(await clerk.machines.rotate_secret_key(found.id, previous_token_ttl=keep_old))
        return found


async def subject_of(clerk: ClerkClient, given: str) -> str:
    """Return a subject's id: an id is returned unchanged, a machine's name is looked up."""
    if _SUBJECT.fullmatch(given):
        return given
    return (await find_machine(clerk, given)).id


def _machine_json(machine: Machine) -> dict[str, Any]:
    return {
        "id": machine.id,
        "name": machine.name,
        "instance": machine.instance_id,
        "may_call": sorted(each.id for each in machine.scoped_machines),
        "default_token_ttl": machine.default_token_ttl,
        "created_at": machine.created_at.isoformat() if machine.created_at else None,
    }
