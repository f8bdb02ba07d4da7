"""The provider behind `VectorIndex`: create, read, update, replace and delete a Pinecone index.

Pulumi pickles an instance into the stack's state and runs it in a process of its own, which imports this module from
the program's folder: it must stay importable by that name. The SDK finds another control plane through
PINECONE_CONTROLLER_HOST.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pinecone
from pinecone.errors import ConflictError, ForbiddenError, NotFoundError, PineconeError, UnauthorizedError
from pinecone.models.indexes.index import IndexModel
from pulumi.dynamic import (
    CheckFailure,
    CheckResult,
    CreateResult,
    DiffResult,
    ReadResult,
    ResourceProvider,
    UpdateResult,
)
from pulumi.runtime.rpc import UNKNOWN

# A serverless index is ready within a minute; what takes longer than this is stuck.
READY_SECONDS = 300.0
GONE_SECONDS = 300.0
POLL_SECONDS = 2.0
FAILED_STATE = "InitializationFailed"

IDENTITY = ("name", "dimension", "metric", "cloud", "region")
METRICS = ("cosine", "dotproduct", "euclidean")
MAX_NAME_CHARS = 45
MAX_DIMENSION = 20_000

Properties = Mapping[str, Any]


class VectorIndexError(RuntimeError):
    """Pinecone cannot give what was asked; the message names the index, the reason and the way out."""


class VectorIndexProvider(ResourceProvider):
    """Properties: name, dimension, metric, cloud, region (another value makes another index); tags, deletion_protection,
    api_key (updated in place); adopt (read at creation only). Outputs: the same, and `host`, a URL."""

    def __init__(self, ready_seconds: float = READY_SECONDS, poll_seconds: float = POLL_SECONDS) -> None:
        super().__init__()
        self._ready_seconds = ready_seconds
        self._poll_seconds = poll_seconds

    def check(self, _olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        failures = []
        name, dimension, metric = news.get("name"), news.get("dimension"), news.get("metric")
        if name != UNKNOWN and not (isinstance(name, str) and 0 < len(name) <= MAX_NAME_CHARS):
            failures.append(CheckFailure("name", f"{name!r} must have 1 to {MAX_NAME_CHARS} characters"))
        if dimension != UNKNOWN and not 0 < int(dimension or 0) <= MAX_DIMENSION:
            failures.append(CheckFailure("dimension", f"{dimension!r} must be 1 to {MAX_DIMENSION}"))
        if metric not in (*METRICS, UNKNOWN):
            failures.append(CheckFailure("metric", f"{metric!r} must be one of {', '.join(METRICS)}"))
        return CheckResult(news, failures)

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        replaces = [key for key in IDENTITY if olds.get(key) != news.get(key)]
        updated = [key for key in ("tags", "deletion_protection", "api_key") if olds.get(key) != news.get(key)]
        return DiffResult(
            changes=bool(replaces or updated),
            replaces=replaces,
            stables=["host"],
            # Two indexes cannot share a name. With another name the new one is made first, and is there to be filled.
            delete_before_replace=bool(replaces) and "name" not in replaces,
        )

    def create(self, props: dict[str, Any]) -> CreateResult:
        with _client(props) as client:
            try:
                client.indexes.create(
                    name=props["name"],
                    dimension=int(props["dimension"]),
                    metric=props["metric"],
                    deployment={
                        "deployment_type": "managed",
                        "cloud": props["cloud"],
                        "region": props["region"],
                    },
                    tags=dict(props["tags"]),
                    timeout=-1,
                )
            except ConflictError:
                self._check_ours(client.indexes.describe(props["name"]), props)
            self._ready(client, props["name"])
            model = client.indexes.configure(
                props["name"], tags=dict(props["tags"]), deletion_protection=_protection(props)
            )
            return CreateResult(props["name"], _outputs(model, props))

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        with _client(props) as client:
            try:
                return ReadResult(id_, _outputs(client.indexes.describe(id_), props))
            except NotFoundError:
                return ReadResult("", {})

    def update(self, id_: str, olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        removed = dict.fromkeys(set(olds.get("tags") or {}) - set(news["tags"]), "")  # Pinecone removes empty tags
        with _client(news) as client:
            try:
                model = client.indexes.configure(
                    id_, tags={**removed, **news["tags"]}, deletion_protection=_protection(news)
                )
            except NotFoundError:
                raise VectorIndexError(
                    f"the index {id_} is gone from Pinecone; run `pulumi refresh`, then `pulumi up` makes it anew"
                ) from None
            return UpdateResult(_outputs(model, news))

    def delete(self, id_: str, props: dict[str, Any]) -> None:
        with _client(props) as client:
            try:
                client.indexes.delete(id_, timeout=-1)
            except NotFoundError:
                return
            except ForbiddenError:
                raise VectorIndexError(
                    f"the index {id_} is protected; run `pulumi config set deletionProtection false` and `pulumi up` first"
                ) from None
            self._gone(client, id_)

    def _check_ours(self, found: IndexModel, props: Properties) -> None:
        """An index of this name exists. With our tags it is what an interrupted `pulumi up` made; else only `adopt`
        takes it over. Either way it must be what was asked for."""
        tags = found.tags or {}
        if not props["adopt"] and any(tags.get(key) != value for key, value in props["tags"].items()):
            raise VectorIndexError(
                f"an index named {found.name} exists already and is not this stack's; choose another with `pulumi config "
                "set indexName …`, or take it over with `pulumi config set indexAdopt true`"
            )
        live = _live(found)
        wrong = [f"{key} {live[key]} instead of {props[key]}" for key in IDENTITY if live[key] != props[key]]
        if wrong:
            raise VectorIndexError(
                f"an index named {found.name} exists already with {', '.join(wrong)}; delete it, or choose another name "
                "with `pulumi config set indexName …`"
            )

    def _ready(self, client: pinecone.Pinecone, name: str) -> None:
        deadline = time.monotonic() + self._ready_seconds
        while not (status := client.indexes.describe(name).status).ready:
            if status.state == FAILED_STATE:
                raise VectorIndexError(f"Pinecone could not initialise the index {name}; delete it and try again")
            if time.monotonic() > deadline:
                raise VectorIndexError(
                    f"the index {name} is not ready after {self._ready_seconds:g} s ({status.state}); "
                    "run `pulumi up` again, which goes on with the same index"
                )
            time.sleep(self._poll_seconds)

    def _gone(self, client: pinecone.Pinecone, name: str) -> None:
        deadline = time.monotonic() + GONE_SECONDS
        while client.indexes.exists(name):
            if time.monotonic() > deadline:
                raise VectorIndexError(f"the index {name} still exists {GONE_SECONDS:g} s after it was deleted")
            time.sleep(self._poll_seconds)


@contextmanager
def _client(props: Properties) -> Iterator[pinecone.Pinecone]:
    """The SDK, whose errors come out as sentences. Its texts hold no key."""
    with pinecone.Pinecone(api_key=props["api_key"]) as client:
        try:
            yield client
        except UnauthorizedError:
            raise VectorIndexError(
                "Pinecone refused the API key (401); run `pulumi config set --secret pineconeApiKey`, then `pulumi up`"
            ) from None
        except PineconeError as error:
            raise VectorIndexError(f"Pinecone did not do it for the index {props['name']}: {error}") from error


def _protection(props: Properties) -> str:
    return "enabled" if props["deletion_protection"] else "disabled"


def _live(model: IndexModel) -> dict[str, Any]:
    """What Pinecone says of an index, in the provider's own words."""
    return {
        "name": model.name,
        "dimension": model.dimension,
        "metric": model.metric,
        "cloud": getattr(model.deployment, "cloud", ""),
        "region": getattr(model.deployment, "region", ""),
        "tags": dict(model.tags or {}),
        "deletion_protection": model.deletion_protection == "enabled",
        "host": model.host,
    }


def _outputs(model: IndexModel, props: Properties) -> dict[str, Any]:
    return {"api_key": props["api_key"], "adopt": props.get("adopt", False), **_live(model)}
