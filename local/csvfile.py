"""A person's CSV file as rows of text: everything about it that can be judged without a database."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

# Python's own limit is 128 Ki characters a cell, and a description may be longer.
CELL_LIMIT_CHARS = 16 * 2**20
DELIMITERS = ",;\t"


class Problem(NamedTuple):
    """What is wrong with one row: `line` counts from 1, and is where the row begins."""

    line: int
    reason: str


class Row(NamedTuple):
    """One row; `cells` in the order of `CsvFile.columns`, None where the cell is blank."""

    line: int
    cells: tuple[str | None, ...]


class CsvFile(NamedTuple):
    """What a file holds. `unused`: headers that are no column of the table."""

    columns: tuple[str, ...]
    rows: list[Row]
    problems: list[Problem]
    unused: tuple[str, ...]


class HeaderError(ValueError):
    """The file as a whole cannot be used; the message is one sentence."""


def normalised(name: str) -> str:
    """Headers and columns are the same when their letters and digits are: "Created At" is created_at."""
    return "".join(character for character in name.casefold() if character.isalnum())


def parse(data: bytes, columns: Sequence[str], mapping: Mapping[str, str] | None = None) -> CsvFile:
    """Read UTF-8 `data` (a byte order mark is fine) whose first row holds headers.

    A header belongs to the column of the same `normalised` name, or to the one that `mapping` (column to header)
    says. The delimiter is the one of comma, semicolon and tab that the header row has most of. Blank rows are skipped.
    Raises HeaderError; what is wrong with single rows is in `problems`.
    """
    # A byte that is no UTF-8 becomes a lone surrogate, which no UTF-8 does: so the rows that have one are known.
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    delimiter = max(DELIMITERS, key=text.partition("\n")[0].count)
    old_limit = csv.field_size_limit(CELL_LIMIT_CHARS)
    try:
        lines = _lines(text, delimiter)
        header = next(lines, None)
        if header is None:
            raise HeaderError("the file is empty; its first row must name the columns")
        if header[2]:
            raise HeaderError(f"the header row (line {header[0]}) cannot be read: {header[2]}")
        places = _places(header[1], columns, mapping or {})
        rows: list[Row] = []
        problems: list[Problem] = []
        for line, cells, error in lines:
            reason = error or _reason(cells, len(header[1]))
            if reason:
                problems.append(Problem(line, reason))
            else:
                rows.append(Row(line, tuple(_cell(cells[place]) for place in places.values())))
    finally:
        csv.field_size_limit(old_limit)
    unused = tuple(name for place, name in enumerate(header[1]) if place not in places.values())
    return CsvFile(tuple(places), rows, problems, unused)


def _lines(text: str, delimiter: str) -> Iterator[tuple[int, list[str], str]]:
    """Each row that is not blank: the line it begins on, its cells, and what is wrong with it if it cannot be read."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, [], _explained(str(error))
        else:
            if any(cell.strip() for cell in cells):
                yield line, cells, ""


def _explained(error: str) -> str:
    if "unexpected end" in error:
        return "a quote opens here and is never closed"
    if "expected after" in error:
        return 'text follows a closing quote; a quote inside a quoted cell is written twice ("")'
    if "field limit" in error:
        return f"a cell is longer than {CELL_LIMIT_CHARS:,} characters"
    return f"not valid CSV ({error})"


def _reason(cells: Sequence[str], expected: int) -> str:
    if len(cells) != expected:
        return f"{len(cells)} cells, but the header has {expected}"
    for cell in cells:
        if "\0" in cell:
            return "a NUL byte, which text in Postgres cannot hold; remove it"
        if not cell.isascii() and any("\ud800" <= character <= "\udfff" for character in cell):
            return "bytes that are not UTF-8; save the file as UTF-8"
    return ""


def _cell(text: str) -> str | None:
    return text if text.strip() else None


def _places(header: Sequence[str], columns: Sequence[str], mapping: Mapping[str, str]) -> dict[str, int]:
    """Which cell of a row belongs to which column."""
    found: dict[str, list[int]] = {}
    for place, name in enumerate(header):
        found.setdefault(normalised(name), []).append(place)
    for column, name in mapping.items():
        if column not in columns:
            raise HeaderError(f"--map {column}={name}: the table has no column {column!r}; it has {', '.join(columns)}")
        if normalised(name) not in found:
            raise HeaderError(f"--map {column}={name}: the file has no header {name!r}; it has {', '.join(header)}")
    taken = {normalised(name) for name in mapping.values()}
    places: dict[str, int] = {}
    for column in columns:
        name = normalised(mapping.get(column, column))
        if name not in found or (column not in mapping and name in taken):
            continue
        if len(found[name]) > 1:
            raise HeaderError(
                f"the headers {', '.join(repr(header[p]) for p in found[name])} all mean {column!r}; keep one"
            )
        places[column] = found[name][0]
    if not places:
        raise HeaderError(
            f"no header is a column of the table; the file has {', '.join(header)}, the table {', '.join(columns)}; "
            "use --map COLUMN=HEADER"
        )
    return places
