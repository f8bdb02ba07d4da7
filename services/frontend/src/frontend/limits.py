"""Names and limits that search, API and pages share."""

from typing import Literal, NamedTuple

# The source that can be edited here; every other one is searched only.
PRODUCTS = "products"
MAX_QUERY_CHARS = 2_000
MAX_LIMIT = 100
# Pinecone answers at most 10,000 records and 4 MB, and metadata may be some kilobytes a record.
MAX_DEPTH = 1_000

Mode = Literal["semantic", "hybrid"]
Similar = Literal["group", "each"]


class Filters(NamedTuple):
    """What a row must be besides near; None asks for nothing."""

    category: str | None = None
    min_price: float | None = None
    max_price: float | None = None

    def __bool__(self) -> bool:
        return any(value is not None for value in self)
