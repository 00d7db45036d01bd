"""`clerk-m2m graph show`: the scope graph as a drawing."""

from __future__ import annotations

import asyncio
import codecs
import shutil
import sys
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from clerk_m2m.cli.graph import file as graph_file
from clerk_m2m.cli.graph.drawings.arrangement import arranged
from clerk_m2m.cli.graph.drawings.drawn_graph import DrawnGraph
from clerk_m2m.cli.graph.drawings.glyphs import ASCII, UNICODE, Glyphs
from clerk_m2m.cli.graph.drawings.mermaid import MAX_EDGES, draw_mermaid
from clerk_m2m.cli.graph.drawings.reach import find_reach
from clerk_m2m.cli.graph.drawings.svg_layers import draw_svg_layers, suits_layers
from clerk_m2m.cli.graph.drawings.svg_matrix import draw_svg_matrix
from clerk_m2m.cli.graph.drawings.text_matrix import TooWideError, draw_text_matrix
from clerk_m2m.cli.graph.drawings.tree import draw_around, draw_tree
from clerk_m2m.cli.graph.reading import read_snapshot
from clerk_m2m.cli.graph.shown import ShownGraph
from clerk_m2m.cli.instance import ApiUrl, Instance
from clerk_m2m.cli.program import AsJson, CommandError, print_json, progress, say

# With more machines, a tree or arrows are harder to read than a matrix.
MAX_DRAWN_MACHINES: Final = 20
MAX_DRAWN_EDGES: Final = 40
# A matrix of more machines does not fit a screen and takes seconds.
MAX_MATRIX: Final = 1_000
# The width if the output is not a terminal and COLUMNS is not set.
_WIDTH: Final = 200

Format = Literal["text", "svg", "mermaid", "json"]


def show(
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="GRAPH", help="Draw this graph file, not the instance."),
    ] = None,
    around: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Only what is near this machine; a name or an id."),
    ] = None,
    depth: Annotated[
        int, typer.Option(min=1, help="With --around: over how many edges, in both directions.")
    ] = 2,
    output: Annotated[Format, typer.Option("--format", help="What to print.")] = "text",
    api_url: ApiUrl = None,
    as_json: AsJson = False,
) -> None:
    """Draw who may call whom: a tree of up to 20 machines, and a matrix of more.

    In a matrix a row may call a column, and machines that call one another most stand together.
    """
    shown = _read(file, api_url)
    center = None if around is None else shown.find(around)
    if as_json or output == "json":
        print_json((shown if center is None else shown.around(center, depth)).as_dict())
    elif output == "text":
        _print_text(shown.drawn, center, depth)
    else:
        graph = shown.drawn if center is None else shown.drawn.around(center, depth)
        typer.echo(_svg(graph) if output == "svg" else _mermaid(graph), nl=False)


def _read(file: Path | None, api_url: str | None) -> ShownGraph:
    if file is not None:
        return ShownGraph.of_file(graph_file.load(file).machines)

    async def read() -> ShownGraph:
        async with Instance.from_env(api_url).client() as clerk:
            with progress("Reading machines") as advance:
                return ShownGraph.of_instance(await read_snapshot(clerk, advance))

    return asyncio.run(read())


def _print_text(graph: DrawnGraph, center: int | None, depth: int) -> None:
    encoding = sys.stdout.encoding or "ascii"
    glyphs = UNICODE if codecs.lookup(encoding).name.startswith("utf") else ASCII
    lines = _text(graph, center, depth, glyphs, shutil.get_terminal_size((_WIDTH, 24)).columns)
    # A name may contain characters that the terminal's encoding lacks.
    typer.echo("\n".join(lines).encode(encoding, "backslashreplace").decode(encoding))


def _text(
    graph: DrawnGraph, center: int | None, depth: int, glyphs: Glyphs, width: int
) -> list[str]:
    if center is not None:
        return draw_around(graph, center, depth, glyphs, width)
    if _is_small(graph):
        return draw_tree(graph, find_reach(graph), glyphs, width)
    _refuse_too_many(graph)
    reach = find_reach(graph)
    try:
        return draw_text_matrix(graph, reach, arranged(graph, reach), glyphs, width)
    except TooWideError as exc:
        raise CommandError(
            f"A matrix of {len(graph)} machines needs {exc.needed} columns, and there are {width}. "
            "Use a wider terminal, --format svg, or --around NAME."
        ) from None


def _svg(graph: DrawnGraph) -> str:
    _refuse_too_many(graph)
    reach = find_reach(graph)
    if _is_small(graph) and suits_layers(graph, reach):
        return draw_svg_layers(graph, reach)
    return draw_svg_matrix(graph, reach, arranged(graph, reach))


def _mermaid(graph: DrawnGraph) -> str:
    if len(graph.edges) > MAX_EDGES:
        say(
            f"Warning: Mermaid draws {MAX_EDGES} edges by default, and there are "
            f"{len(graph.edges)}. Use --format svg, or --around NAME."
        )
    return draw_mermaid(graph)


def _is_small(graph: DrawnGraph) -> bool:
    return len(graph) <= MAX_DRAWN_MACHINES and len(graph.edges) <= MAX_DRAWN_EDGES


def _refuse_too_many(graph: DrawnGraph) -> None:
    if len(graph) > MAX_MATRIX:
        raise CommandError(
            f"{len(graph):,} machines are too many for one drawing (at most {MAX_MATRIX:,}). "
            "Use --around NAME, or --format json."
        )
