"""The architecture drawn: where the parts stand, and which way the arrows run."""

from collections.abc import Sequence
from pathlib import Path

from blueprint.architecture import NAT, Architecture, Arrow, Part, architecture
from blueprint.graph import Graph
from blueprint.svg import Box, Picture, Point, text_width

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "images"
NAME = "architecture-{}.svg"

NODE = (172.0, 84.0)
GAP = 34.0
MARGIN = 16.0
VPC_X = 244.0
# Tops of the three tiers, and their heights: the private one has a lane for arrows above its tasks.
TIERS = {"public": (66.0, 118.0), "private": (204.0, 144.0), "isolated": (396.0, 118.0)}
NODE_TOPS = {"public": 90.0, "private": 250.0, "isolated": 420.0}
VPC_BOTTOM = 526.0
ACCOUNT_TOP = 604.0
SIDE_GAP = 24.0
LANE_Y = 238.0
WORDS_PX = 18.0


class Layout:
    """Boxes of all parts, and the frames around them."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.boxes: dict[str, Box] = {}
        width, height = NODE
        columns = max(3, sum(part.place == "private" for part in parts))
        inner = VPC_X + 20 + columns * (width + GAP) - GAP
        self.vpc = Box(VPC_X, 40, inner + 20 - VPC_X, VPC_BOTTOM - 40)
        self.tiers = {tier: Box(VPC_X + 10, top, self.vpc.width - 20, tall) for tier, (top, tall) in TIERS.items()}
        self.side = self.vpc.right + 90
        self.cloud = Box(VPC_X - 16, 12, self.side + width + 20 - VPC_X + 16, ACCOUNT_TOP + height)
        for tier, top in NODE_TOPS.items():
            for column, part in enumerate(p for p in parts if p.place == tier):
                at = columns - 1 if part.key == NAT else column
                self.boxes[part.key] = Box(VPC_X + 20 + at * (width + GAP), top, width, height)
        for row, part in enumerate(p for p in parts if p.place == "region"):
            self.boxes[part.key] = Box(self.side, NODE_TOPS["private"] + row * (height + SIDE_GAP), width, height)
        beside = [p for p in parts if p.place == "account"]
        for column, part in enumerate(beside):
            last = column == len(beside) - 1
            x = self.side if last else VPC_X + 20 + column * (width + GAP)
            self.boxes[part.key] = Box(x, ACCOUNT_TOP, width, height - 20)
        for part in parts:
            if part.place == "outside":
                self.boxes[part.key] = Box(MARGIN, NODE_TOPS["public"], 136, height)
            if part.place == "vendor":
                self.boxes[part.key] = Box(self.cloud.right + 40, NODE_TOPS["public"], width, height)
        self.width = max(box.right for box in self.boxes.values()) + MARGIN
        self.height = self.cloud.bottom + 20


def draw(graph: Graph) -> str:
    """The diagram of one stack as SVG."""
    found = architecture(graph)
    layout = Layout(found.parts)
    name = f"{graph.project}-{graph.stack}"
    picture = Picture(f"Architecture of {name}", "Drawn from the Pulumi program by `make diagram`.")
    for box, label in ((layout.cloud, f"AWS account, us-east-1: {name}"), (layout.vpc, "VPC")):
        picture.frame(box, label, at=Point(box.x + 10, box.y + 17), dashed=box is layout.cloud)
    for tier, box in layout.tiers.items():
        # Arrows pass where the names of the others stand.
        y = box.bottom - 8 if tier == "isolated" else box.y + 17
        picture.frame(box, f"{tier} subnets", at=Point(box.right - 10, y), fill=tier)
    colours = {part.key: part.colour for part in found.parts}
    for arrow, points, at in routes(found, layout):
        colour = "dim" if arrow.dashed else colours.get(arrow.source, "ink")
        picture.arrow(points, arrow.label, colour, at=at, dashed=arrow.dashed)
    for part in found.parts:
        picture.node(layout.boxes[part.key], part.title, part.lines, part.colour)
    words = [f"Without an arrow: {found.words[0]}", *found.words[1:]] if found.words else []
    for number, line in enumerate(words):
        picture.words(Point(MARGIN, layout.height + 4 + number * WORDS_PX), line, "dim")
    return picture.document(layout.width, layout.height + len(words) * WORDS_PX + 6)


def write(graph: Graph) -> Path:
    """Draw it into the documentation; the path of the file."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / NAME.format(graph.stack)
    path.write_text(draw(graph), encoding="utf-8")
    return path


Route = tuple[Arrow, list[Point], Point]


def routes(found: Architecture, layout: Layout) -> list[Route]:
    """Every arrow with its corners and the place of its label. Between parts that this does not know how to go around,
    an arrow runs straight."""
    places = {part.key: part.place for part in found.parts}
    router = _Router(layout, places)
    return [(arrow, *router.route(arrow)) for arrow in found.arrows]


class _Router:
    def __init__(self, layout: Layout, places: dict[str, str]) -> None:
        self._layout = layout
        self._places = places
        self._used: dict[str, int] = {}

    def route(self, arrow: Arrow) -> tuple[list[Point], Point]:
        source, target = self._place(arrow.source), self._place(arrow.target)
        if source == "private" and target == "region":
            return self._to_side(arrow.source, arrow.target)
        if source == "region" and target == "private":
            points, at = self._to_side(arrow.target, arrow.source, inward=True)
            return points[::-1], at
        if source == "account" and target.startswith("tier:"):
            return self._from_account(arrow.source, arrow.target)
        if source.startswith("tier:") and target == "account":
            points, at = self._from_account(arrow.target, arrow.source)
            return points[::-1], at
        return self._plain(arrow)

    def _plain(self, arrow: Arrow) -> tuple[list[Point], Point]:
        """Along a row, along a column, or down to another row."""
        a, b = self._box(arrow.source), self._box(arrow.target)
        if arrow.source.startswith("tier:"):
            return _vertical(b.centre.x, a, b, arrow.label)
        if a.right < b.x and abs(a.y - b.y) < 1:
            y = a.centre.y
            gap = self._layout.cloud.x if self._place(arrow.source) == "outside" else b.x
            return [Point(a.right, y), Point(b.x, y)], Point((a.right + gap) / 2, y - 7)
        if abs(a.x - b.x) < 1:
            return _vertical(a.x + (50 if a.y < b.y else 110), a, b, arrow.label)
        if a.bottom < b.y:
            return self._down(a, b, arrow.target)
        return _straight(a, b)

    def _place(self, key: str) -> str:
        return key if key.startswith("tier:") else self._places[key]

    def _box(self, key: str) -> Box:
        return self._layout.tiers[key.removeprefix("tier:")] if key.startswith("tier:") else self._layout.boxes[key]

    def _next(self, key: str) -> int:
        self._used[key] = self._used.get(key, 0) + 1
        return self._used[key] - 1

    def _down(self, a: Box, b: Box, target: str) -> tuple[list[Point], Point]:
        """To a row below, right of the arrows that come straight from above."""
        x = b.right - 12 - self._next(f"down {target}") * 24
        lane = (a.bottom + b.y) / 2 if a.y < LANE_Y else self._layout.tiers["private"].bottom + 28
        points = [Point(a.x + 40, a.bottom), Point(a.x + 40, lane), Point(x, lane), Point(x, b.y)]
        return points, Point((a.x + 40 + x) / 2, lane - 5)

    def _to_side(self, task: str, other: str, *, inward: bool = False) -> tuple[list[Point], Point]:
        """Between a task and what stands beside the VPC: straight where they are neighbours, else around."""
        a, b = self._box(task), self._box(other)
        neighbours = [box for box in self._layout.boxes.values() if a.right < box.x < b.x and abs(box.y - a.y) < 1]
        if abs(a.y - b.y) < 1 and not neighbours:
            y = a.centre.y + (0 if inward else 16)
            return [Point(a.right, y), Point(b.x, y)], Point((self._layout.vpc.right + b.x) / 2, y - 6)
        if abs(a.y - b.y) < 1:
            x, drop = a.right - 40, b.x + 40
            points = [Point(x, a.y), Point(x, LANE_Y), Point(drop, LANE_Y), Point(drop, b.y)]
            return points, Point((self._layout.vpc.right + b.x) / 2, LANE_Y - 6)
        y = b.y + 24 + self._next(f"side {other}") * 22
        x = a.x + 86 + self._next(f"bottom {task}") * 40
        points = [Point(x, a.bottom), Point(x, y), Point(b.x, y)]
        return points, Point((self._layout.vpc.right + b.x) / 2 + 14, y - 6)

    def _from_account(self, source: str, target: str) -> tuple[list[Point], Point]:
        """Up along the VPC's edge; what comes from the left shares one line."""
        a, tier = self._box(source), self._box(target)
        left = a.x < self._layout.vpc.right
        x, y = self._layout.vpc.right + (20 if left else 34), tier.bottom - (24 if left else 10)
        lane = ACCOUNT_TOP - 22
        start = a.x + 50
        points = [Point(start, a.y), Point(start, lane), Point(x, lane), Point(x, y), Point(tier.right, y)]
        return points, Point(start + (30 if start < x else -30), lane - 6)


def _vertical(x: float, a: Box, b: Box, label: str) -> tuple[list[Point], Point]:
    down = a.y < b.y
    start, end = Point(x, a.bottom if down else a.y), Point(x, b.y if down else b.bottom)
    return [start, end], Point(x + text_width(label) / 2 + 8, (start.y + end.y) / 2 + 4)


def _straight(a: Box, b: Box) -> tuple[list[Point], Point]:
    """From edge to edge, centre to centre."""

    def edge(box: Box, towards: Point) -> Point:
        dx, dy = towards.x - box.centre.x, towards.y - box.centre.y
        scale = min(box.width / 2 / abs(dx) if dx else 1, box.height / 2 / abs(dy) if dy else 1)
        return Point(round(box.centre.x + dx * scale, 1), round(box.centre.y + dy * scale, 1))

    start, end = edge(a, b.centre), edge(b, a.centre)
    return [start, end], Point((start.x + end.x) / 2, (start.y + end.y) / 2 - 5)
