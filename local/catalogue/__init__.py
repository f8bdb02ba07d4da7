"""A catalogue of invented products to show search on, and queries with the products that answer them."""

from local.catalogue.generator import DEFAULT_ROWS, DEFAULT_SEED, Product, products
from local.catalogue.material import CatalogueDataError
from local.catalogue.queries import Query, concept_of, is_right, queries, query_sets

__all__ = [
    "DEFAULT_ROWS",
    "DEFAULT_SEED",
    "CatalogueDataError",
    "Product",
    "Query",
    "concept_of",
    "is_right",
    "products",
    "queries",
    "query_sets",
]
