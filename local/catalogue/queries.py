"""The test queries of data/queries.toml and whether a product answers one."""

import functools
import itertools
import tomllib
from collections.abc import Mapping

import msgspec

from local.catalogue.generator import Product
from local.catalogue.material import DATA, QUERIES_FILE, CatalogueDataError, load


class Query(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a person types, and the ids of the concepts any of whose variants is a right answer."""

    text: str
    answers: frozenset[str]


class _QueryFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    first_queries: tuple[Query, ...]
    second_queries: tuple[Query, ...]
    third_queries: tuple[Query, ...]
    blind_queries: tuple[Query, ...]


@functools.cache
def query_sets() -> Mapping[str, tuple[Query, ...]]:
    """The test queries by set ("first", "second", "third", "blind"), in the order they were written.

    Raises CatalogueDataError when a query names no concept or an unknown one.
    """
    path = DATA / QUERIES_FILE
    try:
        file = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _QueryFile)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise CatalogueDataError(f"{path.name}: {error}") from error
    sets = {
        "first": file.first_queries,
        "second": file.second_queries,
        "third": file.third_queries,
        "blind": file.blind_queries,
    }
    known = set(_concepts().values())
    for query in itertools.chain.from_iterable(sets.values()):
        if not query.answers or query.answers - known:
            raise CatalogueDataError(
                f"{path.name}: {query.text!r} has answers {sorted(query.answers)}; name at least one concept, all existing"
            )
    return sets


def queries() -> tuple[Query, ...]:
    """All test queries, in the order of the file. Raises CatalogueDataError as `query_sets` does."""
    return tuple(itertools.chain.from_iterable(query_sets().values()))


def concept_of(product_or_sku: Product | str) -> str:
    """The concept's id, such as "food-flask". Raises KeyError for a SKU that is not of this catalogue."""
    sku = product_or_sku if isinstance(product_or_sku, str) else product_or_sku.sku
    return _concepts()[sku.rpartition("-")[0]]


def is_right(product_or_sku: Product | str, query: Query) -> bool:
    """Whether a shopper who typed `query` would call this product an answer; False for a foreign SKU."""
    try:
        return concept_of(product_or_sku) in query.answers
    except KeyError:
        return False


@functools.cache
def _concepts() -> dict[str, str]:
    return {
        f"{code}-{number:03}": concept
        for code, file in load().items()
        for number, concept in enumerate(file.concepts, start=1)
    }
