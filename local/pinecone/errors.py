"""What the stand-in answers when it refuses, in the two shapes of Pinecone's two planes."""

from collections.abc import Mapping

import orjson
from starlette.responses import PlainTextResponse, Response

# google.rpc.Code by HTTP status: the number in the data plane's bodies.
_NUMBERS = {
    400: 3,
    401: 16,
    403: 7,
    404: 5,
    405: 12,
    409: 6,
    412: 9,
    413: 11,
    429: 8,
    500: 13,
    501: 12,
    503: 14,
    504: 4,
}
# The name in the control plane's bodies.
_NAMES = {
    400: "INVALID_ARGUMENT",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    409: "ALREADY_EXISTS",
    412: "FAILED_PRECONDITION",
    413: "OUT_OF_RANGE",
    422: "UNPROCESSABLE_ENTITY",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class ApiProblem(Exception):  # noqa: N818 - it is an answer, not a fault of the program
    """A refusal: HTTP status and the sentence for the client."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})


def data_plane_answer(problem: ApiProblem) -> Response:
    """`{"code","message","details"}`; 401 is plain text, as in Pinecone."""
    if problem.status == 401:
        return PlainTextResponse("Unauthorized", 401)
    body = {"code": _NUMBERS.get(problem.status, 2), "message": problem.message, "details": []}
    return Response(orjson.dumps(body), problem.status, problem.headers, "application/json")


def control_plane_answer(problem: ApiProblem) -> Response:
    """`{"error":{"code","message"},"status"}`; 401 is plain text, as in Pinecone."""
    if problem.status == 401:
        return PlainTextResponse("Unauthorized", 401)
    error = {"code": _NAMES.get(problem.status, "INTERNAL"), "message": problem.message}
    body = {"error": error, "status": problem.status}
    return Response(orjson.dumps(body), problem.status, problem.headers, "application/json")
