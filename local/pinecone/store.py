"""Indexes on disk and in memory. A write is answered after it is in the log, and seen after the visibility delay."""

import fcntl
import logging
import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from aviary.logs import log
from local.pinecone import log as logs
from local.pinecone.errors import ApiProblem
from local.pinecone.filters import compile_filter
from local.pinecone.log import DamagedLogError, Log
from local.pinecone.operations import (
    Configuration,
    CreateNamespace,
    Delete,
    DeleteNamespace,
    Operation,
    Update,
    Upsert,
    Write,
)
from local.pinecone.vectors import Namespace

logger = logging.getLogger(__name__)

FORMAT = "aviary-pinecone-stand-in 1\n"
# Small enough that a record of a snapshot stays far below MAX_RECORD_BYTES at any allowed dimension and metadata.
SNAPSHOT_ROWS = 64
COMPACT_AT_LEAST_BYTES = 64 * 2**20
COMPACT_AT_TIMES_LIVE = 3


class StoreError(RuntimeError):
    """The data folder cannot be used; the message says why and what to do."""


class Index:
    """One index: its configuration, its namespaces as readers see them now, and the writes they do not see yet."""

    def __init__(self, configuration: Configuration, log_: Log, visibility_delay_seconds: float) -> None:
        self.configuration = configuration
        self._namespaces: dict[str, Namespace] = {}
        self._log = log_
        # Reads see a write this long after it was made; a change of it holds for what is not visible yet, too.
        self.visibility_delay_seconds = visibility_delay_seconds
        self._pending: deque[tuple[float, Write]] = deque()
        self._lsn = configuration.lsn
        self._compact_at = COMPACT_AT_LEAST_BYTES

    def write(self, operation: Write) -> int:
        """Log and (after the visibility delay) apply; its log sequence number. ApiProblem 500 when the disk refuses."""
        operation.lsn = self._lsn + 1
        self._append(operation)
        self._lsn = operation.lsn
        self._settle()
        if self.visibility_delay_seconds:
            self._pending.append((time.monotonic(), operation))
        else:
            self._apply(operation)
        if self._log.size > self._compact_at:
            self.compact()
        return operation.lsn

    def configure(self, configuration: Configuration) -> None:
        """Replace the configuration."""
        configuration.lsn = self._lsn
        self._append(configuration)
        self.configuration = configuration

    def namespace(self, name: str) -> Namespace | None:
        """The namespace as it is visible now."""
        self._settle()
        return self._namespaces.get(name)

    def namespaces(self) -> dict[str, Namespace]:
        """All namespaces that are visible now, by name."""
        self._settle()
        return self._namespaces

    def knows(self, namespace: str) -> bool:
        """Whether the namespace exists or is about to."""
        if self.namespace(namespace) is not None:
            return True
        return any(operation.namespace == namespace for _, operation in self._pending)

    def indexed_lsn(self, namespace: str) -> int:
        """The highest log sequence number that a read of `namespace` reflects."""
        self._settle()
        unseen = (operation.lsn for _, operation in self._pending if operation.namespace == namespace)
        return next(unseen, self._lsn + 1) - 1

    def replay(self, operation: Operation) -> None:
        """Apply one record of the log."""
        self._lsn = max(self._lsn, operation.lsn)
        if isinstance(operation, Configuration):
            self.configuration = operation
        else:
            self._apply(operation)

    def compact(self) -> None:
        """Write the log anew with what is live; on failure the old log stays in use."""
        fsync, before = self._log.fsync, self._log.size
        try:
            new = Log.write(self._log.path, self._snapshot(), fsync=fsync)
        except OSError as error:
            self._compact_at = before * 2
            log(logger, logging.WARNING, "compaction_failed", index=self.configuration.name, reason=error.strerror)
            return
        self._log.close()
        self._log = new
        self._compact_at = max(COMPACT_AT_LEAST_BYTES, COMPACT_AT_TIMES_LIVE * new.size)
        log(logger, logging.INFO, "compacted", index=self.configuration.name, bytes_before=before, bytes_after=new.size)

    def close(self) -> None:
        self._log.close()

    def _append(self, operation: Operation) -> None:
        try:
            self._log.append(operation)
        except OSError as error:
            log(logger, logging.ERROR, "write_refused", index=self.configuration.name, reason=error.strerror)
            raise ApiProblem(500, f"the write could not be stored: {error.strerror or error}") from None

    def _settle(self) -> None:
        """Apply what has become visible."""
        while self._pending and self._pending[0][0] + self.visibility_delay_seconds <= time.monotonic():
            self._apply(self._pending.popleft()[1])

    def _apply(self, operation: Write) -> None:
        if isinstance(operation, DeleteNamespace):
            self._namespaces.pop(operation.namespace, None)
            return
        namespace = self._namespaces.get(operation.namespace)
        if isinstance(operation, Upsert | CreateNamespace):
            if namespace is None:
                namespace = Namespace(self.configuration.dimension, self.configuration.metric)
                self._namespaces[operation.namespace] = namespace
            if isinstance(operation, Upsert):
                values = np.frombuffer(operation.values, np.float32).reshape(len(operation.ids), -1)
                namespace.upsert(operation.ids, values, operation.metadata)
            else:
                namespace.schema = operation.schema
        elif namespace is not None and isinstance(operation, Update):
            _update(namespace, operation)
        elif namespace is not None and isinstance(operation, Delete):
            namespace.delete(_chosen(namespace, operation))

    def _snapshot(self) -> Iterator[Operation]:
        self.configuration.lsn = self._pending[0][1].lsn - 1 if self._pending else self._lsn
        yield self.configuration
        lsn = self.configuration.lsn
        for name, namespace in self._namespaces.items():
            yield CreateNamespace(namespace=name, schema=namespace.schema, lsn=lsn)
            for ids, metadata, values in namespace.chunks(SNAPSHOT_ROWS):
                yield Upsert(namespace=name, ids=ids, metadata=metadata, values=values, lsn=lsn)
        for _, operation in self._pending:
            yield operation


def _update(namespace: Namespace, operation: Update) -> None:
    if operation.id is None:
        predicate = compile_filter(operation.filter)
        ids = namespace.matching(predicate) if predicate else []
    else:
        ids = [operation.id]
    for each in ids:
        row = namespace.row(each)
        if row is None:
            continue
        if operation.set_metadata:
            namespace.merge_metadata(row, operation.set_metadata)
        if operation.values is not None:
            namespace.upsert([each], np.frombuffer(operation.values, np.float32)[None, :], [namespace.metadata(row)])


def _chosen(namespace: Namespace, operation: Delete) -> list[str]:
    if operation.ids is not None:
        return operation.ids
    predicate = compile_filter(operation.filter) or (lambda _: True)
    return namespace.matching(predicate)


class Store:
    """All indexes of a data folder, which one process at a time may use."""

    def __init__(self, folder: Path, *, visibility_delay_seconds: float = 0.0, fsync: bool = False) -> None:
        self._folder = folder
        self._delay = visibility_delay_seconds
        self._fsync = fsync
        self._lock: int | None = _claim(folder)
        self.indexes: dict[str, Index] = {}
        try:
            for leftover in folder.glob("*.new"):
                leftover.unlink()
                log(logger, logging.WARNING, "half_written_file_removed", file=leftover.name)
            for path in sorted(folder.glob("*.log")):
                self.indexes[path.stem] = self._load(path)
        except (DamagedLogError, OSError) as error:
            self.close()
            raise StoreError(str(error)) from None

    def create(self, configuration: Configuration) -> Index:
        """A new, empty index, on disk."""
        path = self._folder / f"{configuration.name}.log"
        try:
            log_ = Log.write(path, [configuration], fsync=self._fsync)
        except OSError as error:
            raise ApiProblem(500, f"the index could not be stored: {error.strerror or error}") from None
        index = self.indexes[configuration.name] = Index(configuration, log_, self._delay)
        return index

    def delete(self, name: str) -> None:
        """Delete an index and its file."""
        (self._folder / f"{name}.log").unlink()
        logs.sync_folder(self._folder)
        self.indexes.pop(name).close()

    def close(self) -> None:
        """Close every file and let another process in. Once is enough, twice does no harm."""
        while self.indexes:
            self.indexes.popitem()[1].close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _load(self, path: Path) -> Index:
        records = logs.read(path)
        first, end = next(records, (None, 0))
        if not isinstance(first, Configuration):
            raise DamagedLogError(f"{path} does not begin with an index; move it away")
        replayed = Index(first, Log(path, fsync=self._fsync), self._delay)
        for operation, offset in records:
            replayed.replay(operation)
            end = offset
        dropped = logs.drop_tail(path, end)
        if dropped:
            log(logger, logging.WARNING, "torn_record_dropped", index=path.stem, bytes=dropped)
        replayed.compact()
        return replayed


def _claim(folder: Path) -> int:
    """Lock the folder (made when absent) and check that it is ours; the lock's file descriptor."""
    marker = folder / "format"
    folder.mkdir(parents=True, exist_ok=True)
    ours = {"lock", "format", "format.new"}
    if not marker.exists() and any(entry.name not in ours for entry in folder.iterdir()):
        raise StoreError(f"{folder} is not empty and holds no index data of this stand-in; name another folder")
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise StoreError(f"{folder} is in use by process {owner}; stop it or name another folder") from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    if not marker.exists():
        making = marker.with_suffix(".new")
        making.write_text(FORMAT)
        making.replace(marker)
    found = marker.read_text(errors="replace")
    if found != FORMAT:
        os.close(descriptor)
        raise StoreError(f"{folder} was written in another format ({found.strip()[:60]!r}); move it away")
    return descriptor
