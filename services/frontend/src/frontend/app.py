"""The application: routes, error answers and middleware around the services."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response

from frontend import api, pages
from frontend.middleware import BODY_SECONDS, MAX_BODY_BYTES, Guard
from frontend.problems import ProblemBody, ProblemError, from_validation
from frontend.services import Parts, Services
from frontend.settings import FrontendSettings

COMPRESS_FROM_BYTES = 2_000


def create_app(settings: FrontendSettings, parts: Parts) -> FastAPI:
    """The application over `parts`, which it closes when it ends. Call it inside the event loop that will serve."""
    services = Services(settings, parts)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with services.running():
            yield

    app = FastAPI(
        title="Aviary",
        summary="Search a Postgres table by meaning, and edit it.",
        version=version("aviary-frontend"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.services = services
    app.include_router(api.router)
    app.include_router(api.probes)
    app.include_router(pages.router)
    app.mount("/static", services.assets, name="static")
    app.add_exception_handler(ProblemError, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_middleware(GZipMiddleware, minimum_size=COMPRESS_FROM_BYTES, compresslevel=5)
    app.add_middleware(Guard, settings=settings, refuse=_problem)
    return app


async def _problem(request: Request, error: Exception) -> Response:
    if not isinstance(error, ProblemError):
        raise error
    if pages.wants_html(request):
        return pages.problem(request, error)
    body = ProblemBody(error=error.detail, request_id=request.state.request_id)
    return JSONResponse(body.model_dump(), status_code=error.status, headers=error.headers)


async def _invalid(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    return await _problem(request, from_validation(error))


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own: no such path, wrong method, body too large or unreadable."""
    if not isinstance(error, HTTPException):
        raise error
    known = {
        400: ("bad_request", "the body cannot be read; check its syntax, its numbers and its size"),
        404: ("not_found", "there is nothing at this address"),
        405: ("method_not_allowed", "this address does not take that method"),
        408: ("too_slow", f"the body did not come to its end in {BODY_SECONDS:.0f} seconds"),
        413: ("too_large", f"the body is larger than {MAX_BODY_BYTES:,} bytes; shorten it"),
    }
    code, message = known.get(error.status_code, ("error", str(error.detail)))
    problem = ProblemError(error.status_code, code, message, headers=error.headers)
    return await _problem(request, problem)
