"""The products table: read, create, change, delete."""

import secrets
import time
from typing import Literal, NamedTuple

from psycopg import sql
from psycopg.types.json import Jsonb

from aviary.source import Source, render
from frontend.limits import PRODUCTS
from frontend.models import NewProduct, ProductChange
from frontend.pool import Connection
from frontend.problems import ProblemError
from frontend.store import Database, Row

# A bigint key: beyond it there is no row, and Postgres would refuse the number.
MAX_ID = 2**63 - 1
CATEGORIES_KEPT_SECONDS = 10.0

# xmin changes with every version of a row, whoever wrote it, also by SQL.
_COLUMNS = sql.SQL(
    "id, sku, name, description, category, price, attributes, created_at, updated_at, xmin::text AS version"
)
_TABLE = sql.Identifier("public", PRODUCTS)


class Written(NamedTuple):
    """A row after its commit (for a deletion: as it was), when that was in Unix milliseconds, and what of the index it concerns."""

    row: Row
    committed_at_ms: int
    affects: Literal["text", "metadata", "nothing"]


class Products:
    """All methods raise `ProblemError`: 404 for a row that is not there, 409 for a conflict."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._categories: tuple[float, list[str]] = (float("-inf"), [])

    async def get(self, id: int) -> Row:
        async with self._database.connection() as connection:
            return await _one(connection, id)

    async def page(self, *, limit: int, after: int | None = None, category: str | None = None) -> list[Row]:
        """The newest first, from below the id `after`."""
        conditions = [sql.SQL("true")]
        values: list[int | str] = []
        if after is not None:
            conditions.append(sql.SQL("id < %s"))
            values.append(after)
        if category is not None:
            conditions.append(sql.SQL("category = %s"))
            values.append(category)
        statement = sql.SQL("SELECT {} FROM {} WHERE {} ORDER BY id DESC LIMIT %s").format(
            _COLUMNS, _TABLE, sql.SQL(" AND ").join(conditions)
        )
        async with self._database.connection() as connection:
            return await (await connection.execute(statement, [*values, limit])).fetchall()

    async def categories(self) -> list[str]:
        """The categories in use, at most 10 s old."""
        read_at, known = self._categories
        if time.monotonic() - read_at < CATEGORIES_KEPT_SECONDS:
            return known
        statement = sql.SQL("SELECT DISTINCT category FROM {} WHERE category <> '' ORDER BY 1 LIMIT 500").format(_TABLE)
        async with self._database.connection() as connection:
            found = [row["category"] for row in await (await connection.execute(statement)).fetchall()]
        self._categories = (time.monotonic(), found)
        return found

    def forget(self) -> None:
        """Read the categories anew at the next question."""
        self._categories = (float("-inf"), [])

    async def create(self, new: NewProduct) -> Written:
        values = new.model_dump()
        values["sku"] = new.sku or f"P-{secrets.token_hex(5).upper()}"
        values["attributes"] = Jsonb(new.attributes)
        statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) RETURNING {}").format(
            _TABLE,
            sql.SQL(", ").join(map(sql.Identifier, values)),
            sql.SQL(", ").join(map(sql.Placeholder, values)),
            _COLUMNS,
        )
        source = await self._source()
        async with self._database.connection() as connection:
            row = await (await connection.execute(statement, values)).fetchone()
            committed = _now_ms()
        if row is None:
            raise RuntimeError("INSERT … RETURNING gave no row")
        return Written(row, committed, affects(source, None, row))

    async def change(self, id: int, change: ProductChange, version: str | None = None) -> Written:
        """Write the fields that are set. With `version`, only if the row still is that version (else 412)."""
        values = change.model_dump(exclude_unset=True)
        if "attributes" in values:
            values["attributes"] = Jsonb(values["attributes"])
        statement = sql.SQL("UPDATE {} SET {}, updated_at = now() WHERE id = %(id)s RETURNING {}").format(
            _TABLE,
            sql.SQL(", ").join(
                sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in values
            ),
            _COLUMNS,
        )
        source = await self._source()
        async with self._database.connection() as connection:
            async with connection.transaction():
                before = await _one(connection, id, lock=True)
                _check_version(before, version)
                after = await (await connection.execute(statement, {**values, "id": id})).fetchone()
            committed = _now_ms()
        if after is None:
            raise RuntimeError("UPDATE … RETURNING of a locked row gave no row")
        return Written(after, committed, affects(source, before, after))

    async def delete(self, id: int, version: str | None = None) -> Written:
        """Delete the row; `Written.row` is the row as it was."""
        source = await self._source()
        async with self._database.connection() as connection:
            async with connection.transaction():
                before = await _one(connection, id, lock=True)
                _check_version(before, version)
                await connection.execute(sql.SQL("DELETE FROM {} WHERE id = %s").format(_TABLE), [id])
            committed = _now_ms()
        return Written(before, committed, affects(source, before, None))

    async def _source(self) -> Source | None:
        watched = (await self._database.sources()).get(PRODUCTS)
        return None if watched is None else watched.source


async def _one(connection: Connection, id: int, *, lock: bool = False) -> Row:
    statement = sql.SQL("SELECT {} FROM {} WHERE id = %s {}").format(
        _COLUMNS, _TABLE, sql.SQL("FOR UPDATE" if lock else "")
    )
    row = await (await connection.execute(statement, [id])).fetchone()
    if row is None:
        raise ProblemError(404, "not_found", f"there is no product {id}; it may have been deleted")
    return row


def _check_version(row: Row, version: str | None) -> None:
    if version is not None and version != row["version"]:
        raise ProblemError(
            412, "changed", "this product was changed by someone else meanwhile; read it again and repeat your change"
        )


def affects(source: Source | None, before: Row | None, after: Row | None) -> Literal["text", "metadata", "nothing"]:
    """What a change from `before` to `after` (None: no such row) concerns in the index; nothing where the table is
    not watched (source None)."""
    if source is None:
        return "nothing"
    old, new = (None if row is None else render(source, str(row["id"]), row) for row in (before, after))
    if (old and old.text_hash) != (new and new.text_hash):
        return "text"
    return "metadata" if old and new and old.metadata != new.metadata else "nothing"


def _now_ms() -> int:
    return round(time.time() * 1000)
