"""How often a search finds what a person meant: the catalogue's test queries against all of its products.

    .venv/bin/python -m benchmarks.search_quality
    .venv/bin/python -m benchmarks.search_quality --misses 20
    .venv/bin/python -m benchmarks.search_quality --template "{name}. {description}"      # of another indexed text
    .venv/bin/python -m benchmarks.search_quality --url http://127.0.0.1:8000      # asks a stack that is up, both modes

A query counts as answered when one of its right answers is among the first five results. The frontend puts products that
say nearly the same under the best of them (frontend.alike); `each` is the share when every product stands for itself. The
queries were written before they were tried, in four sets, one after another while the catalogue's texts were being
written; data/queries.toml says how each came about, and each is reported apart.

Without --url nothing runs but the model: exact cosine over the text that is indexed.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from aviary.embedder import Embedder
from aviary.source import MODEL
from benchmarks.machine import describe
from frontend.alike import group
from local import catalogue

TOP = 5
BATCH = 1000
# Results looked at when products are put together; the frontend looks as deep as it needs.
DEPTH = 100
# As the products are watched by default.
TEMPLATE = "{description} {name}"
# The skus of the first results, best first.
Ask = Callable[[str], Sequence[str]]


def offline(rows: int, template: str) -> dict[str, Ask]:
    """Exact search over the texts that `template` makes, without any service."""
    products = list(catalogue.products(rows))
    texts = [template.format(name=product.name, description=product.description) for product in products]
    embedder = Embedder()
    vectors = np.concatenate([embedder.embed(texts[start : start + BATCH]) for start in range(0, rows, BATCH)])
    text_of = {product.sku: text for product, text in zip(products, texts, strict=True)}
    asked: dict[str, NDArray[np.float32]] = {}

    def each(query: str) -> list[str]:
        if query not in asked:
            asked[query] = embedder.embed([query])[0]
        order = np.argsort(-(vectors @ asked[query]))[:DEPTH]
        return [products[number].sku for number in order]

    return {"grouped": lambda query: list(group(each(query), text_of)), "each": each}


def over_http(client: httpx.Client) -> dict[str, Ask]:
    """The API of a running frontend."""

    def ask(**parameters: str) -> Ask:
        def skus(query: str) -> list[str]:
            answer = client.get("/api/search", params={"q": query, "limit": TOP, **parameters})
            answer.raise_for_status()
            return [result["row"]["sku"] for result in answer.json()["results"]]

        return skus

    return {
        "grouped": ask(),
        "each": ask(similar="each"),
        "hybrid, grouped": ask(mode="hybrid"),
        "hybrid, each": ask(mode="hybrid", similar="each"),
    }


def answered(query: catalogue.Query, skus: Sequence[str]) -> bool:
    """Whether a right answer is among the first five."""
    return any(catalogue.is_right(sku, query) for sku in skus[:TOP])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.search_quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=int, default=5000, help="products in the catalogue (5000), without --url")
    parser.add_argument("--template", default=TEMPLATE, help=f'of the indexed text ("{TEMPLATE}"), without --url')
    parser.add_argument("--misses", type=int, default=0, help="show so many queries that were not answered")
    parser.add_argument("--url", help="a frontend over the whole catalogue")
    options = parser.parse_args()
    ways = (
        over_http(httpx.Client(base_url=options.url, timeout=30))
        if options.url
        else offline(options.rows, options.template)
    )
    report: dict[str, Any] = {"machine": describe(), "model": MODEL, "answered_in_top_5": {}}
    missed: list[catalogue.Query] = []
    for way, ask in ways.items():
        right = {
            name: [answered(query, ask(query.text)) for query in qs] for name, qs in catalogue.query_sets().items()
        }
        right["all"] = [one for found in right.values() for one in found]
        missed = missed or [query for query, ok in zip(catalogue.queries(), right["all"], strict=True) if not ok]
        report["answered_in_top_5"][way] = {name: round(sum(ok) / len(ok), 3) for name, ok in right.items()}
    report["queries"] = {name: len(queries) for name, queries in catalogue.query_sets().items()}
    print(json.dumps(report, indent=2))
    ask = ways["grouped"]
    for query in missed[: options.misses]:
        found = [catalogue.concept_of(sku) for sku in ask(query.text)[:TOP]]
        print(f"{query.text!r}: wanted {sorted(query.answers)}, found {found}")


if __name__ == "__main__":
    main()
