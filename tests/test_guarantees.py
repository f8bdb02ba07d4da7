"""docs/guarantees.md promises nothing that no test holds."""

import ast
import functools
import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "guarantees.md"
REFERENCE = re.compile(r"`([\w/]+\.py)::(\w+)`")


def rows() -> list[str]:
    """The rows of the page's tables, without heads and rules."""
    lines = PAGE.read_text().splitlines()
    tables = [line for line in lines if line.startswith("|")]
    heads = {n for n, line in enumerate(tables) if set(line) <= set("|-")}
    return [line for n, line in enumerate(tables) if not {n, n + 1} & heads]


@functools.cache
def names_in(path: Path) -> frozenset[str]:
    """The names of the tests that pytest finds in a file."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.parse(path.read_text()).body if isinstance(node, functions))


def test_every_promise_names_a_test() -> None:
    assert len(rows()) > 40
    assert [row for row in rows() if not REFERENCE.search(row.split("|")[-2])] == []


def test_every_test_that_is_named_is_there() -> None:
    named = [(TESTS / path, name) for path, name in REFERENCE.findall(PAGE.read_text())]
    missing = [f"{path}::{name}" for path, name in named if not path.exists() or name not in names_in(path)]
    assert missing == []
    assert all(name.startswith("test_") for _, name in named)
