"""A few connections to Postgres that the requests share.

psycopg's pool tries a dead connection and a failed attempt again after 1 s, 2 s, 4 s and so on, while a request waits in
vain for a database that is back. So a pool is given up for a fresh one at the first of either.
"""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
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
                if await _answers(connection, give_up_at - time.monotonic()):
                    yield connection
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


async def _answers(connection: Connection, seconds: float) -> bool:
    # A server that hangs answers nobody who cancels a statement either, so the connection is cut instead.
    cut = asyncio.get_running_loop().call_later(min(CHECK_SECONDS, seconds), _cut, connection)
    try:
        await connection.execute("")
    except psycopg.Error:
        await connection.close()
        return False
    finally:
        cut.cancel()
    return True


def _cut(connection: Connection) -> None:
    """End a connection under a statement that waits for its answer, which fails then."""
    with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(connection.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)
