"""A graph as a Mermaid flowchart, for a page in Markdown."""

from __future__ import annotations

import re
from typing import Final

from clerk_m2m.cli.graph.drawings.drawn_graph import DrawnGraph
from clerk_m2m.cli.graph.drawings.labels import fitted

# Mermaid draws no more by default (`maxEdges`).
MAX_EDGES: Final = 500
MAX_LABEL: Final = 60

# All that may stand in a quoted label as it is. A hyphen or a full stop could begin a list.
_PLAIN: Final = re.compile(r"[A-Za-z0-9_ ]")


def draw_mermaid(graph: DrawnGraph) -> str:
    """Draw every machine and every edge; the names of nodes are made up, so no label is code."""
    lines = ["flowchart LR"]
    lines += [f'  m{index}["{_quoted(label)}"]' for index, label in enumerate(graph.labels)]
    lines += [f"  m{caller} --> m{callee}" for caller, callee in sorted(graph.edges)]
    return "\n".join(lines) + "\n"


def _quoted(label: str) -> str:
    """Give what is not a letter or a digit of ASCII by its number, as Mermaid reads it: `#45;`."""
    shown = fitted(label, MAX_LABEL)
    return "".join(
        each if _PLAIN.match(each) or (each == "-" and at) else f"#{ord(each)};"
        for at, each in enumerate(shown)
    )
