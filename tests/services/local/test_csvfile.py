"""What can be judged of a CSV file without a database."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.csvfile import CELL_LIMIT_CHARS, HeaderError, Problem, Row, normalised, parse

COLUMNS = ("sku", "name", "created_at")


def problems(text: str | bytes) -> list[Problem]:
    data = text if isinstance(text, bytes) else text.encode()
    return parse(data, COLUMNS).problems


def test_headers_match_columns_whatever_their_case_spaces_and_order() -> None:
    found = parse(b'Created At,extra, SKU ,"N-a-m-e"\nyesterday,x,A1,Kettle\n', COLUMNS)
    assert found.columns == COLUMNS
    assert found.rows == [Row(2, ("A1", "Kettle", "yesterday"))]
    assert found.unused == ("extra",)
    assert found.problems == []


def test_a_header_can_be_given_to_a_column_by_hand() -> None:
    found = parse(b"sku,Title,name\nA1,Kettle,ignored\n", COLUMNS, {"name": "title"})
    assert found.rows == [Row(2, ("A1", "Kettle"))]
    assert found.unused == ("name",)


def test_one_header_can_be_two_columns_only_by_hand() -> None:
    assert parse(b"sku\nA1\n", COLUMNS, {"name": "sku", "sku": "sku"}).rows == [Row(2, ("A1", "A1"))]
    assert parse(b"sku\nA1\n", COLUMNS, {"name": "sku"}).columns == ("name",)


@pytest.mark.parametrize(
    ("data", "mapping", "sentence"),
    [
        (b"", {}, "the file is empty"),
        (b"\xef\xbb\xbf \n\n", {}, "the file is empty"),
        (b'sku,"na\n', {}, r"the header row \(line 1\) cannot be read: a quote opens here"),
        (
            b"colour,size\nred,1\n",
            {},
            "no header is a column of the table; the file has colour, size, the table sku, name",
        ),
        (b"sku,SKU\n1,2\n", {}, "the headers 'sku', 'SKU' all mean 'sku'; keep one"),
        (b"sku\n1\n", {"colour": "sku"}, "--map colour=sku: the table has no column 'colour'; it has sku, name"),
        (b"sku\n1\n", {"name": "Title"}, "--map name=Title: the file has no header 'Title'; it has sku"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_sentence(
    data: bytes, mapping: dict[str, str], sentence: str
) -> None:
    with pytest.raises(HeaderError, match=sentence):
        parse(data, COLUMNS, mapping)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("A1", "1 cells, but the header has 2"),
        ("A1,Kettle,red", "3 cells, but the header has 2"),
        ("A1,Ket\0tle", "a NUL byte, which text in Postgres cannot hold; remove it"),
        ('A1,"Kettle" red', 'text follows a closing quote; a quote inside a quoted cell is written twice ("")'),
        ("A1," + "x" * (CELL_LIMIT_CHARS + 1), "a cell is longer than 16,777,216 characters"),
    ],
)
def test_a_bad_row_is_reported_with_its_line_and_its_neighbours_are_read(line: str, reason: str) -> None:
    found = parse(f"sku,name\nA0,Cup\n{line}\nA2,Jug\n".encode(), COLUMNS)
    assert found.problems == [Problem(3, reason)]
    assert [row.cells[0] for row in found.rows] == ["A0", "A2"]


def test_bytes_that_are_not_utf8_are_reported_with_their_line() -> None:
    assert problems(b"sku,name\nA1,ok\nA2,caf\xe9\n") == [
        Problem(3, "bytes that are not UTF-8; save the file as UTF-8")
    ]


def test_a_quote_that_is_never_closed_is_reported_where_it_opens() -> None:
    assert problems('sku,name\nA1,ok\nA2,"open\nA3,x\n') == [Problem(3, "a quote opens here and is never closed")]


def test_lines_are_counted_right_after_cells_of_several_lines_and_blank_lines() -> None:
    found = parse(b'sku,name\n\nA1,"two\nlines"\r\n,\nA2\nA3,"x\n\ny"\nA4\n', COLUMNS)
    assert [(row.line, row.cells) for row in found.rows] == [(3, ("A1", "two\nlines")), (7, ("A3", "x\n\ny"))]
    assert [problem.line for problem in found.problems] == [6, 10]


@pytest.mark.parametrize("data", ["sku;name\nA,1;B,2\n", "sku\tname\nA,1\tB,2\n", '\ufeffsku,name\r\n"A,1","B,2"\r\n'])
def test_semicolons_tabs_and_a_byte_order_mark_are_understood(data: str) -> None:
    assert parse(data.encode(), COLUMNS).rows == [Row(2, ("A,1", "B,2"))]


def test_a_blank_cell_is_no_value_and_spaces_in_others_stay() -> None:
    assert parse(b"sku,name,created_at\n A1 , ,\n", COLUMNS).rows == [Row(2, (" A1 ", None, None))]


def test_a_description_of_a_million_characters_is_read() -> None:
    assert parse(b"sku,name\nA1," + b"x" * 1_000_000, COLUMNS).rows[0].cells == ("A1", "x" * 1_000_000)


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30).map(
    lambda t: t if t.strip() else None
)


@given(st.lists(st.tuples(CELLS.filter(bool), CELLS, CELLS), max_size=20), st.sampled_from(["\n", "\r\n"]))
def test_what_a_spreadsheet_writes_comes_back_cell_by_cell_on_the_right_line(
    rows: list[tuple[str | None, ...]], newline: str
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=newline, quoting=csv.QUOTE_ALL)
    writer.writerow(COLUMNS)
    begins = []
    for row in rows:
        begins.append(len(io.StringIO(text.getvalue(), newline=None).readlines()) + 1)
        writer.writerow(row)
    found = parse(text.getvalue().encode(), COLUMNS)
    assert found.problems == []
    assert [row.cells for row in found.rows] == rows
    assert [row.line for row in found.rows] == begins


@given(st.binary(max_size=200))
def test_no_file_makes_it_fail_in_another_way(data: bytes) -> None:
    try:
        found = parse(b"sku,name\n" + data, COLUMNS)
    except HeaderError:
        return
    assert all(len(row.cells) == 2 for row in found.rows)


def test_normalised_keeps_letters_and_digits_of_any_script() -> None:
    assert normalised(" Größe_2 (cm)") == "grösse2cm"
