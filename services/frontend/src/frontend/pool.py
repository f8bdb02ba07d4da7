"""A few connections to Postgres that the requests share.

Whoever needs a connection makes it. psycopg's own pool makes them behind the requests, and after a failed attempt it
pauses 1 s, 2 s, 4 s and so on: a request then waits in vain for a database that is back.
"""

import asyncio
import logging
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import DictRow

from aviary.logs import log

logger = logging.getLogger(__name__)

POOL_SIZE = 10
# For a free place, a check and a new connection together.
WAIT_SECONDS = 2.0
# Longer than an answer to an empty statement takes under any load that is worth serving.
CHECK_SECONDS = 1.0
# Between two attempts to connect while they fail; one attempt runs at a time.
PAUSE_SECONDS = (0.1, 0.3)
# A session keeps what the server collects for it, and a burst's connections are needed no more when it is over.
MAX_AGE_SECONDS = 3600.0

Connection = psycopg.AsyncConnection[DictRow]


class NoConnectionError(psycopg.OperationalError):
    """None was free in time, or none could be made."""


class Pool:
    """At most `POOL_SIZE` connections, each tried before it is lent. Belongs to one event loop.

    A request that comes while Postgres is away fails after `PAUSE_SECONDS` at the most, or after `WAIT_SECONDS` where the
    server says nothing at all. One that comes when it is back gets a connection, whatever failed before.
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]]) -> None:
        self._connect = connect
        self._places = asyncio.Semaphore(POOL_SIZE)
        self._resting: list[Connection] = []
        self._made_at: dict[Connection, float] = {}
        self._connecting = asyncio.Lock()
        self._failed_attempt_began = float("-inf")
        self._next_attempt_at = float("-inf")
        self._closed = False

    async def close(self) -> None:
        """Close what rests; what is lent is closed when it comes back."""
        self._closed = True
        await self.close_resting()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection that has just answered; NoConnectionError when there is none."""
        asked_at = time.monotonic()
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._places.acquire()
        except TimeoutError:
            raise NoConnectionError(f"all {POOL_SIZE} connections were in use for {WAIT_SECONDS:.0f} s") from None
        try:
            connection = await self._rested(asked_at) or await self._made(asked_at)
            try:
                yield connection
            finally:
                await self._take_back(connection)
        finally:
            self._places.release()

    async def _rested(self, asked_at: float) -> Connection | None:
        """One that rests and still answers."""
        if not self._resting:
            return None
        connection = self._resting.pop()
        # A server that hangs answers nobody who cancels a statement either, so the connection is cut instead.
        seconds = min(CHECK_SECONDS, asked_at + WAIT_SECONDS - time.monotonic())
        cut = asyncio.get_running_loop().call_later(seconds, _cut, connection)
        try:
            await connection.execute("")
        except psycopg.Error:
            # What ended it has ended the others too, most likely; to ask each of them could take a second.
            await self.close_resting()
            await self._discard(connection)
            return None
        except BaseException:
            await self._discard(connection)
            raise
        finally:
            cut.cancel()
        return connection

    async def _made(self, asked_at: float) -> Connection:
        try:
            async with asyncio.timeout(asked_at + WAIT_SECONDS - time.monotonic()), self._connecting:
                # However many ask at once, one attempt that began after they asked tells them all that there is no server.
                if self._failed_attempt_began > asked_at:
                    raise NoConnectionError("the latest attempt to connect failed")
                await asyncio.sleep(self._next_attempt_at - time.monotonic())
                return await self._attempt()
        except TimeoutError:
            raise NoConnectionError(f"no connection could be made within {WAIT_SECONDS:.0f} s") from None

    async def _attempt(self) -> Connection:
        began_at = time.monotonic()
        try:
            connection = await self._connect()
        except BaseException as error:
            self._next_attempt_at = time.monotonic() + random.uniform(*PAUSE_SECONDS)  # noqa: S311 - only spreads load
            if not isinstance(error, Exception):
                # Whose time was up, or who was cancelled, has not heard of the server; the others may.
                raise
            self._failed_attempt_began = began_at
            sqlstate = error.sqlstate if isinstance(error, psycopg.Error) else None
            log(logger, logging.WARNING, "database_connect_failed", error=type(error).__name__, sqlstate=sqlstate)
            raise NoConnectionError("the database does not let us connect") from error
        self._made_at[connection] = time.monotonic()
        return connection

    async def _take_back(self, connection: Connection) -> None:
        if self._closed or connection.pgconn.transaction_status != TransactionStatus.IDLE:
            await self._discard(connection)
        else:
            self._resting.append(connection)
        oldest = time.monotonic() - MAX_AGE_SECONDS
        for old in [each for each in self._resting if self._made_at[each] < oldest]:
            self._resting.remove(old)
            await self._discard(old)

    async def close_resting(self) -> None:
        """Close what rests: the next request gets a new connection."""
        while self._resting:
            await self._discard(self._resting.pop())

    async def _discard(self, connection: Connection) -> None:
        del self._made_at[connection]
        await connection.close()


def _cut(connection: Connection) -> None:
    """End a connection under a statement that waits for its answer, which fails then."""
    with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(connection.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)
