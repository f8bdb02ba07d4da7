"""The hand-written material in data/*.toml, read and checked: categories, their concepts and what varies in them.

A *concept* is one thing a shop sells ("Wide-Mouth Food Flask"). It says in plain words what it is (`use`) and who
wants it when (`need`), and has two livelier texts. Its variants differ in `kinds` (size, edition or audience, each
with its own sentence), in which two of those four they tell, in look, maker and a closing detail.
"""

import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec

DATA = Path(__file__).parent / "data"
QUERIES_FILE = "queries.toml"

# So many that the first few variants of a concept differ in kind and in brand.
MIN_KINDS = 3
MIN_BRANDS = 4


class CatalogueDataError(ValueError):
    """A data file breaks a rule; the message names the file, the value and the rule."""


class Category(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a category's concepts share.

    `code` begins its SKUs; each of `details` may close the description of any of them; `graded` names the looks
    whose values run from small to large, so that price and weight follow them.
    """

    code: str
    name: str
    brands: tuple[str, ...]
    details: tuple[str, ...]
    graded: tuple[str, ...] = ()
    brand_in_name: bool = True


class Concept(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing on sale.

    `price` and `grams` are lowest and highest, or one value a kind; with lowest and highest, kinds run upwards.
    A kind is a label, put after the name or around it where it holds "{}", and its sentence. `more` names groups
    of the file's `more_details` that fit this concept too.
    """

    name: str
    price: tuple[float, ...]
    grams: tuple[float, ...]
    use: str
    need: str
    also: str
    text: tuple[str, str]
    kinds: tuple[tuple[str, str], ...]
    more: tuple[str, ...] = ()
    look: str | None = None
    facts: dict[str, str] = {}


class CategoryFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One data file. `looks` maps a look to its values; "finish_metal" becomes the attribute "finish"."""

    category: Category
    looks: dict[str, tuple[str, ...]] = {}
    more_details: dict[str, tuple[str, ...]] = {}
    concepts: dict[str, Concept]


@functools.cache
def load(folder: Path = DATA) -> Mapping[str, CategoryFile]:
    """Every category file by category code, in the order of the file names. Raises CatalogueDataError."""
    files: dict[str, CategoryFile] = {}
    concepts: set[str] = set()
    for path in sorted(folder.glob("*.toml")):
        if path.name == QUERIES_FILE:
            continue
        file = _read(path)
        if file.category.code in files:
            raise CatalogueDataError(
                f"{path.name}: code {file.category.code!r} is taken by another category; choose a free one"
            )
        if twice := concepts & file.concepts.keys():
            raise CatalogueDataError(f"{path.name}: concepts {sorted(twice)} exist already; an id is used once overall")
        concepts |= file.concepts.keys()
        files[file.category.code] = file
    return files


def _read(path: Path) -> CategoryFile:
    try:
        file = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), CategoryFile)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise CatalogueDataError(f"{path.name}: {error}") from error
    if unknown := set(file.category.graded) - file.looks.keys():
        raise CatalogueDataError(f"{path.name}: graded names {sorted(unknown)}; [looks] must define each")
    if len(file.category.brands) < MIN_BRANDS:
        raise CatalogueDataError(f"{path.name}: {len(file.category.brands)} brands; name {MIN_BRANDS} or more")
    for concept_id, concept in file.concepts.items():
        if concept.look is not None and concept.look not in file.looks:
            raise CatalogueDataError(f"{path.name}: {concept_id} has look {concept.look!r}; [looks] must define it")
        if unknown := set(concept.more) - file.more_details.keys():
            raise CatalogueDataError(
                f"{path.name}: {concept_id} has more {sorted(unknown)}; [more_details] must define it"
            )
        for field, values in (("price", concept.price), ("grams", concept.grams)):
            if len(values) not in {2, len(concept.kinds)} or min(values) <= 0:
                raise CatalogueDataError(
                    f"{path.name}: {concept_id} has {field} {list(values)}; give lowest and highest, or one value above 0"
                    f" for each of its {len(concept.kinds)} kinds"
                )
        if len(concept.kinds) < MIN_KINDS:
            raise CatalogueDataError(
                f"{path.name}: {concept_id} has {len(concept.kinds)} kinds; write {MIN_KINDS} or more"
            )
    return file
