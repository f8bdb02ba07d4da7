"""Applies the numbered SQL files in `migrations/`, each once, each in a transaction of its own.

Safe to run again and by several at once: one session-wide advisory lock covers the whole run, and `sync.migration`
remembers what was applied with its checksum. Numbers in the database that this version does not know belong to a newer
one and are left alone, so that an old task may still start during a roll-out.
"""

import hashlib
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

# Any constant will do; it must only never be used for something else in this database.
LOCK_KEY = 0x61766961_7279
OLDEST_SERVER = 160_000
FILE_NAME = re.compile(r"(\d{4})_\w+\.sql")


class MigrationError(RuntimeError):
    """The database cannot be brought up to date; the message says why and what to do."""


class Migration(NamedTuple):
    number: int
    name: str
    statements: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.statements.encode()).hexdigest()


def load() -> list[Migration]:
    """The migrations of this version, in order."""
    files = [f for f in resources.files("pelican.migrations").iterdir() if FILE_NAME.fullmatch(f.name)]
    found = [Migration(int(f.name[:4]), f.name, f.read_text("utf-8")) for f in files]
    return sorted(found)


def migrate(connection: psycopg.Connection[Any], migrations: Sequence[Migration] | None = None) -> list[str]:
    """Apply what is missing and return the names of the files applied. `connection` must be in autocommit mode and
    belong to the database's owner; raises MigrationError or psycopg.Error, and then the failed file left no trace."""
    _check_server(connection)
    connection.execute("SELECT pg_advisory_lock(%s)", (LOCK_KEY,))
    try:
        connection.execute("SET client_min_messages = warning")
        connection.execute("CREATE SCHEMA IF NOT EXISTS sync")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS sync.migration (number integer PRIMARY KEY, name text NOT NULL, "
            "checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        applied = dict(connection.execute("SELECT number, checksum FROM sync.migration").fetchall())
        return [m.name for m in migrations or load() if _apply(connection, m, applied.get(m.number))]
    finally:
        if not connection.closed:
            connection.execute("SELECT pg_advisory_unlock(%s)", (LOCK_KEY,))


def _check_server(connection: psycopg.Connection[Any]) -> None:
    version = connection.info.server_version
    if version < OLDEST_SERVER:
        raise MigrationError(
            f"this server is Postgres {version // 10_000}; at least {OLDEST_SERVER // 10_000} is needed"
        )
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise MigrationError(f"this database is encoded in {encoding}; keys and texts need UTF8: create it anew")


def _apply(connection: psycopg.Connection[Any], migration: Migration, applied_checksum: str | None) -> bool:
    if applied_checksum == migration.checksum:
        return False
    if applied_checksum is not None:
        raise MigrationError(
            f"{migration.name} is not what was applied to this database; restore the file and put the change into a new one"
        )
    with connection.transaction():
        connection.execute(sql.SQL(migration.statements))
        connection.execute(
            "INSERT INTO sync.migration (number, name, checksum) VALUES (%s, %s, %s)",
            (migration.number, migration.name, migration.checksum),
        )
    return True
