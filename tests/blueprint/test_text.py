"""The preview reads well in a terminal and in a file."""

import io

import pytest
from rich.console import Console

from blueprint import text
from blueprint.graph import Graph


def shown(graphs: dict[str, Graph], capsys: pytest.CaptureFixture[str]) -> str:
    with text.tidy(text.console()) as console:
        text.show(graphs, ("dev",), console)
    return capsys.readouterr().out


def test_a_file_gets_plain_text(graphs: dict[str, Graph], capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(graphs, capsys).splitlines()
    assert not any("\x1b" in line for line in lines)
    assert not any(line != line.rstrip() for line in lines)
    assert max(map(len, lines)) <= text.WIDTH_CHARS


def test_a_terminal_gets_colours(graphs: dict[str, Graph]) -> None:
    file = io.StringIO()
    with text.tidy(Console(file=file, force_terminal=True, width=100)) as console:
        text.show_cost(graphs, ("dev",), console)
    assert "\x1b[" in file.getvalue()


def test_the_preview_answers_what_a_person_asks(graphs: dict[str, Graph], capsys: pytest.CaptureFixture[str]) -> None:
    page = shown(graphs, capsys)
    for line in (
        f"{len(graphs['dev'].resources)} resources",
        "internet      ─────80─────► load-balancer",
        "load balancer alb: HTTP 80 (forwards)",
        "rds-db:connect",
        "what dominates",
        "how to go lower",
    ):
        assert line in page


def test_secrets_never_show(graphs: dict[str, Graph], capsys: pytest.CaptureFixture[str]) -> None:
    assert "secret-of-" not in shown(graphs, capsys)


def test_both_stacks_are_priced_side_by_side(graphs: dict[str, Graph], capsys: pytest.CaptureFixture[str]) -> None:
    total = next(line for line in shown(graphs, capsys).splitlines() if line.strip().startswith("total"))
    dev, prod = map(float, total.split()[1:])
    assert dev < prod
