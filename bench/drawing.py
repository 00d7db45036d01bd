"""The CPU time for drawing an SVG of 200 machines: `python -m bench.drawing`."""

from __future__ import annotations

import random
import time

from clerk_m2m.cli.graph.drawings.arrangement import arranged
from clerk_m2m.cli.graph.drawings.drawn_graph import DrawnGraph
from clerk_m2m.cli.graph.drawings.reach import find_reach
from clerk_m2m.cli.graph.drawings.svg_matrix import draw_svg_matrix

SIZE = 200
ROUNDS = 9


def graph(density: float) -> DrawnGraph:
    """Return a graph of 200 machines with this part of all possible edges."""
    chance = random.Random(2)
    pairs = ((a, b) for a in range(SIZE) for b in range(SIZE) if a != b)
    return DrawnGraph(
        labels=tuple(f"machine-{at}" for at in range(SIZE)),
        edges=frozenset(pair for pair in pairs if chance.random() < density),
    )


def milliseconds(drawn: DrawnGraph) -> float:
    """Return the shortest time of a few rounds, from the edges to the text of the SVG."""
    took = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        reach = find_reach(drawn)
        draw_svg_matrix(drawn, reach, arranged(drawn, reach))
        took.append(time.process_time() - begun)
    return 1000 * min(took)


if __name__ == "__main__":
    for density in (0.01, 0.05, 0.2):
        drawn = graph(density)
        print(f"{len(drawn.edges):5} edges: {milliseconds(drawn):.0f} ms (aim: 50)")
