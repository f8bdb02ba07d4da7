"""What moto's queues hold, on disk: every change is in the journal before the caller hears of it."""

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import msgspec
from moto.sqs.models import Message, Queue


class Taken(NamedTuple):
    """A message that was accepted, remembered by its deduplication id. `sent_ms`: Unix milliseconds."""

    queue: str
    deduplication_id: str
    message_id: str
    sequence_number: str
    sent_ms: float


class Journal:
    """The messages of some queues in one SQLite file; after `save`, a killed process or machine keeps them."""

    def __init__(self, path: Path, run: str) -> None:
        """`run`: the life of the whole stack that this is part of. In a new one nobody who held a lease is left, so
        no lease is either."""
        self._file = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._file.execute("PRAGMA journal_mode = WAL")
        self._file.execute("PRAGMA synchronous = FULL")
        self._file.execute(
            "CREATE TABLE IF NOT EXISTS message "
            "(position INTEGER PRIMARY KEY, queue TEXT, id TEXT, state BLOB, UNIQUE (queue, id))"
        )
        self._file.execute(
            "CREATE TABLE IF NOT EXISTS taken (queue TEXT, deduplication_id TEXT, message_id TEXT, "
            "sequence_number TEXT, sent_ms REAL, PRIMARY KEY (queue, deduplication_id))"
        )
        self._file.execute("CREATE TABLE IF NOT EXISTS run (id TEXT)")
        self._same_run = self._file.execute("SELECT id FROM run").fetchone() == (run,)
        self._file.execute("DELETE FROM run")
        self._file.execute("INSERT INTO run VALUES (?)", [run])
        self._written: dict[tuple[str, str], tuple[object, ...]] = {}

    def load(self, queue: Queue) -> None:
        """Put back what the queue held. In the same run leases go on, and their holders can still acknowledge."""
        for (state,) in self._file.execute("SELECT state FROM message WHERE queue = ? ORDER BY position", [queue.name]):
            message = cast("Message", Message.__new__(Message))
            message.__dict__.update(msgspec.msgpack.decode(state))
            if not self._same_run:
                message.visible_at = 0.0
            messages_of(queue).append(message)
            if message.approximate_receive_count and not message.visible:
                queue.pending_messages.add(message)
            self._written[queue.name, message.id] = _mutable(message)

    def taken(self) -> list[Taken]:
        """What was accepted lately, oldest first."""
        return [Taken(*row) for row in self._file.execute("SELECT * FROM taken ORDER BY sent_ms")]

    def save(self, queues: Iterable[Queue], taken: Sequence[Taken], forget_before_ms: float) -> None:
        """Write what changed in `queues` since the last call, and what was accepted, in one transaction."""
        queues = list(queues)
        now = {(queue.name, message.id): message for queue in queues for message in messages_of(queue)}
        names = {queue.name for queue in queues}
        gone = [key for key in self._written if key[0] in names and key not in now]
        changed = {key: message for key, message in now.items() if self._written.get(key) != _mutable(message)}
        if not (gone or changed or taken):
            return
        self._file.execute("BEGIN")
        self._file.executemany("DELETE FROM message WHERE queue = ? AND id = ?", gone)
        self._file.executemany(
            "INSERT INTO message (queue, id, state) VALUES (?, ?, ?) "
            "ON CONFLICT (queue, id) DO UPDATE SET state = excluded.state",
            [(*key, msgspec.msgpack.encode(message.__dict__)) for key, message in changed.items()],
        )
        self._file.executemany("INSERT OR REPLACE INTO taken VALUES (?, ?, ?, ?, ?)", taken)
        self._file.execute("DELETE FROM taken WHERE sent_ms < ?", [forget_before_ms])
        self._file.execute("COMMIT")
        for key in gone:
            del self._written[key]
        self._written.update({key: _mutable(message) for key, message in changed.items()})


def messages_of(queue: Queue) -> list[Message]:
    """The list itself of all that a queue holds, waiting or held, in its order."""
    # moto's public `messages` is a copy without what is held, and nothing public puts a message back as it was.
    return queue._messages  # noqa: SLF001 - see above


def _mutable(message: Message) -> tuple[object, ...]:
    return (message.receipt_handle, message.visible_at, message.approximate_receive_count)
