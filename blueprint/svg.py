"""A small writer of SVG: boxes, arrows and words, readable on light and on dark pages."""

from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

TITLE_PX = 14
TEXT_PX = 11.5
LINE_PX = 16
# Of a wide letter of the fonts below, for what must fit into a box.
CHAR_WIDTH = 0.56
CORNER_PX = 8

# On a light page, and on a dark one.
COLOURS = {
    "page": ("#ffffff", "#0d1117"),
    "ink": ("#1f2328", "#e6edf3"),
    "dim": ("#59636e", "#9198a1"),
    "frame": ("#afb8c1", "#484f58"),
    "public": ("#fff4e0", "#2b2110"),
    "private": ("#e8f2ff", "#101f33"),
    "isolated": ("#f0ecff", "#1d1833"),
    "box": ("#ffffff", "#161b22"),
    "task": ("#1f6feb", "#58a6ff"),
    "data": ("#8250df", "#bc8cff"),
    "message": ("#bf3989", "#f778ba"),
    "edge": ("#1a7f37", "#3fb950"),
    "account": ("#9a6700", "#d29922"),
    "outside": ("#59636e", "#9198a1"),
}
FONT = "-apple-system, 'Segoe UI', 'Noto Sans', 'DejaVu Sans', Helvetica, Arial, sans-serif"


class Point(NamedTuple):
    x: float
    y: float


class Box(NamedTuple):
    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height

    @property
    def centre(self) -> Point:
        return Point(self.x + self.width / 2, self.y + self.height / 2)


def text_width(text: str, size: float = TEXT_PX) -> float:
    """Pixels, a little more than most fonts need."""
    return len(text) * size * CHAR_WIDTH


class Picture:
    """Draws in the order of its calls. Colours are names of COLOURS."""

    def __init__(self, title: str, description: str) -> None:
        self._title = title
        self._description = description
        self._parts: list[str] = []

    def frame(self, box: Box, label: str, *, at: Point, fill: str = "none", dashed: bool = False) -> None:
        """A region whose name begins at `at`, or ends there when that is in its right half."""
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self._rectangle(box, f"fill-{fill}" if fill != "none" else "empty", "stroke-frame", dash)
        self.words(at, label, "dim", anchor="end" if at.x > box.centre.x else "start")

    def node(self, box: Box, title: str, lines: Sequence[str], colour: str) -> None:
        """A box with a title and lines of small text, its left edge in `colour`."""
        self._rectangle(box, "fill-box", f"stroke-{colour}")
        self._parts.append(
            f'<rect class="fill-{colour}" x="{box.x:g}" y="{box.y + CORNER_PX:g}" width="4" '
            f'height="{box.height - 2 * CORNER_PX:g}"/>'
        )
        top = box.centre.y - (len(lines) * LINE_PX) / 2 + 5
        self.words(Point(box.x + 12, top), title, "ink", size=TITLE_PX, bold=True)
        for number, line in enumerate(lines, 1):
            self.words(Point(box.x + 12, top + number * LINE_PX), line, "dim")

    def arrow(self, points: Sequence[Point], label: str, colour: str, *, at: Point, dashed: bool = False) -> None:
        """A line through `points` with its head at the last; `label` stands centred on `at`."""
        path = "M" + " L".join(f"{p.x:g} {p.y:g}" for p in points)
        dash = ' stroke-dasharray="4 4"' if dashed else ""
        self._parts.append(
            f'<path class="empty stroke-{colour}" d="{path}" stroke-width="1.6"{dash} marker-end="url(#head-{colour})"/>'
        )
        if label:
            self.words(at, label, colour, anchor="middle", halo=True)

    def words(
        self,
        at: Point,
        text: str,
        colour: str,
        *,
        size: float = TEXT_PX,
        bold: bool = False,
        anchor: str = "start",
        halo: bool = False,
    ) -> None:
        weight = ' font-weight="600"' if bold else ""
        classes = f"fill-{colour}" + (" halo" if halo else "")
        self._parts.append(
            f'<text class="{classes}" x="{at.x:g}" y="{at.y:g}" font-size="{size:g}" text-anchor="{anchor}"{weight}>'
            f"{escape(text)}</text>"
        )

    def document(self, width: float, height: float) -> str:
        """The whole file."""
        heads = "".join(
            f'<marker id="head-{name}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
            f'orient="auto-start-reverse"><path class="fill-{name}" d="M0 0 L10 5 L0 10 z"/></marker>'
            for name in COLOURS
            if f"#head-{name})" in "".join(self._parts)
        )
        body = "\n".join(self._parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
            f'height="{height:g}" role="img" aria-label={quoteattr(self._title)} font-family={quoteattr(FONT)}>\n'
            f"<title>{escape(self._title)}</title>\n<desc>{escape(self._description)}</desc>\n"
            f"<style>\n{_style()}</style>\n<defs>{heads}</defs>\n"
            f'<rect class="fill-page" width="{width:g}" height="{height:g}"/>\n{body}\n</svg>\n'
        )

    def _rectangle(self, box: Box, fill: str, stroke: str, more: str = "") -> None:
        self._parts.append(
            f'<rect class="{fill} {stroke}" x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" height="{box.height:g}" '
            f'rx="{CORNER_PX}"{more}/>'
        )


def _style() -> str:
    def rules(side: int) -> str:
        each = (
            f".fill-{name}{{fill:{pair[side]}}}.stroke-{name}{{stroke:{pair[side]}}}" for name, pair in COLOURS.items()
        )
        return "\n".join(each) + f"\n.halo{{stroke:{COLOURS['page'][side]};stroke-width:4;paint-order:stroke}}\n"

    # After the fills, because both may be named on one element.
    return f"{rules(0)}@media (prefers-color-scheme: dark){{\n{rules(1)}}}\n.empty{{fill:none}}\n"
