"""The pages: rendered here, refreshed in parts by HTMX."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import ValidationError
from starlette.datastructures import FormData
from starlette.responses import HTMLResponse, Response

from frontend import models, views
from frontend.api import ProductId, Using, duration, services_of, sync_of
from frontend.limits import MAX_DEPTH
from frontend.problems import ProblemError, explain
from frontend.services import Services
from frontend.sparkline import points

NEWEST_SHOWN = 6
# More than any form of ours has.
MAX_FIELDS = 20
TITLES = {
    403: "That is not allowed",
    404: "Nothing here",
    409: "Taken already",
    412: "Changed meanwhile",
    421: "Not known under that name",
    422: "That does not work",
    429: "Too many requests",
    503: "Not available at the moment",
}

router = APIRouter(include_in_schema=False)

environment = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
environment.filters["duration"] = duration
environment.filters["age"] = lambda at: duration((datetime.now(UTC) - at).total_seconds() * 1000)


def wants_html(request: Request) -> bool:
    """Whether an error at this address is read by a person."""
    path: str = request.scope["path"]
    return not path.startswith(("/api/", "/healthz", "/readyz", "/openapi", "/static/"))


def render(
    request: Request, template: str, status: int = 200, headers: dict[str, str] | None = None, **context: Any
) -> HTMLResponse:
    services = services_of(request)
    always = {"page": "", "asset": services.assets.url, "editing": not services.settings.shows_only}
    page = environment.get_template(template).render(always | context)
    return HTMLResponse(page, status_code=status, headers=headers)


def problem(request: Request, error: ProblemError) -> Response:
    """An error as a page, or inside the page that made the request: never in the place of a form that a person
    has filled in."""
    title = TITLES.get(error.status, "Something went wrong")
    message = error.detail.message
    if "hx-request" not in request.headers:
        return render(
            request,
            "problem.html",
            error.status,
            error.headers,
            title=title,
            message=message,
            request_id=request.state.request_id,
        )
    headers = {**error.headers, "HX-Retarget": "#notice", "HX-Reswap": "innerHTML"}
    return render(request, "_notice.html", error.status, headers, title=title, message=message)


# The search page


async def results(request: Request, services: Services) -> tuple[int, dict[str, Any]]:
    """Status and context of the part that shows results; a query that breaks a rule is shown there, not raised."""
    context: dict[str, Any] = {"trouble": "", "found": None, "hits": [], "more": False, "newest": []}
    try:
        form = views.SearchForm.model_validate(views.given(request.query_params))
    except ValidationError as error:
        trouble = "; ".join(_search_trouble(found) for found in error.errors())
        form = views.SearchForm.model_construct(q=request.query_params.get("q", ""))
        return 422, context | {"form": form, "trouble": trouble, "trouble_title": TITLES[422]}
    context |= {"form": form, "filtered": bool(form.query().filters), "examples": services.settings.examples}
    try:
        found = await services.searcher.search(form.query())
        if not form.q.strip():
            newest = await services.products.page(limit=NEWEST_SHOWN)
            cards = [views.product_card(row, services.settings.currency) for row in newest]
            return 200, context | {"newest": cards}
    except ProblemError as error:
        title = TITLES.get(error.status, "Something went wrong")
        return error.status, context | {"trouble": error.detail.message, "trouble_title": title}
    return 200, context | {
        "found": found,
        "hits": [views.card(hit, found.watched, form.mode, services.settings.currency) for hit in found.hits],
        "more": found.more and form.offset + views.PAGE < MAX_DEPTH,
        "next_page": form.address(form.offset + views.PAGE),
        "timing": found.timing,
        "weak": views.weak(found),
    }


def _search_trouble(found: Any) -> str:
    names = {"q": "The query", "min_price": "The lowest price", "max_price": "The highest price"}
    return f"{names.get(str(found['loc'][0]), str(found['loc'][0]))}: {explain(found)}."


@router.get("/")
async def search_page(request: Request, services: Using) -> Response:
    status, context = await results(request, services)
    try:
        categories, sources = await services.products.categories(), list(await services.database.sources())
    except ProblemError:
        categories, sources = [], []
    return render(
        request,
        "search.html",
        status,
        page="search",
        categories=categories,
        sources=sources,
        values=views.EMPTY_FORM,
        problems={},
        **context,
    )


@router.get("/results")
async def results_part(request: Request, services: Using) -> Response:
    status, context = await results(request, services)
    form: views.SearchForm = context["form"]
    if form.offset and status == 200:
        return render(request, "_more.html", status, **context)
    # The address follows the query, so that it can be reloaded, kept and sent.
    address = f"/?{query}" if (query := form.address()) and status != 422 else "/"
    return render(request, "_results.html", status, {"HX-Replace-Url": address}, **context)


# One product


def placed(request: Request) -> tuple[int | None, float | None, str]:
    """Rank and score of the row in the list it was opened from, and the query string that carries them on."""
    query = request.query_params
    try:
        rank, score = int(query["rank"]), float(query["score"])
    except (KeyError, ValueError):
        return None, None, ""
    if not (0 < rank <= MAX_DEPTH and -1 <= score <= 1):
        return None, None, ""
    return rank, score, f"?rank={rank}&score={score}"


@router.get("/products/{id}")
async def product_page(id: ProductId, request: Request, services: Using) -> Response:
    hit = views.product_card(await services.products.get(id), services.settings.currency)
    categories = await services.products.categories()
    return render(request, "product.html", page="search", hit=hit, categories=categories)


@router.get("/products/{id}/row")
async def product_row(id: ProductId, request: Request, services: Using) -> Response:
    rank, score, _ = placed(request)
    row = await services.products.get(id)
    hit = views.product_card(row, services.settings.currency, rank=rank, score=score)
    return render(request, "_row.html", hit=hit, line=None)


@router.get("/products/{id}/edit")
async def edit_form(id: ProductId, request: Request, services: Using) -> Response:
    values = views.form_values(await services.products.get(id))
    return render(request, "_edit.html", id=id, values=values, problems={}, place=placed(request)[2])


@router.get("/products/{id}/delete")
async def delete_form(id: ProductId, request: Request, services: Using) -> Response:
    hit = views.product_card(await services.products.get(id), services.settings.currency)
    return render(request, "_delete.html", id=id, title=hit.title, place=placed(request)[2])


async def sent_form(request: Request) -> dict[str, str]:
    form: FormData = await request.form(max_files=0, max_fields=MAX_FIELDS)
    return views.read_form(dict(form))


Sent = Annotated[dict[str, str], Depends(sent_form)]


@router.patch("/products/{id}")
async def save(id: ProductId, sent: Sent, request: Request, services: Using) -> Response:
    before = await services.products.get(id)
    changes = views.changed_fields(before, sent)
    if not changes:
        hit = views.product_card(before, services.settings.currency)
        return render(request, "_row.html", hit=hit, line=views.Line("Saved", "nothing has changed"))
    try:
        change = models.ProductChange.model_validate(changes)
        written = await services.products.change(id, change, sent.get("version"))
    except (ValidationError, ProblemError) as error:
        status, problems = _form_trouble(error)
        values = views.form_values(before) | sent
        return render(request, "_edit.html", status, id=id, values=values, problems=problems, place="")
    hit = views.product_card(written.row, services.settings.currency)
    return render(request, "_row.html", hit=hit, line=views.saved_line(written, sync_of(written).watch))


@router.delete("/products/{id}")
async def remove(id: ProductId, request: Request, services: Using) -> Response:
    written = await services.products.delete(id)
    return render(
        request,
        "_deleted.html",
        title=views.product_card(written.row, "").title,
        values=views.form_values(written.row),
        attributes=models.to_json(written.row["attributes"]),
        line=views.saved_line(written, sync_of(written).watch, "Deleted"),
    )


@router.post("/products")
async def create(sent: Sent, request: Request, services: Using) -> Response:
    try:
        written = await services.products.create(models.NewProduct.model_validate(views.new_fields(sent)))
    except (ValidationError, ProblemError) as error:
        status, problems = _form_trouble(error)
        return render(request, "_create.html", status, values=views.EMPTY_FORM | sent, problems=problems)
    hit = views.product_card(written.row, services.settings.currency)
    line = views.saved_line(written, sync_of(written).watch, "Created")
    return render(request, "_created.html", hit=hit, line=line, values=views.EMPTY_FORM, problems={})


@router.post("/products/restore")
async def restore(sent: Sent, request: Request, services: Using) -> Response:
    """Undo of a deletion: the same values as a new row."""
    try:
        new = models.NewProduct.model_validate(views.new_fields(sent))
    except ValueError as error:
        raise ProblemError(422, "invalid", "what was deleted cannot be read any more") from error
    written = await services.products.create(new)
    hit = views.product_card(written.row, services.settings.currency)
    return render(request, "_row.html", hit=hit, line=views.saved_line(written, sync_of(written).watch, "Restored"))


def _form_trouble(error: ValidationError | ProblemError) -> tuple[int, dict[str, list[str]]]:
    """Status and messages by field, to be shown in the form; what no form can mend is raised again."""
    if isinstance(error, ValidationError):
        return 422, views.form_problems(error)
    if error.status not in (409, 412, 422):
        raise error
    return error.status, {"": [error.detail.message]}


# Status and API documents


@router.get("/status")
async def status_page(request: Request, services: Using) -> Response:
    return render(request, "status.html", page="status", **await _status(services))


@router.get("/status/panel")
async def status_panel(request: Request, services: Using) -> Response:
    return render(request, "_status.html", **await _status(services))


async def _status(services: Services) -> dict[str, Any]:
    status = await services.board.current()
    history = list(services.board.history)
    verdict, reason = views.VERDICTS[status.state]
    try:
        letters = await services.letters.newest()
    except ProblemError:
        letters = []  # `troubles` says that the database does not answer
    return {
        "letters": letters,
        "sample": status,
        "verdict": verdict,
        "reason": reason,
        "other_places": views.OTHER_PLACES,
        "flow": [(tile, points(tile.series)) for tile in views.flow_tiles(status, history)],
        "facts": [(tile, points(tile.series)) for tile in views.fact_tiles(status, history)],
    }


@router.get("/docs")
async def docs_page(request: Request) -> Response:
    return render(request, "docs.html", page="docs")
