"""The committed diagrams are what the program draws now, and tell what it declares."""

from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from blueprint import diagram
from blueprint.architecture import architecture
from blueprint.graph import Graph
from blueprint.svg import COLOURS, TITLE_PX, text_width

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("stack", ["dev", "prod"])
def test_the_committed_diagram_is_the_program_of_today(graphs: dict[str, Graph], stack: str) -> None:
    path = diagram.FOLDER / diagram.NAME.format(stack)
    assert path.read_text(encoding="utf-8") == diagram.draw(graphs[stack]), "run `make diagram` and commit what it drew"


def test_a_rule_that_goes_takes_its_arrow_with_it(dev: Graph) -> None:
    def arrows(graph: Graph) -> set[tuple[str, str]]:
        return {(arrow.source, arrow.target) for arrow in architecture(graph).arrows}

    without = replace(dev, resources=tuple(r for r in dev.resources if r.name != "aviary-dev-database-from-pelican"))
    assert arrows(dev) - arrows(without) == {("pelican", "aviary-dev")}


def test_a_statement_that_goes_takes_its_arrow_with_it(dev: Graph) -> None:
    def arrows(graph: Graph) -> set[str]:
        return {arrow.label for arrow in architecture(graph).arrows if arrow.target == "emu"}

    without = replace(
        dev,
        resources=tuple(
            r for r in dev.resources if (r.type, r.name) != ("aws:iam/rolePolicy:RolePolicy", "aviary-dev-emu")
        ),
    )
    assert arrows(dev) == {"receive"}
    assert arrows(without) == set()


@pytest.mark.parametrize("stack", ["dev", "prod"])
def test_parts_stand_where_their_subnets_are(graphs: dict[str, Graph], stack: str) -> None:
    places = {part.title: part.place for part in architecture(graphs[stack]).parts}
    assert places["Load balancer"] == places["NAT gateway"] == "public"
    assert places["Frontend"] == places["Pelican"] == places["Emu"] == "private"
    assert places["RDS Postgres"] == "isolated"


@pytest.mark.parametrize("stack", ["dev", "prod"])
def test_words_fit_into_their_boxes(graphs: dict[str, Graph], stack: str) -> None:
    found = architecture(graphs[stack])
    layout = diagram.Layout(found.parts)
    for part in found.parts:
        room = layout.boxes[part.key].width - 12
        wide = [line for line in part.lines if text_width(line) > room]
        assert not wide, f"{part.title}: {wide}"
        assert text_width(part.title, TITLE_PX) <= room


def test_boxes_do_not_overlap(prod: Graph) -> None:
    boxes = sorted(diagram.Layout(architecture(prod).parts).boxes.values())
    for number, a in enumerate(boxes):
        for b in boxes[number + 1 :]:
            assert a.right <= b.x or b.right <= a.x or a.bottom <= b.y or b.bottom <= a.y, (a, b)


def test_the_drawing_is_well_formed_and_within_its_page(prod: Graph) -> None:
    root = ET.fromstring(diagram.draw(prod))  # noqa: S314 # our own
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for rectangle in root.iter(f"{SVG}rect"):
        x, y = float(rectangle.get("x", 0)), float(rectangle.get("y", 0))
        assert x + float(rectangle.attrib["width"]) <= width
        assert y + float(rectangle.attrib["height"]) <= height


def test_dark_pages_have_a_colour_for_everything(dev: Graph) -> None:
    light, _, dark = diagram.draw(dev).partition("@media (prefers-color-scheme: dark)")
    for name, (on_light, on_dark) in COLOURS.items():
        assert f".fill-{name}{{fill:{on_light}}}" in light
        assert f".fill-{name}{{fill:{on_dark}}}" in dark
