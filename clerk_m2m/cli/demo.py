"""`clerk-m2m demo`: runs the demo once."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer


def demo(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document and nothing else.")
    ] = False,
) -> None:
    """Run the demo: three services and an emulated Clerk, on real sockets.

    Exits with 1 if an outcome is not the expected one.
    """
    from clerk_m2m.demo.playing import play

    report = asyncio.run(play(as_json=as_json))
    raise typer.Exit(report.exit_code)
