"""An append-only file of operations that survives SIGKILL: every record has its length and a checksum.

A record that was cut short by a crash can only be the last one; it was never answered, so it is dropped. Anything
else that does not check out is damage, and is refused rather than guessed at.
"""

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

import msgspec

from local.pinecone.operations import Operation, decode, encode

_FRAME = struct.Struct("<II")  # payload length, CRC-32 of the payload
# A request has at most 2 MiB of JSON; four times that is more than any record of ours.
MAX_RECORD_BYTES = 8 * 2**20


class DamagedLogError(ValueError):
    """A log cannot be read; the message names the file and the way out."""


def frame(operation: Operation) -> bytes:
    """One record, as in the file."""
    payload = encode(operation)
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def sync_folder(path: Path) -> None:
    """Make a rename or a new name in `path` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Log:
    """One log, open for appending; `size` is its length in bytes."""

    def __init__(self, path: Path, *, fsync: bool) -> None:
        self.path = path
        self.fsync = fsync
        self._broken = False
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        self.size = os.fstat(self._descriptor).st_size

    @classmethod
    def write(cls, path: Path, operations: Iterable[Operation], *, fsync: bool) -> Self:
        """A new log with these operations in place of any at `path`: the old one stays until the new one is whole."""
        making = path.with_suffix(".new")
        try:
            with making.open("wb") as file:
                for operation in operations:
                    file.write(frame(operation))
                file.flush()
                os.fsync(file.fileno())
            making.replace(path)
        except BaseException:
            making.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
        return cls(path, fsync=fsync)

    def append(self, operation: Operation) -> None:
        """Return once the operating system has the record (the disk, with `fsync`). OSError leaves the log as it was."""
        if self._broken:
            raise OSError(f"{self.path} could not be restored after a failed write; restart")
        record = memoryview(frame(operation))
        try:
            while record:
                record = record[os.write(self._descriptor, record) :]
            if self.fsync:
                os.fsync(self._descriptor)
        except OSError:
            self._broken = True
            os.ftruncate(self._descriptor, self.size)
            self._broken = False
            raise
        self.size = os.fstat(self._descriptor).st_size

    def close(self) -> None:
        os.close(self._descriptor)


def read(path: Path) -> Iterator[tuple[Operation, int]]:
    """Each operation with the file offset just after it; stops at a torn tail. DamagedLogError for other damage."""
    size = path.stat().st_size
    offset = 0
    with path.open("rb") as file:
        while size - offset >= _FRAME.size:
            length, checksum = _FRAME.unpack(file.read(_FRAME.size))
            end = offset + _FRAME.size + length
            if length <= MAX_RECORD_BYTES and end > size:
                return
            payload = file.read(length) if length <= MAX_RECORD_BYTES else b""
            if not payload or zlib.crc32(payload) != checksum:
                if end == size:
                    return
                raise DamagedLogError(
                    f"{path} is damaged at byte {offset} of {size}; restore it, or move it away and fill the index again"
                )
            try:
                operation = decode(payload)
            except msgspec.MsgspecError as error:
                raise DamagedLogError(
                    f"{path} holds a record at byte {offset} that this version does not know ({error}); move it away"
                ) from None
            offset = end
            yield operation, offset


def drop_tail(path: Path, length: int) -> int:
    """Cut the file to `length` bytes; the number of bytes that went."""
    dropped = path.stat().st_size - length
    if dropped:
        os.truncate(path, length)
    return dropped
