"""`docs/benchmarks.svg`: each row's ratio as a bar, with its spread and its aim."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bench.measure import Row
from bench.report import aim, number

WIDTH, LEFT, RIGHT, TOP, STEP = 880, 470, 780, 64, 34
MOST = 2.0

HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"
  font-family="system-ui, sans-serif" font-size="12">
<title>clerk_m2m compared with the alternatives</title>
<style>
  .text {{ fill: #24292f; }} .faint {{ fill: #57606a; }} .line {{ stroke: #8c959f; }}
  .met {{ fill: #2da44e; }} .missed {{ fill: #cf222e; }} .spread {{ stroke: #24292f; }}
  .aim {{ stroke: #0969da; stroke-width: 2; }}
  @media (prefers-color-scheme: dark) {{
    .text {{ fill: #e6edf3; }} .faint {{ fill: #9198a1; }} .spread {{ stroke: #e6edf3; }}
  }}
</style>
<text class="text" x="16" y="24" font-size="15">This package divided by the alternative</text>
<text class="faint" x="16" y="42">bar: median; thin line: quartiles; blue: the aim; \
1: the same as the alternative</text>
"""


def draw(rows: Sequence[Row]) -> str:
    """Return the plot of the measured rows that have an aim."""
    main = [row for row in rows if row.aim is not None and row.pairs]
    height = TOP + STEP * len(main) + 16
    parts = [HEAD.format(width=WIDTH, height=height), _unity(height)]
    parts += [_bar(row, TOP + STEP * index) for index, row in enumerate(main)]
    return "".join([*parts, "</svg>\n"])


def _unity(height: int) -> str:
    x = _x(1.0)
    return (
        f'<line class="line" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{height - 12}" '
        'stroke-dasharray="3 3"/>\n'
    )


def _bar(row: Row, top: int) -> str:
    middle = top + 11
    lower, upper = (_x(value) for value in row.spread)
    bound = _x(row.aim or 0.0)
    return (
        f'<text class="text" x="{LEFT - 10}" y="{middle + 4}" text-anchor="end">'
        f"{escape(_short(row.title))}</text>\n"
        f'<rect class="{"met" if row.met else "missed"}" x="{LEFT}" y="{top + 2}" height="18" '
        f'width="{max(1.0, _x(row.ratio) - LEFT):.1f}"/>\n'
        f'<line class="spread" x1="{lower:.1f}" x2="{upper:.1f}" y1="{middle}" y2="{middle}"/>\n'
        f'<line class="aim" x1="{bound:.1f}" x2="{bound:.1f}" y1="{top - 2}" y2="{top + 24}"/>\n'
        f'<text class="text" x="{RIGHT + 12}" y="{middle}">{number(row.ratio)}</text>\n'
        f'<text class="faint" x="{RIGHT + 12}" y="{middle + 12}" font-size="10">'
        f"{escape(aim(row))}</text>\n"
    )


def _x(ratio: float) -> float:
    return LEFT + (RIGHT - LEFT) * min(ratio, MOST) / MOST


def _short(title: str) -> str:
    return title if len(title) <= 66 else title[:65] + "…"
