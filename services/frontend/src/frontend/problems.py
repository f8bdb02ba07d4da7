"""What can go wrong, as one kind of answer: a status, a code for programs, a sentence for people."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from fastapi.exceptions import RequestValidationError
from pinecone.errors import PineconeError
from psycopg import errors as pg
from pydantic import BaseModel

from aviary.logs import log

logger = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 2


class FieldProblem(BaseModel):
    """One field that breaks a rule."""

    field: str
    message: str


class ProblemDetail(BaseModel):
    """`code` is for programs, `message` for people, `fields` names each field of a request that was refused."""

    code: str
    message: str
    fields: list[FieldProblem] = []


class ProblemBody(BaseModel):
    """The body of every answer that is not a success."""

    error: ProblemDetail
    request_id: str


class ProblemError(Exception):
    """An answer that is not a success, to be raised from anywhere below a route."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        fields: Sequence[FieldProblem] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.detail = ProblemDetail(code=code, message=message, fields=list(fields))
        self.headers = dict(headers or {})


def invalid(field: str, message: str) -> ProblemError:
    """422 for one field."""
    return ProblemError(422, "invalid", f"{field}: {message}", fields=[FieldProblem(field=field, message=message)])


def unavailable(code: str, message: str) -> ProblemError:
    """503 with a hint when to come back."""
    return ProblemError(503, code, message, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})


def from_database(error: psycopg.Error) -> ProblemError:  # noqa: PLR0911 - one return a kind reads best
    """What a database error means to the caller. Its own text stays here: it may quote a row."""
    match error:
        case pg.UniqueViolation():
            field = "sku" if "sku" in (error.diag.constraint_name or "") else "value"
            message = "another product has it already; choose another one"
            return ProblemError(
                409, "conflict", f"{field}: {message}", fields=[FieldProblem(field=field, message=message)]
            )
        case pg.CheckViolation() | pg.NotNullViolation():
            column = error.diag.column_name or error.diag.constraint_name or "a value"
            return ProblemError(422, "invalid", f"the table does not accept it: {column} breaks a rule of the table")
        case pg.QueryCanceled():
            return unavailable("database_slow", "the database took too long to answer; try again")
        case pg.UndefinedTable() | pg.UndefinedColumn() | pg.UndefinedFunction() | pg.InsufficientPrivilege():
            log(logger, logging.ERROR, "database_not_ready", error=type(error).__name__)
            return unavailable(
                "database_not_ready", "the database is not set up for this service; run `python -m pelican migrate`"
            )
        case psycopg.OperationalError() | psycopg.InterfaceError():
            return unavailable("database_unavailable", "the database cannot be reached; try again in a moment")
        case psycopg.DataError():
            return ProblemError(422, "invalid", "the database cannot hold this value")
        case _:
            log(logger, logging.ERROR, "database_error", error=type(error).__name__)
            return ProblemError(500, "internal", "something went wrong here; the request id finds it in the log")


def from_index(error: PineconeError | TimeoutError) -> ProblemError:
    """Trouble with the vector index is never the caller's fault."""
    log(logger, logging.WARNING, "index_unavailable", error=type(error).__name__)
    return unavailable("index_unavailable", "the search index cannot be reached; try again in a moment")


def from_validation(error: RequestValidationError) -> ProblemError:
    """422 that names each field with a sentence; never the value that was sent."""
    fields: list[FieldProblem] = []
    for found in error.errors():
        where = [str(part) for part in found["loc"]]
        if where and where[0] in ("query", "path", "body", "header"):
            where = where[1:]
        if found["type"] == "json_invalid":
            where = []
        problem = FieldProblem(field=".".join(where) or "body", message=explain(found))
        if problem not in fields:
            fields.append(problem)
    return ProblemError(422, "invalid", "; ".join(f"{f.field}: {f.message}" for f in fields), fields=fields)


def explain(found: Mapping[str, Any]) -> str:  # noqa: PLR0911 - one line a kind reads best
    """One pydantic error as a sentence in our words."""
    context = found.get("ctx", {})
    match found["type"]:
        case "string_too_long":
            given = len(found["input"]) if isinstance(found.get("input"), str) else "more"
            shown = f"{given:,}" if isinstance(given, int) else given
            return f"at most {context['max_length']:,} characters, and this has {shown}; shorten it"
        case "string_unicode":
            return "holds half of a surrogate pair, which is not a character; remove it"
        case "missing":
            return "is required"
        case "extra_forbidden":
            return "is not a field of this object; remove it"
        case "finite_number":
            return "must be a finite number, not NaN or Infinity"
        case "json_invalid":
            return "is not JSON"
        case "value_error":
            return str(context.get("error", found["msg"]))
        case "greater_than_equal":
            return f"must be {context['ge']:,} or more"
        case "less_than_equal":
            return f"must be {context['le']:,} or less"
        case "model_attributes_type" | "dict_type":
            return "must be a JSON object, sent as application/json"
        case _:
            text = str(found["msg"])
            return text[:1].lower() + text[1:]
