"""A graph as a Mermaid flowchart, for a page in Markdown."""

from __future__ import annotations

import re
from typing import Final

from clerk_m2m.cli.graph.drawings.drawn_graph import DrawnGraph
from clerk_m2m.cli.graph.drawings.labels import fitted

# Mermaid draws no more by default (`maxEdges`).
MAX_EDGES: Final = 500
MAX_LABEL: Final = 60

# The characters that need no escape in a quoted label. A hyphen or full stop could start a list.
_PLAIN: Final = re.compile(r"[A-Za-z0-9_ ]")


def draw_mermaid(graph: DrawnGraph) -> str:
    """Draw every machine and edge; node names are generated, so a label is never read as code."""
    lines = ["flowchart LR"]
    lines += [f'  m{index}["{_quoted(label)}"]' for index, label in enumerate(graph.labels)]
    lines += [f"  m{caller} --> m{callee}" for caller, callee in sorted(graph.edges)]
    return "\n".join(lines) + "\n"


def _quoted(label: str) -> str:
    """Escape every character but ASCII letters and digits by its number, for Mermaid: `#45;`."""
    shown = fitted(label, MAX_LABEL)
    return "".join(
        each if _PLAIN.match(each) or (each == "-" and at) else f"#{ord(each)};"
        for at, each in enumerate(shown)
    )
