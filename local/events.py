"""What happens in a stack, as a stream: written to events.jsonl, shown on the console, sent to who started it."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

Kind = Literal["service", "lost", "note", "up", "progress", "searchable", "failed", "stopping", "down"]


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the stream. `time` is in Unix seconds; `done` and `total` are counts of whatever `name` says."""

    kind: Kind
    text: str = ""
    name: str = ""
    done: int = 0
    total: int = 0
    data: dict[str, Any] = {}
    time: float = msgspec.field(default_factory=time.time)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Event)


def encode(event: Event) -> bytes:
    """One line of JSON."""
    return _encoder.encode(event) + b"\n"


def decode(line: bytes) -> Event:
    """The inverse of `encode`."""
    return _decoder.decode(line)


class Stream:
    """Hands each event to every sink; a sink that fails is dropped, because work must not stop for want of a reader."""

    def __init__(self, log: Path, sinks: Sequence[Callable[[Event], None]]) -> None:
        self._log = log
        self._sinks = [self._write, *sinks]

    def send(self, event: Event) -> None:
        for sink in list(self._sinks):
            try:
                sink(event)
            except OSError:
                self._sinks.remove(sink)

    def _write(self, event: Event) -> None:
        if event.kind != "progress":
            with self._log.open("ab") as log:
                log.write(encode(event))


def to_pipe(descriptor: int) -> Callable[[Event], None]:
    """A sink that writes lines to an inherited pipe and closes it after the last event that its reader wants."""
    pipe = os.fdopen(descriptor, "wb", buffering=0)

    def send(event: Event) -> None:
        if not pipe.closed:
            pipe.write(encode(event))
            if event.kind in {"searchable", "failed", "down"}:
                pipe.close()

    return send
