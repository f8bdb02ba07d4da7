"""A few connections to Postgres that the requests share.

psycopg's pool tries a dead connection and a failed attempt again after 1 s, 2 s, 4 s and so on, while a request waits in
vain for a database that is back. So a pool is given up for a fresh one at the first of either.
"""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg
from psycopg.rows import DictRow
from psycopg_pool import AsyncConnectionPool, PoolClosed

POOL_SIZE = 10
# For a free place, a check and a new connection together.
WAIT_SECONDS = 2.0
# Longer than an answer to an empty statement takes under any load that is worth serving.
CHECK_SECONDS = 1.0
# Between the two attempts to connect that a pool gets; one attempt runs at a time.
PAUSE_SECONDS = 0.25

Connection = psycopg.AsyncConnection[DictRow]
Cursor = psycopg.AsyncCursor[DictRow]


class Pool:
    """`POOL_SIZE` connections, each tried before it is lent. Belongs to one event loop. `parameters` are psycopg's for connect.

    A request that comes while Postgres is away fails after two `PAUSE_SECONDS` at the most, or after `WAIT_SECONDS` where
    the server says nothing at all. One that comes when it is back gets a connection, whatever failed before.
    """

    def __init__(self, parameters: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        self._parameters = parameters
        self._pool: AsyncConnectionPool[Connection] | None = None

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection that has just answered; psycopg.OperationalError when there is none."""
        async with self._answered(b"", None, CHECK_SECONDS) as cursor:
            yield cursor.connection

    async def ask(self, statement: bytes, values: Sequence[Any]) -> list[DictRow]:
        """What a statement that only reads gives within `WAIT_SECONDS`. It is what its connection is tried by: where that is
        dead it is asked again on another."""
        async with self._answered(statement, values, WAIT_SECONDS) as cursor:
            return await cursor.fetchall()

    @asynccontextmanager
    async def _answered(self, statement: bytes, values: Sequence[Any] | None, seconds: float) -> AsyncIterator[Cursor]:
        """The answer to a statement, of the first connection that lives."""
        give_up_at = time.monotonic() + WAIT_SECONDS
        found = self._pool
        while True:
            pool = self._pool = self._pool or self._fresh()
            await pool.open()
            try:
                connection = await pool.getconn(give_up_at - time.monotonic())
            except PoolClosed:
                # What failed in the pool that it found may have begun before the request came.
                if pool is not found:
                    raise
                continue
            try:
                seconds = min(seconds, give_up_at - time.monotonic())
                if cursor := await _asked(connection, statement, values, seconds):
                    yield cursor
                    return
            finally:
                if connection.closed:
                    await self._give_up(pool)
                await pool.putconn(connection)

    def _fresh(self) -> AsyncConnectionPool[Connection]:
        return AsyncConnectionPool(
            connection_class=psycopg.AsyncConnection[DictRow],
            kwargs=self._parameters,
            min_size=0,
            max_size=POOL_SIZE,
            num_workers=1,
            reconnect_timeout=PAUSE_SECONDS,
            reconnect_failed=self._give_up,
            open=False,
        )

    async def _give_up(self, pool: AsyncConnectionPool[Connection]) -> None:
        if pool is self._pool:
            await self.close()

    async def close(self) -> None:
        """Close what rests; what is lent is closed when it comes back."""
        pool, self._pool = self._pool, None
        if pool:
            await pool.close(timeout=0)


async def _asked(
    connection: Connection, statement: bytes, values: Sequence[Any] | None, seconds: float
) -> Cursor | None:
    """The answer; None when the connection is dead or says nothing for so long, after which it is closed."""
    # A server that hangs answers nobody who cancels a statement either, so the connection is cut instead.
    cut = asyncio.get_running_loop().call_later(seconds, _cut, connection)
    try:
        return await connection.execute(statement, values)
    except psycopg.Error:
        if statement and not connection.closed:
            raise
        await connection.close()
        return None
    finally:
        cut.cancel()


def _cut(connection: Connection) -> None:
    """End a connection under a statement that waits for its answer, which fails then."""
    with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(connection.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)
