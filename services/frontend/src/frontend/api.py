"""The JSON API and the probes."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import ConfigDict, Field

from frontend import models, search
from frontend.letters import DeadLetter
from frontend.limits import MAX_LIMIT, PRODUCTS, Filters
from frontend.problems import ProblemBody
from frontend.products import MAX_ID, Written
from frontend.services import Services
from frontend.status import Status

MAX_WAIT_MS = 20_000
ELAPSED_LIMIT_MS = 24 * 3600 * 1000


def services_of(request: Request) -> Services:
    found: Services = request.app.state.services
    return found


async def _using(request: Request) -> Services:
    # Async, although it waits for nothing: a plain function would be run on another thread.
    return services_of(request)


Using = Annotated[Services, Depends(_using)]
ProductId = Annotated[int, Path(ge=1, le=MAX_ID, description="the product's id")]
IfMatch = Annotated[str | None, Header(description="the `version` that the row must still have")]
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ProblemBody, "description": "The request cannot be read"},
    421: {"model": ProblemBody, "description": "The server does not answer under that name"},
    422: {"model": ProblemBody, "description": "The request breaks a rule; each field is named"},
    429: {"model": ProblemBody, "description": "Too many requests; Retry-After says when to come back"},
    503: {"model": ProblemBody, "description": "A part cannot be reached; try again"},
}
WRITING: dict[int | str, dict[str, Any]] = {
    403: {"model": ProblemBody, "description": "The site is read-only, or the request comes from another site's page"},
    408: {"model": ProblemBody, "description": "The body came too slowly"},
    413: {"model": ProblemBody, "description": "The body is too large"},
}
UNWATCHED: dict[int | str, dict[str, Any]] = {
    404: {"model": ProblemBody, "description": "No table is watched under that name"}
}
MISSING: dict[int | str, dict[str, Any]] = {404: {"model": ProblemBody, "description": "No such row"}}
CONFLICT: dict[int | str, dict[str, Any]] = {409: {"model": ProblemBody, "description": "The sku is taken"}}
CHANGED: dict[int | str, dict[str, Any]] = {
    412: {"model": ProblemBody, "description": "The row is not the version of If-Match any more"}
}

router = APIRouter(prefix="/api", responses=ERRORS)
probes = APIRouter(tags=["probes"])


class SearchParameters(models.SearchFields):
    """The query string of `GET /api/search`. A parameter that is not known is refused: a mistyped filter that is
    ignored gives a wrong answer."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = 20
    wait_for: Annotated[
        models.Key | None, Field(description="a key whose present state the index should hold before the search")
    ] = None
    wait_ms: Annotated[int, Field(ge=0, le=MAX_WAIT_MS, description="how long to wait for it")] = 2_000

    def query(self) -> search.Query:
        return search.Query(
            text=self.q,
            limit=self.limit,
            offset=self.offset,
            source=self.source,
            filters=Filters(self.category, self.min_price, self.max_price),
            mode=self.mode,
            similar=self.similar,
            wait_for=self.wait_for,
            wait_ms=self.wait_ms,
        )


@router.get("/search", tags=["search"], summary="Search by meaning", responses=UNWATCHED)
async def get_search(
    parameters: Annotated[SearchParameters, Query()], services: Using, response: Response
) -> models.SearchAnswer:
    """Rows in rank order, each page continuing the one before. An empty query finds nothing.

    Rows that say nearly the same (variants of one product) count as one result, the best of them; `similar=each` lists
    every row for itself."""
    query = parameters.query()
    found = await services.searcher.search(query)
    response.headers["Server-Timing"] = server_timing(found.timing)
    return models.SearchAnswer(
        query=query.text,
        source=query.source,
        mode=query.mode,
        offset=query.offset,
        limit=query.limit,
        results=[
            models.SearchResult(
                rank=hit.rank,
                score=round(hit.score, 6),
                similarity=None if hit.similarity is None else round(hit.similarity, 6),
                key=hit.row.key,
                row={column: models.plain(value) for column, value in hit.row.values.items()},
                cut=list(hit.row.cut),
                similar=[models.SimilarRow(key=row.key, score=round(score, 6)) for score, row in hit.similar],
            )
            for hit in found.hits
        ],
        more=found.more,
        waited=found.waited,
        timing=models.SearchTiming(**{name: round(ms, 2) for name, ms in found.timing._asdict().items()}),
    )


def server_timing(timing: search.Timing) -> str:
    """The Server-Timing header, which a browser's network panel shows."""
    return ", ".join(f"{name.removesuffix('_ms')};dur={ms:.1f}" for name, ms in timing._asdict().items())


@router.get("/products", tags=["products"], summary="List products, newest first")
async def list_products(
    services: Using,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    after: Annotated[int | None, Query(ge=1, le=MAX_ID, description="`next` of the page before")] = None,
    category: models.Category | None = None,
) -> models.ProductPage:
    rows = await services.products.page(limit=limit + 1, after=after, category=category)
    items = [models.Product(**row) for row in rows[:limit]]
    return models.ProductPage(items=items, next=items[-1].id if len(rows) > limit else None)


@router.post("/products", tags=["products"], status_code=201, summary="Create a product", responses=WRITING | CONFLICT)
async def create_product(new: models.NewProduct, services: Using, response: Response) -> models.SavedProduct:
    written = await services.products.create(new)
    response.headers["Location"] = f"/api/products/{written.row['id']}"
    response.headers["ETag"] = _etag(written.row["version"])
    return models.SavedProduct(**written.row, sync=sync_of(written))


@router.get("/products/{id}", tags=["products"], summary="One product, whole", responses=MISSING)
async def get_product(id: ProductId, services: Using, response: Response) -> models.Product:
    product = models.Product(**await services.products.get(id))
    response.headers["ETag"] = _etag(product.version)
    return product


@router.patch(
    "/products/{id}", tags=["products"], summary="Change some fields", responses=WRITING | MISSING | CONFLICT | CHANGED
)
async def change_product(
    id: ProductId, change: models.ProductChange, services: Using, response: Response, if_match: IfMatch = None
) -> models.SavedProduct:
    written = await services.products.change(id, change, _version(if_match))
    response.headers["ETag"] = _etag(written.row["version"])
    return models.SavedProduct(**written.row, sync=sync_of(written))


@router.delete("/products/{id}", tags=["products"], summary="Delete a product", responses=WRITING | MISSING | CHANGED)
async def delete_product(id: ProductId, services: Using, if_match: IfMatch = None) -> models.DeletedProduct:
    written = await services.products.delete(id, _version(if_match))
    return models.DeletedProduct(id=id, sync=sync_of(written))


@router.get(
    "/products/{id}/indexed", tags=["products"], summary="Has the row arrived in the index?", responses=UNWATCHED
)
async def get_indexed(
    id: ProductId,
    services: Using,
    wait_ms: Annotated[int, Query(ge=0, le=MAX_WAIT_MS, description="answer when settled, at the latest then")] = 0,
    since: Annotated[int | None, Query(ge=0, le=MAX_ID, description="when it was committed, Unix milliseconds")] = None,
) -> models.Indexed:
    """Compares what the index's queries see with what the row should be: its text and metadata when it has text,
    nothing when it has none or is gone. A row that never was counts as gone."""
    watched = await services.database.source(PRODUCTS)
    arrival = await services.watcher.wait(watched, str(id), wait_ms)
    elapsed = None
    if arrival.settled and since is not None and 0 <= (passed := round(time.time() * 1000) - since) < ELAPSED_LIMIT_MS:
        elapsed = passed
        services.watcher.measured(key=str(id), since_ms=since, milliseconds=passed)
    return models.Indexed(
        id=id,
        row=arrival.row,
        settled=arrival.settled,
        searchable=arrival.settled and arrival.row == "present",
        elapsed_ms=elapsed,
        message=arrival_message(arrival.row, settled=arrival.settled, elapsed_ms=elapsed),
    )


def arrival_message(row: str, *, settled: bool, elapsed_ms: int | None) -> str:
    """The sentence a person reads after an edit."""
    after = "" if elapsed_ms is None else f" after {duration(elapsed_ms)}"
    match row, settled:
        case "present", True:
            return f"searchable{after}" if after else "searchable"
        case "present", False:
            return "not searchable in this form yet"
        case "blank", True:
            return f"not searchable: no text (gone from the index{after})" if after else "not searchable: no text"
        case "blank", False:
            return "no text: not gone from the index yet"
        case _, True:
            return f"gone from the index{after}"
        case _:
            return "not gone from the index yet"


def duration(milliseconds: float) -> str:
    """180 ms, 1.2 s, 3 min: as much as a person reads at a glance."""
    if milliseconds < 1_000:
        return f"{milliseconds:.0f} ms"
    if milliseconds < 60_000:
        return f"{milliseconds / 1_000:.1f} s"
    if milliseconds < 3_600_000:
        return f"{milliseconds / 60_000:.0f} min"
    return f"{milliseconds / 3_600_000:.1f} h"


@router.get("/status", tags=["status"], summary="How far the index is behind the tables")
async def get_status(services: Using) -> Status:
    return await services.board.current()


@router.get("/dead-letters", tags=["status"], summary="What was set aside, newest first, at most 50")
async def get_dead_letters(services: Using) -> list[DeadLetter]:
    """As Pelican last saw the dead letter queue, some seconds ago; `python -m emu dlq` works on the queue itself."""
    return await services.letters.newest()


@probes.get("/healthz", summary="Alive")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@probes.get(
    "/readyz",
    summary="Ready: database, index and model",
    responses={503: {"model": dict[str, str], "description": "A part is not ready; it says why"}},
)
async def readyz(services: Using) -> JSONResponse:
    """200 when all three are "ok", else 503; a part that is not says why."""
    checks = await services.readiness()
    return JSONResponse(checks, status_code=200 if all(value == "ok" for value in checks.values()) else 503)


def sync_of(written: Written) -> models.Sync:
    watch = f"/api/products/{written.row['id']}/indexed?since={written.committed_at_ms}"
    return models.Sync(committed_at_ms=written.committed_at_ms, affects=written.affects, watch=watch)


def _etag(version: str) -> str:
    return f'"{version}"'


def _version(if_match: str | None) -> str | None:
    return None if if_match is None or if_match.strip() == "*" else if_match.strip().removeprefix("W/").strip('"')
