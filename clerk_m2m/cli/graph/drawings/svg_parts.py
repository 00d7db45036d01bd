"""The common parts of all SVG drawings: the frame, the colours, and the escaping of text.

The colours have a contrast of 3:1 to the background (WCAG 2.2, 1.4.11) and can be distinguished
by people who confuse red and green (blue and vermilion, as Okabe and Ito propose). No meaning is
shown by colour alone.
The drawing is ASCII: other characters are numeric references (XML 1.0, section 4.1).
"""

from __future__ import annotations

from html import escape
from typing import Final

from rich.cells import cell_len

from clerk_m2m.cli.graph.drawings.labels import fitted

MONO: Final = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
# The width of a character of these fonts, in parts of the font's size.
ADVANCE: Final = 0.605
TITLE_SIZE: Final = 17
MARGIN: Final = 20

_STYLE: Final = """
.page{fill:#fff;stroke:#d0d7de}.text{fill:#1f2328}.faint{fill:#59636e}
.direct{fill:#0b69b7}.cycle{fill:#c2410c}.others{stroke:#59636e;fill:none}.dot{fill:#59636e}
.line{stroke:#e4e8ec;fill:none}.group{fill:#eef4fb}.frame{stroke:#a9bacd;fill:none}
.label,.label text{white-space:pre}.itself{stroke:#b4bcc6}.box{fill:#f6f8fa;stroke:#818b98}
.call{stroke:#0b69b7;fill:none}.call-back{stroke:#c2410c;fill:none}
.row .band{fill:#0b69b7;opacity:0}.row:hover .band{opacity:.12}.row:hover .label{font-weight:700}
@media (prefers-color-scheme:dark){
.page{fill:#0d1117;stroke:#3d444d}.text{fill:#f0f6fc}.faint{fill:#9198a1}
.direct{fill:#58a6ff}.cycle{fill:#ff9a52}.others{stroke:#9198a1}.dot{fill:#9198a1}
.line{stroke:#1d232b}.group{fill:#131d2b}.frame{stroke:#3b4d63}
.itself{stroke:#4a525c}.box{fill:#161b22;stroke:#768390}
.call{stroke:#58a6ff}.call-back{stroke:#ff9a52}.row .band{fill:#58a6ff}}
"""


def text(label: str, width: int = 200) -> str:
    """Return a label as the content of an element or an attribute, cut to `width` characters."""
    shown = escape(fitted(label, width))
    return shown.encode("ascii", "xmlcharrefreplace").decode("ascii")


def width_of(label: str, size: float, most: int) -> float:
    """Return the width that a label takes in the monospaced font, cut to `most` characters."""
    return min(cell_len(label), most) * size * ADVANCE


def page(width: float, height: float, title: str, counts: str, parts: list[str]) -> str:
    """Return a page of this size with the parts below its title."""
    w, h = round(width), round(height)
    return "".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" '
            f'height="{h}" role="img" font-family="system-ui, -apple-system, Segoe UI, '
            'Helvetica, Arial, sans-serif">\n',
            f"<title>{text(title)}: {counts}</title>\n<style>{_STYLE}</style>\n",
            f'<rect class="page" x=".5" y=".5" width="{w - 1}" height="{h - 1}" rx="8"/>\n',
            f'<text class="text" x="{MARGIN}" y="34" font-size="{TITLE_SIZE}" font-weight="600">'
            f"{text(title, 70)}</text>\n",
            f'<text class="faint" x="{MARGIN}" y="54" font-size="13">{counts}</text>\n',
            *parts,
            "</svg>\n",
        ]
    )
