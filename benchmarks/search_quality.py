"""How often a search finds what a person meant: the catalogue's test queries against all of its products.

    .venv/bin/python -m benchmarks.search_quality
    .venv/bin/python -m benchmarks.search_quality --misses 20

A query counts as answered when one of its right answers is among the first five products, ranked by cosine over the
text that is indexed (name and description). The queries were written before they were tried, in several sets, one after
another while the catalogue's texts were being written; data/queries.toml says how each came about, and each is reported
apart. `kinds` counts each kind of product once, because the variants of one kind stand close together and can fill the
first five places alone.
"""

import argparse
import json
import tomllib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aviary.embedder import Embedder
from aviary.source import MODEL
from benchmarks.machine import describe
from local import catalogue
from local.catalogue.material import DATA, QUERIES_FILE

TOP = 5
BATCH = 1000


def embed(embedder: Embedder, texts: Sequence[str]) -> NDArray[np.float32]:
    """Shape (texts, dimension)."""
    parts = [embedder.embed(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]
    return np.concatenate(parts)


def first_right(order: NDArray[np.int64], concepts: list[str], answers: frozenset[str]) -> tuple[int, int]:
    """The place of the first right answer, from 1: among products, and among kinds of product."""
    kinds: dict[str, None] = {}
    for place, number in enumerate(order, start=1):
        kinds[concepts[number]] = None
        if concepts[number] in answers:
            return place, len(kinds)
    return len(order) + 1, len(kinds) + 1


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5000, help="products in the catalogue (5000)")
    parser.add_argument("--misses", type=int, default=0, help="show so many queries that were not answered")
    options = parser.parse_args()
    products = list(catalogue.products(options.rows))
    concepts = [catalogue.concept_of(product) for product in products]
    queries = catalogue.queries()
    embedder = Embedder()
    vectors = embed(embedder, [f"{product.name}. {product.description}" for product in products])
    order = np.argsort(-(embed(embedder, [query.text for query in queries]) @ vectors.T), axis=1)
    places = [first_right(row, concepts, query.answers) for row, query in zip(order, queries, strict=True)]

    sets = {name: len(found) for name, found in tomllib.loads((DATA / QUERIES_FILE).read_text()).items()}
    report: dict[str, Any] = {"machine": describe(), "model": MODEL, "precision": embedder.precision, "sets": {}}
    start = 0
    for name, size in {**sets, "all": len(queries)}.items():
        chosen = places if name == "all" else places[start : start + size]
        start += size
        report["sets"][name] = {
            "queries": len(chosen),
            "answered_in_top_5": round(sum(product <= TOP for product, _ in chosen) / len(chosen), 3),
            "answered_in_top_5_kinds": round(sum(kind <= TOP for _, kind in chosen) / len(chosen), 3),
        }
    print(json.dumps(report, indent=2))
    missed = [number for number, (place, _) in enumerate(places) if place > TOP]
    for number in missed[: options.misses]:
        first = [concepts[n] for n in order[number][:TOP]]
        print(f"{queries[number].text!r}: wanted {sorted(queries[number].answers)}, found {first}")


if __name__ == "__main__":
    main()
