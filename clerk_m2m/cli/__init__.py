"""The command line, `clerk-m2m`: one file or folder for each group of commands.

This file puts them together. `program` holds what all commands share (exit codes, `--json`, tables,
questions), `instance` opens the instance that the environment names. What a command prints to be
read by a program goes to stdout; warnings and errors go to stderr. May import every other folder.
Sole owner of `typer` and `tomlkit`.
"""

from __future__ import annotations

from typing import Annotated

import typer

import clerk_m2m
from clerk_m2m.cli.demo import demo
from clerk_m2m.cli.emulator import emulator
from clerk_m2m.cli.graph import graph
from clerk_m2m.cli.program import CommandLine

__all__ = ["app"]

app = typer.Typer(
    cls=CommandLine,
    help="Clerk machine authentication for Starlette and FastAPI services.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(demo)
app.command()(emulator)
app.add_typer(graph, name="graph")


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
