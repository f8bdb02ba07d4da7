"""The commands' side of Postgres: two functions of schema `sync`, and nothing else of the database."""

from collections.abc import Sequence
from typing import Any

import psycopg


class UnknownSourceError(RuntimeError):
    """No table is watched under that name (any more)."""


class Rows:
    """`connection` is in autocommit mode, of a role that may execute sync.enqueue and sync.absent (aviary_operator).
    Every method raises psycopg.Error."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def absent(self, source: str, keys: Sequence[str]) -> set[str]:
        """Those of the keys that have no row now, or one without text. Of a table that cannot be asked: none."""
        found = self._connection.execute("SELECT sync.absent(%s, %s)", (source, list(keys)))
        return {key for (key,) in found}

    def enqueue(self, source: str, keys: Sequence[str]) -> None:
        """Have Pelican send what these rows are now; committed on return. Raises UnknownSourceError."""
        try:
            self._connection.execute("SELECT sync.enqueue(%s, %s)", (source, list(keys)))
        except psycopg.errors.NoDataFound:
            raise UnknownSourceError(source) from None
