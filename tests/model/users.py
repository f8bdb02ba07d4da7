"""People's own transactions on the watched table, held open for as long as the model likes."""

from typing import Any

import psycopg

# What may go wrong for a user by what other users do. Anything else would be our doing.
THEIR_OWN = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.UniqueViolation,
    psycopg.errors.SerializationFailure,
    psycopg.errors.DeadlockDetected,
)


class User:
    """A session of somebody who writes. `harmed`: errors that no other user explains."""

    def __init__(self, name: str, connection: psycopg.Connection[Any]) -> None:
        self._name = name
        self._connection = connection
        self._savepoints = 0
        self.harmed: list[str] = []
        # Nobody here waits for anybody: all sessions of the model are one thread.
        connection.execute("SET lock_timeout = '3ms'")
        connection.commit()

    def __repr__(self) -> str:
        return self._name

    def run(self, *statements: tuple[str, tuple[Any, ...]]) -> None:
        """Statements of the open transaction, or of a new one."""
        try:
            for statement, parameters in statements:
                self._connection.execute(statement, parameters or None)
        except THEIR_OWN:
            self._undo()
        except psycopg.Error as error:
            self.harmed.append(f"{type(error).__name__}: {error}")
            self._undo()

    @property
    def is_open(self) -> bool:
        return self._connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE

    def repeatable(self) -> None:
        """Of the next transaction, when none is open."""
        if not self.is_open:
            self.run(("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", ()))

    @property
    def is_repeatable(self) -> bool:
        return self._isolation() == "repeatable read"

    def savepoint(self) -> None:
        self._savepoints += 1
        self.run((f"SAVEPOINT s{self._savepoints}", ()))

    def back(self) -> None:
        """To the last savepoint, when there is one."""
        if self._savepoints:
            self.run((f"ROLLBACK TO s{self._savepoints}", ()))

    def commit(self) -> None:
        self._savepoints = 0
        try:
            self._connection.commit()
        except THEIR_OWN:
            self._connection.rollback()
        except psycopg.Error as error:
            self.harmed.append(f"{type(error).__name__}: {error}")
            self._connection.rollback()

    def rollback(self) -> None:
        self._savepoints = 0
        self._connection.rollback()

    def _undo(self) -> None:
        if self._savepoints:
            self._connection.execute(f"ROLLBACK TO s{self._savepoints}")
        else:
            self._connection.rollback()

    def _isolation(self) -> str:
        if self._connection.info.transaction_status != psycopg.pq.TransactionStatus.INTRANS:
            return ""
        row = self._connection.execute("SHOW transaction_isolation").fetchone()
        return str(row and row[0])
