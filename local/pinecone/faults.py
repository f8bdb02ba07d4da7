"""Faults on demand, for tests of the clients: which requests go wrong, how, and how often it has happened."""

import random
import time
from collections import Counter
from collections.abc import Container
from typing import Any, Literal

import msgspec

from local.pinecone.errors import ApiProblem
from local.pinecone.wire import decode

DESCRIBING = ("create_index", "describe_index", "configure_index", "list_indexes")


class Fault(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One rule. The first rule that matches a request decides.

    Which requests: `operation` ("*" for all), `index`, `namespace` (None for any), after `skip` matching ones, for
    `count` requests and `seconds` seconds (None: no end), each with `probability`.
    What happens: after `delay_ms`, `outcome` — "pass" (only the delay), "status" (answer `status`, with
    `retry_after` seconds when given), "reset" (TCP reset), "hang" (no answer until the client gives up), or
    "not_ready" (an index description that says it is not ready, in `state`). With `applied` the request takes effect first.
    """

    operation: str = "*"
    index: str | None = None
    namespace: str | None = None
    skip: int = 0
    count: int | None = None
    seconds: float | None = None
    probability: float = 1.0
    seed: int = 0
    delay_ms: float = 0.0
    outcome: Literal["pass", "status", "reset", "hang", "not_ready"] = "status"
    applied: bool = False
    status: int = 503
    message: str = "injected fault"
    retry_after: float | None = None
    state: str = "Initializing"

    def problem(self) -> ApiProblem:
        """The answer of outcome "status"."""
        headers = {} if self.retry_after is None else {"retry-after": f"{self.retry_after:g}"}
        return ApiProblem(self.status, self.message, headers)


class _Rule:
    def __init__(self, id: int, fault: Fault) -> None:
        self.id = id
        self.fault = fault
        self.seen = 0
        self.injected = 0
        self._random = random.Random(fault.seed)  # noqa: S311 - a repeatable choice, not a secret
        self._until = None if fault.seconds is None else time.monotonic() + fault.seconds

    def take(self, operation: str, index: str | None, namespace: str | None) -> bool:
        """Whether this request is hit; counts it."""
        fault = self.fault
        if fault.operation not in {"*", operation} or fault.index not in {None, index}:
            return False
        if fault.namespace is not None and fault.namespace != namespace:
            return False
        if self._until is not None and time.monotonic() >= self._until:
            return False
        if fault.count is not None and self.injected >= fault.count:
            return False
        self.seen += 1
        if self.seen <= fault.skip or self._random.random() >= fault.probability:
            return False
        self.injected += 1
        return True


class Faults:
    """The rules in force and their counters. `operations`: the names that a rule may give."""

    def __init__(self, operations: Container[str]) -> None:
        self._operations = operations
        self._rules: list[_Rule] = []
        self._last_id = 0
        self._injected: Counter[str] = Counter()

    @property
    def by_namespace(self) -> bool:
        """Whether any rule asks for the namespace of a request."""
        return any(rule.fault.namespace is not None for rule in self._rules)

    def add(self, body: bytes) -> dict[str, int]:
        """Add the rule in a request body; its id. ApiProblem 400 for a rule that could never do what it says."""
        fault = decode(body, Fault)
        if fault.operation != "*" and fault.operation not in self._operations:
            raise ApiProblem(400, f"there is no operation {fault.operation[:40]!r} to fail")
        if fault.outcome == "not_ready" and fault.operation not in DESCRIBING:
            raise ApiProblem(400, f"outcome not_ready is for the operations {', '.join(DESCRIBING)}")
        self._last_id += 1
        self._rules.append(_Rule(self._last_id, fault))
        return {"id": self._last_id}

    def clear(self) -> None:
        """Forget rules and counters."""
        self._rules.clear()
        self._injected.clear()

    def take(self, operation: str, index: str | None, namespace: str | None) -> Fault | None:
        """The fault for this request, if one is due."""
        for rule in self._rules:
            if rule.take(operation, index, namespace):
                self._injected[operation] += 1
                return rule.fault
        return None

    def report(self) -> dict[str, Any]:
        """`{"rules": [{"id", "seen", "injected", "fault"}], "injected": {operation: count}}`."""
        rules = [
            {"id": rule.id, "seen": rule.seen, "injected": rule.injected, "fault": msgspec.to_builtins(rule.fault)}
            for rule in self._rules
        ]
        return {"rules": rules, "injected": dict(self._injected)}
