"""What the JSON API takes and gives."""

import datetime
import json
import math
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, model_validator

from frontend.limits import MAX_DEPTH, MAX_QUERY_CHARS, PRODUCTS, Mode, Similar

MAX_SKU_CHARS = 100
MAX_NAME_CHARS = 500
MAX_CATEGORY_CHARS = 100
MAX_KEY_CHARS = 2_000
# A row may hold a whole manual; what the model reads of it is decided elsewhere.
MAX_DESCRIPTION_CHARS = 1_048_576
MAX_ATTRIBUTES_BYTES = 65_536
MAX_PRICE = Decimal("9999999999.99")


def storable(text: str) -> str:
    """What Postgres can keep as text: no NUL byte. (Half of a surrogate pair is no `str` to pydantic.)"""
    if "\0" in text:
        raise ValueError("holds a NUL byte, which Postgres cannot store in text; remove it")
    return text


def not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text.strip()


def storable_json(value: dict[str, Any]) -> dict[str, Any]:
    """What a jsonb column can keep: finite numbers, storable strings, a bounded size."""
    try:
        encoded = json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise ValueError("holds NaN, Infinity or half of a surrogate pair; JSON has none of them") from error
    if b"\\u0000" in encoded:
        raise ValueError("holds a NUL byte, which Postgres cannot store; remove it")
    if len(encoded) > MAX_ATTRIBUTES_BYTES:
        raise ValueError(f"at most {MAX_ATTRIBUTES_BYTES:,} bytes of JSON; shorten it")
    return value


Storable = AfterValidator(storable)
Sku = Annotated[str, Field(max_length=MAX_SKU_CHARS), Storable, AfterValidator(not_blank)]
Name = Annotated[str, Field(max_length=MAX_NAME_CHARS), Storable]
Description = Annotated[str, Field(max_length=MAX_DESCRIPTION_CHARS), Storable]
Category = Annotated[str, Field(max_length=MAX_CATEGORY_CHARS), Storable]
Key = Annotated[str, Field(max_length=MAX_KEY_CHARS), Storable]
Price = Annotated[Decimal, Field(ge=0, le=MAX_PRICE, decimal_places=2)]
Attributes = Annotated[dict[str, Any], AfterValidator(storable_json)]
Number = Annotated[Decimal, PlainSerializer(float, return_type=float)]


class NewProduct(BaseModel):
    """A row to create. Without a sku one is made. A row whose name and description are blank is kept, and not searchable."""

    model_config = ConfigDict(extra="forbid")

    sku: Sku | None = None
    name: Name
    description: Description = ""
    category: Category = ""
    price: Price | None = None
    attributes: Attributes = {}


class ProductChange(BaseModel):
    """The fields to change; those left out stay as they are."""

    model_config = ConfigDict(extra="forbid")

    sku: Sku | None = None
    name: Name | None = None
    description: Description | None = None
    category: Category | None = None
    price: Price | None = None
    attributes: Attributes | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "ProductChange":
        if not self.model_fields_set:
            raise ValueError("name at least one field to change")
        for name in ("sku", "name", "attributes"):
            if name in self.model_fields_set and getattr(self, name) is None:
                raise ValueError(f"{name} must not be null; leave it out to keep it")
        return self


class Product(BaseModel):
    """A row. `version` changes with every change of the row, whoever makes it; send it as If-Match."""

    id: int
    sku: str
    name: str
    description: str | None
    category: str | None
    price: Number | None
    attributes: dict[str, Any] | None
    created_at: datetime.datetime
    updated_at: datetime.datetime
    version: str


class Sync(BaseModel):
    """How to see the change arrive: ask `watch` until it says settled. `affects`: what of the index this change
    concerns, or "nothing"."""

    committed_at_ms: int
    affects: Literal["text", "metadata", "nothing"]
    watch: str


class SavedProduct(Product):
    """A row just written."""

    sync: Sync


class DeletedProduct(BaseModel):
    """What is left of a deleted row."""

    id: int
    sync: Sync


class ProductPage(BaseModel):
    """Rows by falling id; `next` is the `after` of the next page, null on the last one."""

    items: list[Product]
    next: int | None


class Indexed(BaseModel):
    """Whether the index shows the row's present state. `settled`: it does. `searchable`: settled, and there is
    something to find. `elapsed_ms`: from `since` to now, when settled and `since` was given."""

    id: int
    row: Literal["present", "blank", "absent"]
    settled: bool
    searchable: bool
    elapsed_ms: int | None
    message: str


class SearchFields(BaseModel):
    """What the JSON API's search and the page's have in common."""

    q: Annotated[
        str, Field(max_length=MAX_QUERY_CHARS, description="what to look for, in your own words"), Storable
    ] = ""
    offset: Annotated[int, Field(ge=0, le=MAX_DEPTH, description="results to skip")] = 0
    source: Annotated[str, Field(max_length=200, description="the watched table"), Storable] = PRODUCTS
    category: Category | None = None
    min_price: Annotated[float, Field(allow_inf_nan=False)] | None = None
    max_price: Annotated[float, Field(allow_inf_nan=False)] | None = None
    mode: Annotated[Mode, Field(description="rank by meaning, or by meaning and words (reciprocal rank fusion)")] = (
        "semantic"
    )
    similar: Annotated[
        Similar, Field(description="rows that say nearly the same stand under the best of them, or each for itself")
    ] = "group"


def plain(value: object) -> Any:
    """A column's value as JSON can hold it: numbers that are finite, text for what JSON has no type for."""
    match value:
        case None | bool() | int() | str():
            return value
        case float() | Decimal():
            return float(value) if math.isfinite(value) else None
        case datetime.datetime() | datetime.date() | datetime.time():
            return value.isoformat()
        case list() | tuple():
            return [plain(item) for item in value]
        case dict():
            return {str(name): plain(item) for name, item in value.items()}
        case _:
            return str(value)


def to_json(value: object) -> str:
    """JSON text of a jsonb value."""
    return json.dumps(value, ensure_ascii=False)


class SimilarRow(BaseModel):
    """A row that says nearly the same as the result it stands under, and ranks lower."""

    key: str
    score: float


class SearchResult(BaseModel):
    """One row. `score` falls with the rank: cosine similarity (-1 to 1) in semantic mode, fused score (0 to 1) in
    hybrid mode; `similarity` is the cosine where the vector was among the candidates. `cut` names the columns of
    `row` whose texts are shortened here. `similar`: rows that say nearly the same, in rank order, as far as the
    search had to look; empty with `similar=each`."""

    rank: int
    score: float
    similarity: float | None
    key: str
    row: dict[str, Any]
    cut: list[str]
    similar: list[SimilarRow]


class SearchTiming(BaseModel):
    """Milliseconds of the server's time; waiting for `wait_for` is not part of `total_ms`."""

    embed_ms: float
    index_ms: float
    rows_ms: float
    total_ms: float
    waited_ms: float


class SearchAnswer(BaseModel):
    """Results in rank order. `more`: a further page has results. `waited`: null without `wait_for`, else whether
    that row's state was in the index before the search."""

    query: str
    source: str
    mode: Mode
    offset: int
    limit: int
    results: list[SearchResult]
    more: bool
    waited: bool | None
    timing: SearchTiming
