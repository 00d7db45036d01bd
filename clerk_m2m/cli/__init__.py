"""The command line: `clerk-m2m emulator` and `clerk-m2m demo`.

One file per group of commands; this one puts them together. What a command prints to be read by a
program goes to stdout; warnings and errors go to stderr, one line each. May import every other
folder. Sole owner of `typer`.
"""

from __future__ import annotations

from typing import Annotated

import typer

import clerk_m2m
from clerk_m2m.cli.demo import demo
from clerk_m2m.cli.emulator import emulator

__all__ = ["app"]

app = typer.Typer(
    help="Clerk machine authentication for Starlette and FastAPI services.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(demo)
app.command()(emulator)


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
