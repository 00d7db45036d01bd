"""Graphs to draw: explicit ones, and generated ones of a given size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Final

from clerk_m2m.cli.graph.drawings.drawn_graph import DrawnGraph

ROLES: Final = ["gateway", "api", "worker", "events", "ledger", "index", "cache", "store"]

# Names that attack a terminal, SVG, Mermaid or JSON.
HOSTILE: Final = {
    "ansi": "\x1b[31mred\x1b]0;title\x07",
    "csi": "\x9b31mred",
    "newline": "one\ntwo\r\nthree",
    "bidi": "\u202egpj.exe\u2066\u200f",
    "script": "</text></svg><script>alert(1)</script>",
    "entity": "&lt;b&gt; & <!-- ]]> -->",
    "quotes": '"\'`"]; click m0 "javascript:alert(1)"',
    "markup": "[red]bold[/red] %%{init}%% #quot;",
    "surrogate": "half \ud800",
    "zalgo": "z" + "\u0335\u0321\u0489" * 50,
    "hebrew": "\u05d0\u05d1\u05d2",
    "wide": "\u6ce8\u6587\u7ba1\u7406",
    "blank": "\u2800\u3164",
    "spaces": "  padded ",
    "empty": "",
    "long": "x" * 20_000,
}


def graph_of(edges: Mapping[str, Sequence[str]]) -> DrawnGraph:
    """A graph from the callees of each caller; its machines are in the order of their labels."""
    labels = sorted({*edges, *(callee for callees in edges.values() for callee in callees)})
    return DrawnGraph(
        labels=tuple(labels),
        edges=frozenset(
            (labels.index(caller), labels.index(callee))
            for caller, callees in edges.items()
            for callee in callees
        ),
    )


def hostile_graph() -> DrawnGraph:
    """Each hostile machine may call the next."""
    names = tuple(HOSTILE.values())
    return DrawnGraph(
        labels=names, edges=frozenset((index, index + 1) for index in range(len(names) - 1))
    )


def clusters(teams: int, size: int) -> DrawnGraph:
    """Teams whose machines call the next ones of their own team, and few of others; shuffled."""
    random = Random(1)
    machines = [(team, place) for team in range(teams) for place in range(size)]
    random.shuffle(machines)
    edges = set()
    for caller, (team, place) in enumerate(machines):
        for callee, (other, further) in enumerate(machines):
            likely = 0.5 if other == team else 0.01
            if further > place and random.random() < likely:
                edges.add((caller, callee))
    labels = tuple(f"team{team}-{place:02}" for team, place in machines)
    return DrawnGraph(labels=labels, edges=frozenset(edges))


def dense(size: int) -> DrawnGraph:
    """A fifth of all edges that there can be."""
    random = Random(2)
    pairs = ((a, b) for a in range(size) for b in range(size) if a != b)
    return DrawnGraph(
        labels=tuple(f"{ROLES[at % len(ROLES)]}-{at}" for at in range(size)),
        edges=frozenset(pair for pair in pairs if random.random() < 0.2),
    )
