"""The command line, `clerk-m2m`: one file or folder for each group of commands.

This file puts them together. `program` holds the common parts of all commands (exit codes,
`--json`, tables, questions). `instance` opens the instance that the environment names.
`secret_text` reads and writes secrets. `verifying` and `told` describe credentials. A command
prints its result to stdout, and warnings and errors to stderr. May import every other folder.
Sole owner of `typer` and `tomlkit`.
"""

from __future__ import annotations

from typing import Annotated

import typer

import clerk_m2m
from clerk_m2m.cli.demo import demo
from clerk_m2m.cli.doctor import doctor
from clerk_m2m.cli.emulator import emulator
from clerk_m2m.cli.explain import explain
from clerk_m2m.cli.graph import graph
from clerk_m2m.cli.invalidate import invalidate
from clerk_m2m.cli.keys import keys
from clerk_m2m.cli.machines import machines
from clerk_m2m.cli.program import CommandLine
from clerk_m2m.cli.tokens import tokens

__all__ = ["app"]

app = typer.Typer(
    cls=CommandLine,
    help="Clerk machine authentication for Starlette and FastAPI services.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command(epilog="Example: clerk-m2m demo")(demo)
app.command(epilog="Example: clerk-m2m emulator --seed graph.toml --db clerk.db")(emulator)
app.command(epilog="Example: clerk-m2m doctor --workers 4")(doctor)
app.command(epilog="Example: clerk-m2m explain --callee orders < token")(explain)
app.command(epilog="Example: clerk-m2m invalidate mt_0123456789abcdef0123456789abcdef")(invalidate)
app.add_typer(graph, name="graph")
app.add_typer(machines, name="machines")
app.add_typer(tokens, name="tokens")
app.add_typer(keys, name="keys")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"clerk-m2m {clerk_m2m.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Clerk machine authentication for Starlette and FastAPI services."""
