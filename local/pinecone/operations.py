"""What can happen to an index: the records of its log, and the only way its state changes."""

from typing import Any

import msgspec

Metadata = dict[str, Any]


class Configuration(msgspec.Struct, tag=True, kw_only=True):
    """What an index is: the first record of its log, and again after each change."""

    name: str
    dimension: int
    metric: str
    deployment: dict[str, Any]
    deletion_protection: str = "disabled"
    tags: dict[str, str] | None = None
    lsn: int = 0


class Upsert(msgspec.Struct, tag=True, kw_only=True):
    """Write whole records. `values` holds float32 of shape (len(ids), dimension), little-endian, row by row."""

    namespace: str
    ids: list[str]
    metadata: list[Metadata]
    values: bytes
    lsn: int = 0


class Update(msgspec.Struct, tag=True, kw_only=True):
    """Change one record by id (new values, merged metadata) or the metadata of all that a filter matches."""

    namespace: str
    id: str | None = None
    filter: dict[str, Any] | None = None
    values: bytes | None = None
    set_metadata: Metadata | None = None
    lsn: int = 0


class Delete(msgspec.Struct, tag=True, kw_only=True):
    """Delete ids, or what a filter matches, or (neither given) everything; the namespace stays."""

    namespace: str
    ids: list[str] | None = None
    filter: dict[str, Any] | None = None
    lsn: int = 0


class CreateNamespace(msgspec.Struct, tag=True, kw_only=True):
    namespace: str
    schema: dict[str, Any] | None = None
    lsn: int = 0


class DeleteNamespace(msgspec.Struct, tag=True, kw_only=True):
    namespace: str
    lsn: int = 0


Write = Upsert | Update | Delete | CreateNamespace | DeleteNamespace
Operation = Configuration | Write

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Operation] = msgspec.msgpack.Decoder(Operation)


def encode(operation: Operation) -> bytes:
    """MessagePack, tagged by type."""
    return _encoder.encode(operation)


def decode(payload: bytes) -> Operation:
    """The operation in a log record; msgspec.MsgspecError when it is none."""
    return _decoder.decode(payload)
