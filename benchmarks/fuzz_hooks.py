"""What `schemathesis` does before each request: nothing may wait for long, or most of the time would go into waiting."""

import contextlib
from typing import Any

import schemathesis

MAX_WAIT_MS = 20


@schemathesis.hook
def map_query(_: schemathesis.HookContext, query: dict[str, Any] | None) -> dict[str, Any] | None:
    """Shorten `wait_ms` where it would be accepted; what is refused stays as it is."""
    if query and isinstance(wait := query.get("wait_ms"), int | str):
        with contextlib.suppress(ValueError):
            query["wait_ms"] = min(int(wait), MAX_WAIT_MS) if 0 <= int(wait) <= 20_000 else wait
    return query
