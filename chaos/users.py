"""Users: threads that make the planned transactions, each with a session of its own, and what became of them."""

import contextlib
import queue as queues
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, Self

import psycopg

from chaos.plan import WRITERS, Operation

Cursor = psycopg.Cursor[Any]
# A key that changes moves here; the same writer owns it, because this is a multiple of WRITERS.
MOVED = 1_000
HOT = 5_000
MANY = 25
LONG_WORDS = 700
RECONNECT_PAUSE_SECONDS = 0.05
WAREHOUSES = ("north", 'so"uth', "été")
WORDS = re.findall(
    r"\w+",
    """
    kettle lamp soup rain boots quiet fan travel pillow garden hose dog toy ink brush oven glove tent bike
    bell copper wool linen bamboo glass steel folding heavy light warm cold red blue green small large for
    children at night in the kitchen on a train under water
    """,
)
UPSERT = """
INSERT INTO products (id, sku, name, description, category, price) VALUES (%s, %s, %s, %s, %s, %s)
ON CONFLICT (id) DO UPDATE SET name = excluded.name, description = excluded.description, price = excluded.price"""


class Aborted(NamedTuple):
    """A user's transaction that failed where no fault of ours can have been the cause."""

    operation: str
    error: str


@dataclass
class Made:
    """What became of transactions. `committed` counts them by kind, those rolled back as planned too; `interrupted`
    were cut off by a fault of ours in Postgres, and made again; `warnings` are the triggers'; `seconds` is how long
    each took."""

    committed: Counter[str] = field(default_factory=Counter)
    interrupted: int = 0
    aborted: list[Aborted] = field(default_factory=list)
    warnings: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)


class Users:
    """Make operations at a pace, in the background. Use it as a context: leaving it ends the threads."""

    def __init__(self, dsn: str, postgres_is_faulty: Callable[[], bool]) -> None:
        """`postgres_is_faulty`: whether a session that Postgres ends is the doing of a fault that we injected."""
        self._dsn = dsn
        self._postgres_is_faulty = postgres_is_faulty
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self.made = Made()
        # Whoever looks for a row of his own among those of `products` holds this: a TRUNCATE waits for it.
        self.looking = threading.Lock()
        self._work: list[queues.SimpleQueue[tuple[float, Operation] | None]] = [
            queues.SimpleQueue() for _ in range(WRITERS)
        ]
        self._pending = threading.Semaphore(0)
        self._given = 0
        self._hurry = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(WRITERS)]
        for thread in self._threads:
            thread.start()

    def begin(self, operations: Sequence[Operation], seconds: float) -> None:
        """Make these, spread over so many seconds, in the background."""
        self._hurry.clear()
        began = time.monotonic()
        for number, operation in enumerate(operations):
            self._work[operation.writer].put((began + seconds * number / len(operations), operation))
        self._given = len(operations)

    def finish(self) -> None:
        """Return once all of them are made; what is not due yet is made at once."""
        self._hurry.set()
        for _ in range(self._given):
            self._pending.acquire()
        self._given = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._hurry.set()
        for work in self._work:
            work.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self, writer: int) -> None:
        session = _Session(self._dsn, self._warned)
        with contextlib.closing(session):
            while (given := self._work[writer].get()) is not None:
                due, operation = given
                if not self._stopping.is_set():
                    self._hurry.wait(max(0.0, due - time.monotonic()))
                    self._make(session, operation)
                self._pending.release()

    def _make(self, session: "_Session", operation: Operation) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                with self.looking if operation.kind == "truncate" else contextlib.nullcontext():
                    session.make(operation)
            except psycopg.Error as error:
                session.close()
                if isinstance(error, psycopg.OperationalError) and self._postgres_is_faulty():
                    with self._lock:
                        self.made.interrupted += 1
                    self._stopping.wait(RECONNECT_PAUSE_SECONDS)
                    continue
                with self._lock:
                    self.made.aborted.append(
                        Aborted(operation.kind, f"{type(error).__name__} ({error.sqlstate}): {error}")
                    )
                return
            with self._lock:
                self.made.committed[operation.kind] += 1
                self.made.seconds.append(time.monotonic() - began)
            return

    def _warned(self, notice: psycopg.errors.Diagnostic) -> None:
        # Postgres itself says goodbye with a warning when it is made to crash.
        if notice.severity_nonlocalized == "WARNING" and not self._postgres_is_faulty():
            with self._lock:
                self.made.warnings[notice.message_primary or ""] += 1


class _Session:
    """One user's connection, opened again after it was lost."""

    def __init__(self, dsn: str, warned: Callable[[psycopg.errors.Diagnostic], None]) -> None:
        self._dsn = dsn
        self._warned = warned
        self._connection: psycopg.Connection[Any] | None = None

    def make(self, operation: Operation) -> None:
        """One transaction."""
        if self._connection is None:
            self._connection = psycopg.connect(self._dsn, connect_timeout=5, autocommit=True)
            self._connection.add_notice_handler(self._warned)
        chance = random.Random(operation.seed)  # noqa: S311 - a seed must repeat the run; no secret
        with self._connection.transaction() as transaction, self._connection.cursor() as cursor:
            perform(cursor, operation, chance)
            if operation.kind == "roll back":
                raise psycopg.Rollback(transaction)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def perform(cursor: Cursor, operation: Operation, chance: random.Random) -> None:  # noqa: PLR0912 - one case a kind
    """The statements of an operation. Made a second time, after an answer was lost, they do no harm."""
    key = operation.key
    match operation.kind:
        case "insert":
            _insert(cursor, key, chance)
        case "update text":
            text = chance.choice([_text(chance), _text(chance), "", None])
            cursor.execute("UPDATE products SET description = %s WHERE id = %s", (text, key))
        case "update metadata":
            cursor.execute("UPDATE products SET price = %s WHERE id = %s", (_price(chance), key))
        case "update nothing":
            cursor.execute("UPDATE products SET name = name WHERE id = %s", (key,))
        case "blank text":
            cursor.execute("UPDATE products SET name = '', description = NULL WHERE id = %s", (key,))
        case "delete":
            cursor.execute("DELETE FROM products WHERE id = %s", (key,))
        case "delete then insert":
            cursor.execute("DELETE FROM products WHERE id = %s", (key,))
            _insert(cursor, key, chance)
        case "change key":
            # There and back again, so that both places are used for ever.
            old, new = chance.choice([(key, key + MOVED), (key + MOVED, key)])
            cursor.execute("DELETE FROM products WHERE id = %s", (new,))
            cursor.execute("UPDATE products SET id = %s, sku = %s WHERE id = %s", (new, f"S{new}", old))
        case "insert many":
            for offset in range(MANY):
                _insert(cursor, (key + offset * WRITERS) % (MANY * WRITERS) + key // 100 * 100, chance)
        case "update many":
            cursor.execute(
                "UPDATE products SET price = %s, name = CASE WHEN id %% 3 = 0 THEN %s ELSE name END "
                "WHERE id %% %s = %s AND id BETWEEN %s AND %s",
                (_price(chance), _text(chance), WRITERS, operation.writer, key, key + MANY * WRITERS),
            )
        case "delete many":
            cursor.execute(
                "DELETE FROM products WHERE id %% %s = %s AND id BETWEEN %s AND %s",
                (WRITERS, operation.writer, key, key + MANY * WRITERS),
            )
        case "hot update":
            _insert(cursor, HOT + key, chance)
        case "hot delete":
            cursor.execute("DELETE FROM products WHERE id = %s", (HOT + key,))
        case "roll back":
            cursor.execute("DELETE FROM products WHERE id = %s", (key,))
            _insert(cursor, key + MOVED, chance)
            cursor.execute("UPDATE products SET name = %s WHERE id = %s", (_text(chance), key + MOVED))
        case "roll back to savepoint":
            _insert(cursor, key, chance)
            with cursor.connection.transaction() as savepoint:
                cursor.execute("DELETE FROM products WHERE id = %s", (key,))
                raise psycopg.Rollback(savepoint)
        case "long text":
            text = " ".join(chance.choices(WORDS, k=LONG_WORDS))
            _insert(cursor, key, chance)
            cursor.execute("UPDATE products SET description = %s WHERE id = %s", (text, key))
        case "truncate":
            cursor.execute("TRUNCATE products")
        case _:
            _stock(cursor, operation, chance)


def _stock(cursor: Cursor, operation: Operation, chance: random.Random) -> None:
    warehouse, sku = WAREHOUSES[operation.key % len(WAREHOUSES)], f"S-{operation.key}"
    match operation.kind:
        case "stock insert":
            cursor.execute(
                "INSERT INTO stock VALUES (%s, %s, %s, %s) ON CONFLICT (warehouse, sku) DO UPDATE "
                "SET label = excluded.label, amount = excluded.amount",
                (warehouse, sku, _text(chance), chance.randrange(100)),
            )
        case "stock update":
            cursor.execute(
                "UPDATE stock SET amount = %s WHERE warehouse = %s AND sku = %s",
                (chance.randrange(100), warehouse, sku),
            )
        case "stock delete":
            cursor.execute("DELETE FROM stock WHERE warehouse = %s AND sku = %s", (warehouse, sku))
        case "stock change key":
            other = chance.choice(WAREHOUSES)
            cursor.execute(
                "DELETE FROM stock WHERE warehouse = %s AND sku = %s AND %s <> %s", (other, sku, other, warehouse)
            )
            cursor.execute("UPDATE stock SET warehouse = %s WHERE warehouse = %s AND sku = %s", (other, warehouse, sku))
        case _:
            raise ValueError(f"there is no operation {operation.kind!r}; see chaos.plan.OPERATIONS")


def _insert(cursor: Cursor, key: int, chance: random.Random) -> None:
    cursor.execute(UPSERT, (key, f"S{key}", _text(chance), _text(chance), chance.choice(WORDS), _price(chance)))


def _text(chance: random.Random) -> str:
    return " ".join(chance.choices(WORDS, k=chance.randint(3, 9)))


def _price(chance: random.Random) -> float:
    return chance.randint(1, 99_999) / 100
