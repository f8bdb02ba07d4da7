"""Rows as a page shows them, and what a page's forms send back: pure functions."""

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple
from urllib.parse import urlencode

from pydantic import ValidationError

from frontend import models
from frontend.api import duration
from frontend.limits import MAX_DEPTH, PRODUCTS, Filters, Mode
from frontend.problems import explain
from frontend.products import Written
from frontend.search import Found, Hit, Query
from frontend.status import Status
from frontend.store import FoundRow, Row, Watched

PAGE = 20
BODY_SHOWN_CHARS = 400
# Below this cosine similarity the nearest row has little to do with the question.
WEAK_SIMILARITY = 0.2
NO_TEXT = "Neither name nor description, so no search finds it."
UNKNOWN = "\N{EN DASH}"
FORM_FIELDS = ("name", "description", "category", "price")


class Chip(NamedTuple):
    label: str
    value: str


class Similar(NamedTuple):
    """A row under a result that says nearly the same; `address` is empty where it has no page."""

    title: str
    price: str
    address: str


class Card(NamedTuple):
    """One row. `place` carries rank and score through opening and closing it, as a query string."""

    key: str
    title: str
    body: str
    chips: list[Chip]
    price: str
    editable: bool
    rank: int | None = None
    score: float | None = None
    hint: str = ""
    place: str = ""
    similar: tuple[Similar, ...] = ()


class Line(NamedTuple):
    """What became of an edit: `watch` is the address that knows when it has arrived (empty: nothing to wait for)."""

    prefix: str
    say: str
    watch: str = ""


class SearchForm(models.SearchFields):
    """The search page's parameters; a field that a form sends empty counts as not given."""

    def query(self) -> Query:
        filters = Filters(self.category, self.min_price, self.max_price)
        limit = max(1, min(PAGE, MAX_DEPTH - self.offset))
        return Query(self.q, limit, self.offset, self.source, filters, self.mode, self.similar)

    def address(self, offset: int = 0) -> str:
        """The query string that leads here, with only what is not the default."""
        given = self.model_dump(exclude_defaults=True, exclude={"offset"})
        return urlencode(given | ({"offset": offset} if offset else {}))


def given(parameters: Mapping[str, str]) -> dict[str, str]:
    """Parameters without those that are empty."""
    return {name: value for name, value in parameters.items() if value.strip()}


def product_card(row: Row, currency: str, *, rank: int | None = None, score: float | None = None) -> Card:
    """A product; `rank` and `score` when it stands in a list of results."""
    place = {name: value for name, value in (("rank", rank), ("score", score)) if value is not None}
    return Card(
        key=str(row["id"]),
        title=(row["name"] or "").strip() or "(no name)",
        body=shorten(row["description"] or "") or ("" if (row["name"] or "").strip() else NO_TEXT),
        chips=[Chip("category", row["category"])] if row["category"] else [],
        price=price_text(row["price"], currency),
        editable=True,
        rank=rank,
        score=score,
        hint="how close the meaning is: 1 is the same",
        place=f"?{urlencode(place)}" if place else "",
    )


def card(hit: Hit, watched: Watched, mode: Mode, currency: str) -> Card:
    """A result of a search, of any source."""
    values = hit.row.values
    score = round(hit.score, 4)
    if watched.source.name == PRODUCTS and "sku" in values:
        made = product_card(values, currency, rank=hit.rank, score=score)
    else:
        title, *texts = (str(values[column] or "") for column in watched.source.text_columns)
        chips = [
            Chip(column, str(values[column])[:80])
            for column in (*watched.source.metadata_columns, *watched.source.key_columns)
            if values[column] not in (None, "")
        ]
        made = Card(
            key=hit.row.key,
            title=title.strip()[:200] or "(no title)",
            body=shorten(" ".join(texts)),
            chips=chips,
            price="",
            editable=False,
            rank=hit.rank,
            score=score,
        )
    made = made._replace(similar=tuple(_similar(other.row, watched, currency) for other in hit.similar))
    if mode == "semantic":
        return made._replace(hint=f"cosine similarity {hit.score:.3f}: how close the meaning is, 1 is the same")
    meaning = "not near by meaning" if hit.similarity is None else f"cosine similarity {hit.similarity:.3f}"
    return made._replace(hint=f"ranks by meaning and by words taken together, 1 is first in both; {meaning}")


def _similar(row: FoundRow, watched: Watched, currency: str) -> Similar:
    if watched.source.name == PRODUCTS and "sku" in row.values:
        made = product_card(row.values, currency)
        return Similar(made.title, made.price, f"/products/{made.key}")
    title = str(row.values[watched.source.text_columns[0]] or "").strip()
    return Similar(title[:200] or "(no title)", "", "")


def weak(found: Found) -> bool:
    """Whether even the nearest row is far."""
    return found.query.mode == "semantic" and bool(found.hits) and found.hits[0].score < WEAK_SIMILARITY


def shorten(text: str) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text[: 4 * BODY_SHOWN_CHARS].split())
    return line if len(line) <= BODY_SHOWN_CHARS else line[:BODY_SHOWN_CHARS].rsplit(" ", 1)[0] + " …"


def price_text(price: Decimal | None, currency: str) -> str:
    return "" if price is None or not price.is_finite() else f"{currency}{price:,.2f}"


def form_values(row: Row) -> dict[str, str]:
    """A row as the fields of a form."""
    return {
        "name": row["name"] or "",
        "description": _lines(row["description"] or ""),
        "category": row["category"] or "",
        "price": "" if row["price"] is None else f"{row['price']:f}",
        "sku": row["sku"],
        "version": row.get("version", ""),
    }


EMPTY_FORM = {"name": "", "description": "", "category": "", "price": "", "sku": "", "version": ""}


def read_form(sent: Mapping[str, Any]) -> dict[str, str]:
    """The text fields of a form. A browser sends line ends as CR LF whatever the text had."""
    return {name: _lines(value) for name, value in sent.items() if isinstance(value, str)}


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def changed_fields(before: Row, sent: Mapping[str, str]) -> dict[str, Any]:
    """What the form changes: fields whose value differs from what the form of `before` showed."""
    shown = form_values(before)
    return {name: _typed(name, sent[name]) for name in FORM_FIELDS if name in sent and sent[name] != shown[name]}


def new_fields(sent: Mapping[str, str]) -> dict[str, Any]:
    """A form's fields as a new product's. Raises ValueError for attributes that are not JSON."""
    fields = {name: _typed(name, sent[name]) for name in (*FORM_FIELDS, "sku") if sent.get(name)}
    if sent.get("attributes"):
        fields["attributes"] = json.loads(sent["attributes"])
    return {"name": ""} | fields


def _typed(name: str, value: str) -> str | None:
    return None if name == "price" and not value.strip() else value


def form_problems(error: ValidationError) -> dict[str, list[str]]:
    """Messages by field; those of no shown field under ""."""
    problems: dict[str, list[str]] = {}
    for found in error.errors():
        field = str(found["loc"][0]) if found["loc"] else ""
        shown = field in FORM_FIELDS
        message = explain(found)
        problems.setdefault(field if shown else "", []).append(message if shown or not field else f"{field}: {message}")
    return problems


def saved_line(written: Written, watch: str, prefix: str = "Saved") -> Line:
    """The line below a row that was just written."""
    if written.affects == "nothing":
        return Line(prefix, "nothing that is searched has changed")
    return Line(prefix, "looking for it in the index …", watch)


OTHER_PLACES = {
    "building": "Being built beside it",
    "ready": "Ready beside it",
    "previous": "Kept from before the switch",
    "dropping": "Being deleted",
}
VERDICTS = {
    "in_step": ("In step", "Every row with text is searchable, and nothing is on its way."),
    "catching_up": ("Catching up", "Changes are on their way to the index."),
    "attention": ("Rows were set aside", "Some rows could not be processed and wait in the dead letter queue."),
    "unknown": ("Not known", "A part cannot be reached, so the state cannot be told."),
}


class Tile(NamedTuple):
    """One number of the status page with its recent past."""

    name: str
    value: int | None
    text: str
    note: str
    series: list[float | None]
    alarming: bool = False


def flow_tiles(status: Status, history: list[Status]) -> list[Tile]:
    """The way of a change: table, outbox, queue, index."""
    totals = status.totals
    blank = totals.without_text or 0

    def tile(name: str, field: str, note: str, *, alarming: bool = False) -> Tile:
        value = getattr(totals, field)
        series: list[float | None] = [getattr(past.totals, field) for past in history]
        return Tile(name, value, "", note, series, alarming)

    return [
        tile("Rows", "rows", f"{blank:,} without text" if blank else "all with text"),
        tile("Outbox", "outbox", "keys waiting for Pelican", alarming=bool(totals.outbox)),
        tile("Queue", "queue", "messages for Emu", alarming=bool(totals.queue)),
        tile(
            "Vectors",
            "vectors",
            "searchable; long texts have several" if any(s.long_texts for s in status.sources) else "searchable",
        ),
    ]


def fact_tiles(status: Status, history: list[Status]) -> list[Tile]:
    """How fresh it is, and what was set aside."""
    oldest, dead, seen = status.totals.oldest_pending_ms, status.totals.dead_letters, status.commit_to_searchable
    return [
        Tile(
            "Oldest pending change", None, "none" if oldest is None else duration(oldest), "since it was committed",
            [float(past.totals.oldest_pending_ms or 0) for past in history],
        ),
        Tile(
            "Commit to searchable", None, UNKNOWN if seen.last_ms is None else duration(seen.last_ms),
            "make an edit to measure it" if seen.p50_ms is None
            else f"the last edit here; median of {seen.measured}: {duration(seen.p50_ms)}",
            [past.commit_to_searchable.last_ms for past in history],
        ),
        Tile(
            "Dead letters", dead, UNKNOWN if dead is None else f"{dead:,}", "messages set aside",
            [past.totals.dead_letters for past in history], bool(dead),
        ),
    ]  # fmt: skip
