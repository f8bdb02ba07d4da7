"""Products from the material: the same for the same rows and seed on any Python, and a prefix of any longer run.

Products come in rounds: each round visits every concept once, in an order drawn from the seed, and takes its next
variant. So any first N rows are as varied as N rows can be, and `products(100)` begins `products(5000)`.
"""

import math
import random
from collections.abc import Iterator
from decimal import Decimal
from itertools import count, islice
from typing import NamedTuple

import msgspec

from local.catalogue.material import CategoryFile, Concept, load

DEFAULT_ROWS = 5000
DEFAULT_SEED = 1887

# A description of fewer words than this always gets a closing detail; of more than the second, at first none; of
# more than the third, it says less.
SHORT_DESCRIPTION_WORDS = 22
AMPLE_DESCRIPTION_WORDS = 34
LONG_DESCRIPTION_WORDS = 50
# How far a single price or weight strays from what its kind and size suggest, each way.
SPREAD = 0.04
# Where looks run from small to large, weight follows the look, and price the look this much, the kind for the rest.
GRADED_SHARE = 0.8
# Ways to tell a kind, see _stories.
PITCHES = 4


class Product(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the catalogue. `sku` is category code, number of the concept and of the variant: "COO-001-01"."""

    sku: str
    name: str
    description: str
    category: str
    price: Decimal
    attributes: dict[str, str | int]


def products(rows: int = DEFAULT_ROWS, seed: int = DEFAULT_SEED) -> Iterator[Product]:
    """`rows` products, each with its own SKU and its own pair of name and description.

    Raises ValueError when `rows` is negative, CatalogueDataError when the material breaks a rule.
    """
    if rows < 0:
        raise ValueError(f"rows is {rows}; a catalogue has 0 rows or more")
    return islice(_rounds(seed), rows)


def _rounds(seed: int) -> Iterator[Product]:
    draw = _Draw(seed)
    shelves = [
        _Shelf(file, concept, f"{code}-{number:03}", draw)
        for code, file in load().items()
        for number, concept in enumerate(file.concepts.values(), start=1)
    ]
    for variant in count():
        for last in range(len(shelves) - 1, 0, -1):
            other = draw.below(last + 1)
            shelves[last], shelves[other] = shelves[other], shelves[last]
        for shelf in shelves:
            yield shelf.product(variant)


class _Draw:
    """Random numbers by `random()` alone, the one method whose sequence Python promises not to change."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random  # noqa: S311 - variety, not secrecy

    def below(self, limit: int) -> int:
        return int(self._random() * limit)

    def near(self, value: float) -> float:
        return value * (1 + SPREAD * (2 * self._random() - 1))


class _Story(NamedTuple):
    """A kind told in one way, what may close its description, and where its variants start in each choice."""

    kind: int
    text: str
    endings: tuple[str, ...]
    first_look: int
    first_ending: int
    first_brand: int


class _Shelf:
    """All variants of one concept, numbered from 0 without end.

    A variant's number, read in a mixed base, chooses the story first, then look, brand and ending, each counted
    from the story's own start. So no two numbers choose the same, and the first few differ the most.
    """

    def __init__(self, file: CategoryFile, concept: Concept, sku: str, draw: _Draw) -> None:
        self._category = file.category
        self._concept = concept
        self._sku = sku
        self._draw = draw
        self._looks = file.looks[concept.look] if concept.look else ("",)
        self._graded = concept.look in file.category.graded
        details = file.category.details + tuple(detail for more in concept.more for detail in file.more_details[more])
        self._stories = _stories(concept, details, len(self._looks), len(file.category.brands), draw)

    def product(self, variant: int) -> Product:
        brands = self._category.brands
        rest, number = divmod(variant, len(self._stories))
        story = self._stories[number]
        rest, look_step = divmod(rest, len(self._looks))
        # The stories of one kind have neighbouring brands, so that they do not share a name: step over them.
        rest, brand_step = divmod(rest, len(brands) // PITCHES if self._category.brand_in_name else 1)
        series, ending_step = divmod(rest, len(story.endings))
        look = (story.first_look + look_step) % len(self._looks)
        brand = brands[(story.first_brand + brand_step * PITCHES) % len(brands)]
        ending = story.endings[(story.first_ending + look_step + brand_step + ending_step) % len(story.endings)]

        dearness = heaviness = story.kind / (len(self._concept.kinds) - 1)
        if self._graded:
            heaviness = look / (len(self._looks) - 1)
            dearness = GRADED_SHARE * heaviness + (1 - GRADED_SHARE) * dearness
        price = _at(self._concept.price, story.kind, dearness)
        grams = _at(self._concept.grams, story.kind, heaviness)
        return Product(
            sku=f"{self._sku}-{variant + 1:02}",
            name=self._name(story.kind, brand, self._looks[look], series),
            description=f"{story.text} {ending}".rstrip(),
            category=self._category.name,
            price=_retail_price(self._draw.near(price)),
            attributes=self._attributes(story.kind, brand, self._looks[look], _round_grams(self._draw.near(grams))),
        )

    def _name(self, kind: int, brand: str, look: str, series: int) -> str:
        label = self._concept.kinds[kind][0]
        name = label.format(self._concept.name) if "{}" in label else f"{self._concept.name}, {label}"
        if self._category.brand_in_name:
            name = f"{brand} {name}"
        return ", ".join(part for part in (name, look, f"Series {series + 1}" if series else "") if part)

    def _attributes(self, kind: int, brand: str, look: str, grams: int) -> dict[str, str | int]:
        label = self._concept.kinds[kind][0]
        attributes: dict[str, str | int] = {"brand": brand, **self._concept.facts}
        if "{}" not in label:
            attributes["variant"] = label
        if self._concept.look:
            attributes[self._concept.look.partition("_")[0]] = look
        attributes["weight_g"] = grams
        return attributes


def _stories(concept: Concept, details: tuple[str, ...], looks: int, brands: int, draw: _Draw) -> list[_Story]:
    """Every kind with every pitch, neighbours differing in both.

    A pitch says in plain words what the thing is, who wants it or what it does, and tells one of the texts or
    another plain sentence. Its last sentence stays out where it would be long.
    """
    one, other = concept.text
    pitches = (
        (one, concept.use, concept.also),
        (other, concept.need, concept.also),
        (concept.use, concept.need, concept.also),
        (other, concept.use, concept.also),
    )
    kinds = len(concept.kinds)
    first_kind, first_pitch = draw.below(kinds), draw.below(PITCHES)
    first_brands = [draw.below(brands) for _ in range(kinds)]
    stories = []
    for shift in range(PITCHES):
        for step in range(kinds):
            kind = (first_kind + step) % kinds
            pitch = (first_pitch + step + shift) % PITCHES
            told = [*pitches[pitch], concept.kinds[kind][1]]
            if len(" ".join(told).split()) > LONG_DESCRIPTION_WORDS:
                del told[-2]
            text = " ".join(told)
            words = len(text.split())
            # Of those in between, half begin without an ending.
            endings = ("", *details) if words >= SHORT_DESCRIPTION_WORDS else details
            may_stop = words >= SHORT_DESCRIPTION_WORDS
            stop = may_stop and (draw.below(2) == 1 or words > AMPLE_DESCRIPTION_WORDS)
            first_ending = 0 if stop else draw.below(len(endings))
            first_brand = (first_brands[kind] + shift) % brands
            stories.append(_Story(kind, text, endings, draw.below(looks), first_ending, first_brand))
    return stories


def _at(values: tuple[float, ...], kind: int, share: float) -> float:
    """The value of a kind: its own where each has one, else between lowest and highest by `share` from 0 to 1."""
    if len(values) > 2:
        return values[kind]
    low, high = values
    return low * math.pow(high / low, share)


def _retail_price(value: float) -> Decimal:
    """The nearest price a shop would print: 4.25, 4.99, 23.50, 149.00."""
    if value >= 100:
        cents = round(value / 5) * 500 - 100
    else:
        endings = (25, 50, 75, 99) if value < 10 else (0, 50, 95)
        candidates = [whole * 100 + ending for whole in (int(value) - 1, int(value)) for ending in endings]
        cents = min(candidates, key=lambda candidate: abs(candidate - value * 100))
    return Decimal(cents).scaleb(-2)


def _round_grams(value: float) -> int:
    step = 1 if value < 200 else 5 if value < 1000 else 50 if value < 10_000 else 100
    return round(value / step) * step
