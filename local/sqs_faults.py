"""Faults of the queue server on demand, for the chaos suite: a WSGI layer in front of moto's application.

POST /_faults      {"outcome": "refuse" or "cut", "actions": ["SendMessageBatch"], "seconds": 2, "probability": 1}
POST /_leases/end  every lease is over now, whatever its holder believes
GET /_faults       {"injected": {outcome: count}}
DELETE /_faults
"""

import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class QueueFault(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What goes wrong for `seconds`. Requests of `actions` (none named: all of them) are, each with `probability`,
    refused with 503 and not applied ("refuse"), or applied and never answered: the connection ends ("cut")."""

    outcome: Literal["refuse", "cut"]
    actions: list[str] = []
    seconds: float
    probability: float = 1.0
    seed: int = 0


class Faults:
    """The application with faults in front of it. `end_leases` ends them, and says how many there were."""

    def __init__(self, application: "WSGIApplication", end_leases: Callable[[], int]) -> None:
        self._application = application
        self._end_leases = end_leases
        self._lock = threading.Lock()
        self._rules: list[tuple[QueueFault, float, random.Random]] = []
        self._injected: Counter[str] = Counter()

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        match environ["REQUEST_METHOD"], environ["PATH_INFO"]:
            case "POST", "/_faults":
                return self._add(environ, start_response)
            case "DELETE", "/_faults":
                with self._lock:
                    self._rules.clear()
                return _answer(start_response, HTTPStatus.OK, {})
            case "GET", "/_faults":
                return _answer(start_response, HTTPStatus.OK, {"injected": self._injected})
            case "POST", "/_leases/end":
                return _answer(start_response, HTTPStatus.OK, {"ended": self._end_leases()})
        outcome = self._take(environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2])
        if outcome == "refuse":
            return _answer(start_response, HTTPStatus.SERVICE_UNAVAILABLE, {"__type": "ServiceUnavailable"})
        if outcome == "cut":
            for _ in self._application(environ, lambda *_: lambda _: None):
                pass
            connection: socket.socket = environ["werkzeug.socket"]
            connection.shutdown(socket.SHUT_RDWR)
            raise ConnectionAbortedError("injected fault")
        return self._application(environ, start_response)

    def _add(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        try:
            fault = msgspec.json.decode(body, type=QueueFault)
        except msgspec.MsgspecError as error:
            return _answer(start_response, HTTPStatus.BAD_REQUEST, {"message": str(error)})
        with self._lock:
            self._rules.append((fault, time.monotonic() + fault.seconds, random.Random(fault.seed)))  # noqa: S311 - a repeatable choice
        return _answer(start_response, HTTPStatus.OK, {})

    def _take(self, action: str) -> str:
        """What happens to this request; "" for nothing."""
        with self._lock:
            self._rules = [rule for rule in self._rules if time.monotonic() < rule[1]]
            for fault, _, chance in self._rules:
                if fault.actions and action not in fault.actions:
                    continue
                if chance.random() < fault.probability:
                    self._injected[fault.outcome] += 1
                    return fault.outcome
        return ""


def _answer(start_response: "StartResponse", status: HTTPStatus, body: dict[str, Any]) -> Iterable[bytes]:
    start_response(f"{status.value} {status.phrase}", [("Content-Type", "application/json")])
    return [msgspec.json.encode(body)]
