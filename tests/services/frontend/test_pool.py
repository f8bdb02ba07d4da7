"""Connections shared by the requests: how many there are, how often they are tried, and when they end."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.rows import DictRow, dict_row
from psycopg_pool import PoolClosed

from frontend import pool
from frontend.pool import PAUSE_SECONDS, POOL_SIZE, Pool
from local.postgres import PostgresServer

NAME = "aviary-pool-test"


class Connecting:
    """Says how to connect to a server that is there, or fails while `away`."""

    def __init__(self, dsn: str = "") -> None:
        self.dsn = dsn
        self.away = not dsn
        self.attempts: list[float] = []

    async def __call__(self) -> dict[str, Any]:
        self.attempts.append(time.monotonic())
        if self.away:
            raise psycopg.OperationalError("refused")
        return {**conninfo_to_dict(self.dsn, application_name=NAME), "autocommit": True, "row_factory": dict_row}

    def end_all(self) -> None:
        """What a restart does to the connections."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = %s", [NAME]
            )


def ask(connections: Pool) -> Awaitable[list[DictRow]]:
    return connections.ask(b"SELECT pg_backend_pid() AS pid", [])


async def asked(connections: Pool) -> bool:
    """Whether a request that comes now is served."""
    try:
        async with connections.connection() as connection:
            await connection.execute("SELECT 1")
    except psycopg.OperationalError:
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


def test_two_attempts_tell_all_who_asked_before_them_that_the_database_is_away() -> None:
    connecting = Connecting()

    async def test(connections: Pool) -> None:
        assert not any(await asyncio.gather(*(asked(connections) for _ in range(20 * POOL_SIZE))))
        # Two more for those who found a pool, of which they cannot know when its attempts began.
        assert len(connecting.attempts) <= 4

    run(test, connecting)


def test_the_attempts_end_tells_that_the_database_is_away_and_not_the_end_of_the_wait() -> None:
    async def test(connections: Pool) -> None:
        with pytest.raises(PoolClosed):
            async with connections.connection():
                raise AssertionError("there is no database")

    run(test, Connecting())


def test_a_database_that_is_away_is_asked_a_few_times_a_second_however_many_want_it() -> None:
    connecting = Connecting()

    async def wants(connections: Pool) -> None:
        while len(connecting.attempts) < 9:
            assert not await asked(connections)

    async def test(connections: Pool) -> None:
        await asyncio.gather(*(wants(connections) for _ in range(3 * POOL_SIZE)))
        first, *_, last = connecting.attempts
        assert (len(connecting.attempts) - 2) / (last - first) <= 2 / PAUSE_SECONDS

    run(test, connecting)


def test_who_asks_when_the_database_is_back_is_served_whatever_failed_before(postgres_server: PostgresServer) -> None:
    connecting = Connecting(postgres_server.dsn())

    async def test(connections: Pool) -> None:
        for _ in range(3):
            connecting.away = True
            await asyncio.to_thread(connecting.end_all)
            assert not await asked(connections)
            connecting.away = False
            assert all(await asyncio.gather(*(asked(connections) for _ in range(3 * POOL_SIZE))))

    run(test, connecting)


def test_an_attempt_that_began_before_a_request_came_does_not_fail_it(postgres_server: PostgresServer) -> None:
    second, fails = asyncio.Event(), asyncio.Event()
    real = Connecting(postgres_server.dsn())

    async def parameters() -> dict[str, Any]:
        real.away = len(real.attempts) < 2
        if len(real.attempts) == 1:
            second.set()
            await fails.wait()
        return await real()

    async def test() -> None:
        connections = Pool(parameters)
        before = asyncio.create_task(asked(connections))
        await second.wait()
        after = asyncio.create_task(asked(connections))
        await asyncio.sleep(0)
        fails.set()
        assert [await before, await after] == [False, True]
        await connections.close()

    asyncio.run(test())


def test_a_question_is_asked_again_where_its_connection_was_dead(postgres_server: PostgresServer) -> None:
    connecting = Connecting(postgres_server.dsn())

    async def test(connections: Pool) -> None:
        for _ in range(3):
            found = await asyncio.gather(*(ask(connections) for _ in range(3 * POOL_SIZE)))
            assert all(len(rows) == 1 for rows in found)
            await asyncio.to_thread(connecting.end_all)

    run(test, connecting)


def test_a_question_that_is_wrong_is_told_and_costs_no_connection(postgres_server: PostgresServer) -> None:
    connecting = Connecting(postgres_server.dsn())

    async def test(connections: Pool) -> None:
        for _ in range(3):
            with pytest.raises(psycopg.errors.DivisionByZero):
                await connections.ask(b"SELECT 1 / %s", [0])
            assert await ask(connections)
        assert len(connecting.attempts) == 1

    run(test, connecting)


def test_a_question_that_nobody_answers_comes_to_an_end(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(connections: Pool) -> None:
        ((row,),) = [await ask(connections)]
        monkeypatch.setattr(pool, "WAIT_SECONDS", 0.3)
        os.kill(row["pid"], signal.SIGSTOP)
        try:
            with pytest.raises(psycopg.OperationalError):
                await ask(connections)
        finally:
            os.kill(row["pid"], signal.SIGCONT)
        monkeypatch.undo()
        assert await ask(connections) != [row]

    run(test, Connecting(postgres_server.dsn()))


def test_there_are_no_more_connections_than_places_and_who_gets_none_is_told(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    connecting = Connecting(postgres_server.dsn())

    async def test(connections: Pool) -> None:
        async with AsyncExitStack() as stack:
            for _ in range(POOL_SIZE):
                await stack.enter_async_context(connections.connection())
            monkeypatch.setattr(pool, "WAIT_SECONDS", 0.2)
            with pytest.raises(psycopg.OperationalError, match="couldn't get a connection after"):
                await stack.enter_async_context(connections.connection())
        monkeypatch.undo()
        assert await asked(connections)
        assert len(connecting.attempts) == POOL_SIZE

    run(test, connecting)


def test_a_connection_is_lent_again_and_never_in_a_transaction(postgres_server: PostgresServer) -> None:
    connecting = Connecting(postgres_server.dsn())

    async def test(connections: Pool) -> None:
        async with connections.connection() as first:
            pass
        async with connections.connection() as again:
            assert again is first
            await again.execute("BEGIN")
        async with connections.connection() as after:
            assert after.pgconn.transaction_status == TransactionStatus.IDLE

    run(test, connecting)


def test_who_is_cancelled_takes_no_place_with_him_and_fails_nobody_else(postgres_server: PostgresServer) -> None:
    reached, goes_on = asyncio.Event(), asyncio.Event()
    real = Connecting(postgres_server.dsn())

    async def parameters() -> dict[str, Any]:
        reached.set()
        await goes_on.wait()
        return await real()

    async def test() -> None:
        connections = Pool(parameters)
        tasks = [asyncio.create_task(asked(connections)) for _ in range(2 * POOL_SIZE)]
        await reached.wait()
        gone = (tasks[0], tasks[1], tasks[-1])
        for task in gone:
            task.cancel()
        goes_on.set()
        assert all(await asyncio.gather(*(task for task in tasks if task not in gone)))
        async with AsyncExitStack() as stack:
            for _ in range(POOL_SIZE):
                await stack.enter_async_context(connections.connection())
        await connections.close()

    asyncio.run(test())
