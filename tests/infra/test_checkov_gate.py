"""The list of what checkov finds and we keep: nothing unlisted, nothing stale, nothing without a reason."""

import re
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.infra.engine import ROOT, whole
from tests.infra.scripts import script


@pytest.fixture(scope="module")
def gate() -> ModuleType:
    return script("checkov_gate")


def listed() -> dict[str, list[dict[str, Any]]]:
    return dict(yaml.safe_load((ROOT / ".checkov-exceptions.yaml").read_text("utf-8")))


def test_a_finding_that_is_not_listed_fails(gate: ModuleType) -> None:
    found = [gate.Finding("CKV_1", "a"), gate.Finding("CKV_1", "b")]
    assert gate.compare(found, found[:1]) == ["CKV_1 fails for b and is not listed"]


def test_a_line_that_finds_nothing_any_more_fails(gate: ModuleType) -> None:
    line = gate.Finding("CKV_1", "a")
    assert gate.compare([], [line]) == ["CKV_1 does not fail for a: unlist it"]
    assert gate.compare([line], [line]) == []


@pytest.mark.parametrize("stack", ["dev", "prod", "main"])
def test_each_exception_is_one_check_of_one_resource_with_a_reason(stack: str) -> None:
    lines = listed()[stack]
    assert len({(line["check"], line["resource"]) for line in lines}) == len(lines)
    for line in lines:
        assert line.keys() == {"check", "resource", "reason"}
        assert re.fullmatch(r"CKV2?_AWS_\d+", line["check"])
        assert len(line["reason"].split()) >= 6, line


def test_each_exception_is_for_a_resource_that_there_is(stack: str) -> None:
    names = {resource.name for resource in whole(stack).resources}
    assert {line["resource"] for line in listed()[stack]} <= names
