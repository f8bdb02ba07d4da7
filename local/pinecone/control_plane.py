"""The control plane: indexes are created, described, configured and deleted. No HTTP here."""

import re
from typing import Any

import msgspec

from local.pinecone.errors import ApiProblem
from local.pinecone.operations import Configuration
from local.pinecone.store import Store
from local.pinecone.wire import decode

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,43}[a-z0-9])?")
TAG_KEY = re.compile(r"[a-zA-Z0-9_-]{1,80}")
MAX_TAGS = 20
MAX_TAG_VALUE_CHARS = 120
MAX_DIMENSION = 20_000
METRICS = ("cosine", "dotproduct", "euclidean")
DEFAULT_DEPLOYMENT = {"deployment_type": "managed", "cloud": "aws", "region": "us-east-1"}
ON_DEMAND = {"mode": "OnDemand", "status": {"state": "Ready", "current_replicas": None, "current_shards": None}}


class CreateRequest(msgspec.Struct):
    schema: dict[str, Any]
    name: str | None = None
    deployment: dict[str, Any] | None = None
    deletion_protection: str = "disabled"
    tags: dict[str, str] | None = None
    read_capacity: dict[str, Any] | None = None


class ConfigureRequest(msgspec.Struct):
    deletion_protection: str | None = None
    tags: dict[str, str] | None = None
    read_capacity: dict[str, Any] | None = None
    schema: dict[str, Any] | None = None
    deployment: dict[str, Any] | None = None


def create(store: Store, body: bytes) -> Configuration:
    """Make the index; ApiProblem 400 for what Pinecone would refuse, 409 when the name is taken."""
    request = decode(body, CreateRequest)
    name = request.name or ""
    if not NAME.fullmatch(name):
        raise ApiProblem(
            400, "Name must be 1 to 45 characters: lower case letters, digits and '-', not beginning or ending with '-'"
        )
    dimension, metric = _vector_field(request.schema)
    configuration = Configuration(
        name=name,
        dimension=dimension,
        metric=metric,
        deployment=request.deployment or dict(DEFAULT_DEPLOYMENT),
        deletion_protection=_protection(request.deletion_protection),
        tags=_merged(None, request.tags),
    )
    if name in store.indexes:
        raise ApiProblem(409, f"Resource {name} already exists")
    return store.create(configuration).configuration


def describe(store: Store, name: str) -> Configuration:
    """The index's configuration; ApiProblem 404."""
    if name not in store.indexes:
        raise ApiProblem(404, f"Resource {name} not found")
    return store.indexes[name].configuration


def configure(store: Store, name: str, body: bytes) -> Configuration:
    """Change deletion protection and merge tags; a tag set to "" goes away."""
    current = describe(store, name)
    request = decode(body, ConfigureRequest)
    if request.schema is not None or request.deployment is not None:
        raise ApiProblem(400, "the schema and the deployment of an index cannot be changed after creation")
    protection = request.deletion_protection
    changed = msgspec.structs.replace(
        current,
        deletion_protection=current.deletion_protection if protection is None else _protection(protection),
        tags=_merged(current.tags, request.tags),
    )
    store.indexes[name].configure(changed)
    return changed


def delete(store: Store, name: str) -> None:
    """Delete the index with all it holds; ApiProblem 403 when it is protected."""
    if describe(store, name).deletion_protection == "enabled":
        raise ApiProblem(
            403, f"Deletion protection is enabled for index {name}; disable deletion protection before retrying"
        )
    store.delete(name)


def model(configuration: Configuration, base_url: str, not_ready: str | None = None) -> dict[str, Any]:
    """What the API says about an index. `not_ready`: the state to report instead of Ready; there is no host yet then."""
    field = {
        "type": "dense_vector",
        "dimension": configuration.dimension,
        "metric": configuration.metric,
        "description": None,
    }
    body: dict[str, Any] = {
        "name": configuration.name,
        "status": {"ready": not_ready is None, "state": not_ready or "Ready"},
        "schema": {"fields": {"_values": field}},
        "deployment": configuration.deployment,
        "deletion_protection": configuration.deletion_protection,
        "read_capacity": ON_DEMAND,
        "tags": configuration.tags,
    }
    if not_ready is None:
        body["host"] = f"{base_url}/_ix/{configuration.name}"
    return body


def _vector_field(schema: dict[str, Any]) -> tuple[int, str]:
    """Dimension and metric of the one field that an index of the Vectors API has."""
    fields = schema.get("fields")
    field = fields.get("_values") if isinstance(fields, dict) and len(fields) == 1 else None
    if not isinstance(field, dict) or field.get("type") != "dense_vector":
        raise ApiProblem(
            400, "this stand-in has the Vectors API only: the schema must be one dense_vector field named _values"
        )
    dimension, metric = field.get("dimension"), field.get("metric", "cosine")
    if not isinstance(dimension, int) or not 1 <= dimension <= MAX_DIMENSION:
        raise ApiProblem(400, f"dimension must be between 1 and {MAX_DIMENSION}, got {str(dimension)[:20]}")
    if metric not in METRICS:
        raise ApiProblem(400, f"metric must be one of {', '.join(METRICS)}, got {str(metric)[:20]}")
    return dimension, metric


def _protection(value: str) -> str:
    if value not in {"enabled", "disabled"}:
        raise ApiProblem(400, f"deletion_protection must be 'enabled' or 'disabled', got {value[:20]!r}")
    return value


def _merged(current: dict[str, str] | None, changes: dict[str, str] | None) -> dict[str, str] | None:
    """Tags after a change; None when there are none, as Pinecone answers it."""
    if changes is None:
        return current
    for key, value in changes.items():
        if not TAG_KEY.fullmatch(key):
            raise ApiProblem(400, f"Tag key {key[:80]!r} must be 1 to 80 letters, digits, '_' or '-'")
        if len(value) > MAX_TAG_VALUE_CHARS or not (value.isascii() and value.isprintable()):
            raise ApiProblem(
                400, f"The value of tag {key!r} must be at most {MAX_TAG_VALUE_CHARS} printable ASCII characters"
            )
    tags = {key: value for key, value in {**(current or {}), **changes}.items() if value}
    if len(tags) > MAX_TAGS:
        raise ApiProblem(400, f"An index can have at most {MAX_TAGS} tags, got {len(tags)}")
    return tags or None
