"""The list of what a rehearsal's second plan would change: a new difference, another answer and a stale line all fail."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.infra.engine import ROOT, whole
from tests.infra.scripts import script


@pytest.fixture(scope="module")
def gate() -> ModuleType:
    return script("second_plan")


def change(
    name: str, before: dict[str, Any], after: dict[str, Any], actions: Sequence[str] = ("update",), **more: Any
) -> dict[str, Any]:
    change = {"actions": list(actions), "before": before, "after": after, **more}
    return {"type": "aws_sqs_queue", "name": name, "change": change}


def plan(*changes: dict[str, Any]) -> dict[str, Any]:
    return {"resource_changes": list(changes)}


LISTED = {"aws_sqs_queue": [{"resources": ["dlq"], "why": "…", "moto_answers": {"delay": "[0-9]"}}]}


def test_what_would_change_is_found_by_attribute(gate: ModuleType) -> None:
    given = plan(
        change("aviary-dev-dlq", {"delay": 0, "tags": {}, "name": "a"}, {"delay": 1, "tags": None, "name": "a"}),
        change("aviary-dev", {"delay": 0}, {"delay": 0}, ["no-op"]),
    )
    assert gate.differences(given, "aviary-dev") == [("aws_sqs_queue", "dlq", "delay", "0")]


def test_what_is_known_only_afterwards_is_no_difference_of_its_own(gate: ModuleType) -> None:
    given = plan(change("aviary-dev-dlq", {"id": "a", "delay": 0}, {"delay": 1}, after_unknown={"id": True}))
    assert [one.attribute for one in gate.differences(given, "aviary-dev")] == ["delay"]


def test_a_resource_that_would_be_made_again_is_found_without_an_attribute(gate: ModuleType) -> None:
    given = plan(change("aviary-dev-dlq", {"id": "a"}, {}, ["delete", "create"], after_unknown={"id": True}))
    assert [one.attribute for one in gate.differences(given, "aviary-dev")] == ["delete/create"]


def test_a_listed_difference_passes_and_a_new_one_fails(gate: ModuleType) -> None:
    known = gate.Difference("aws_sqs_queue", "dlq", "delay", "0")
    new = gate.Difference("aws_sqs_queue", "changes", "delay", "0")
    assert gate.compare([known], LISTED) == []
    assert gate.compare([known, new], LISTED) == [
        "delay of aws_sqs_queue changes would change and is not listed; the answer was 0"
    ]


def test_another_answer_than_the_listed_one_fails(gate: ModuleType) -> None:
    other = gate.Difference("aws_sqs_queue", "dlq", "delay", "null")
    assert gate.compare([other], LISTED) == ["delay of aws_sqs_queue dlq is answered with null, not with [0-9]"]


def test_a_line_that_is_no_difference_any_more_fails(gate: ModuleType) -> None:
    assert gate.compare([], LISTED) == ["delay of aws_sqs_queue dlq does not change: unlist it"]


def test_every_line_says_why_and_is_about_resources_that_there_are(stack: str) -> None:
    names = {resource.name.removeprefix(f"aviary-{stack}").lstrip("-") or "-" for resource in whole(stack).resources}
    for entries in yaml.safe_load((ROOT / ".rehearsal-differences.yaml").read_text("utf-8")).values():
        for entry in entries:
            assert entry.keys() == {"resources", "why", "moto_answers"}
            assert len(entry["why"].split()) >= 5
            assert set(entry["resources"]) <= names


def test_the_plan_of_a_rehearsal_is_read_and_its_folder_goes(
    gate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rehearse = tmp_path / "folder", tmp_path / "rehearse.py"
    folder.mkdir()
    monkeypatch.setattr(gate.tempfile, "tempdir", str(folder))
    rehearse.write_text(
        "import pathlib, sys; out = pathlib.Path(sys.argv[-1]); out.mkdir(); (out / 'second-plan.json').write_text('{}')"
    )
    assert gate._rehearse(rehearse, "dev") == "{}"
    assert list(folder.iterdir()) == []
