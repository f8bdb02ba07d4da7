"""Connections shared by the requests: how many there are, how often they are tried, and when they end."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import psycopg
import pytest
from psycopg.rows import DictRow, dict_row

from frontend import pool
from frontend.pool import PAUSE_SECONDS, POOL_SIZE, Connection, NoConnectionError, Pool
from local.postgres import PostgresServer


class Connecting:
    """Makes connections to a server that is there, or refuses while `away`."""

    def __init__(self, dsn: str = "") -> None:
        self.dsn = dsn
        self.away = not dsn
        self.attempts: list[float] = []

    async def __call__(self) -> Connection:
        self.attempts.append(time.monotonic())
        if self.away:
            raise psycopg.OperationalError("refused")
        return await psycopg.AsyncConnection[DictRow].connect(self.dsn, autocommit=True, row_factory=dict_row)


async def asked(connections: Pool) -> bool:
    """Whether a request that comes now is served."""
    try:
        async with connections.connection() as connection:
            await connection.execute("SELECT 1")
    except NoConnectionError:
        return False
    return True


def run(test: Callable[[Pool], Awaitable[None]], connecting: Connecting) -> None:
    async def whole() -> None:
        connections = Pool(connecting)
        try:
            await test(connections)
        finally:
            await connections.close()

    asyncio.run(whole())


def test_one_attempt_tells_all_who_asked_before_it_that_the_database_is_away() -> None:
    connecting = Connecting()

    async def test(connections: Pool) -> None:
        assert not any(await asyncio.gather(*(asked(connections) for _ in range(20 * POOL_SIZE))))
        assert len(connecting.attempts) == 1

    run(test, connecting)


def test_a_database_that_is_away_is_asked_a_few_times_a_second_however_many_want_it() -> None:
    connecting = Connecting()

    async def wants(connections: Pool) -> None:
        while len(connecting.attempts) < 5:
            assert not await asked(connections)

    async def test(connections: Pool) -> None:
        await asyncio.gather(*(wants(connections) for _ in range(3 * POOL_SIZE)))
        pauses = [after - before for before, after in zip(connecting.attempts, connecting.attempts[1:], strict=False)]
        assert min(pauses) >= PAUSE_SECONDS[0]

    run(test, connecting)


def test_who_asks_when_the_database_is_back_is_served_whatever_failed_before(postgres_server: PostgresServer) -> None:
    connecting = Connecting(postgres_server.dsn())

    async def test(connections: Pool) -> None:
        for _ in range(3):
            connecting.away = True
            await connections.close_resting()
            assert not await asked(connections)
            connecting.away = False
            assert all(await asyncio.gather(*(asked(connections) for _ in range(3 * POOL_SIZE))))

    run(test, connecting)


def test_there_are_no_more_connections_than_places_and_who_gets_none_is_told(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    connecting = Connecting(postgres_server.dsn())

    async def test(connections: Pool) -> None:
        async with AsyncExitStack() as stack:
            for _ in range(POOL_SIZE):
                await stack.enter_async_context(connections.connection())
            monkeypatch.setattr(pool, "WAIT_SECONDS", 0.2)
            with pytest.raises(NoConnectionError, match="all 10 connections were in use"):
                await stack.enter_async_context(connections.connection())
        monkeypatch.undo()
        assert await asked(connections)
        assert len(connecting.attempts) == POOL_SIZE

    run(test, connecting)


def test_a_connection_is_lent_again_unless_it_is_old_or_was_left_in_a_transaction(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    connecting = Connecting(postgres_server.dsn())

    async def test(connections: Pool) -> None:
        async with connections.connection() as first:
            pass
        async with connections.connection() as again:
            assert again is first
            await again.execute("BEGIN")
        assert first.closed
        async with connections.connection() as second:
            monkeypatch.setattr(pool, "MAX_AGE_SECONDS", 0.0)
        assert second.closed

    run(test, connecting)


def test_who_is_cancelled_takes_no_place_with_him_and_fails_nobody_else(postgres_server: PostgresServer) -> None:
    reached, first = asyncio.Event(), True
    real = Connecting(postgres_server.dsn())

    async def connect() -> Connection:
        nonlocal first
        if first:
            first = False
            reached.set()
            await asyncio.Event().wait()
        return await real()

    async def test() -> None:
        connections = Pool(connect)
        tasks = [asyncio.create_task(asked(connections)) for _ in range(2 * POOL_SIZE)]
        await reached.wait()
        # He who connects, one who waits for him, and one who waits for a place.
        gone = (tasks[0], tasks[1], tasks[-1])
        for task in gone:
            task.cancel()
        assert all(await asyncio.gather(*(task for task in tasks if task not in gone)))
        async with AsyncExitStack() as stack:
            for _ in range(POOL_SIZE):
                await stack.enter_async_context(connections.connection())
        await connections.close()

    asyncio.run(test())
