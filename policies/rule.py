"""What a rule is: a name, the resources it looks at, what is wrong with one, why that matters and how to mend it."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Properties = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule about single resources. `check` yields what is wrong, each finding a clause without a full stop."""

    name: str
    types: tuple[str, ...]
    reason: str
    fix: str
    check: Callable[[Properties], Iterable[str]]
    advisory: bool = False

    def findings(self, type_: str, properties: Properties) -> Iterator[str]:
        """One message for each thing that is wrong with a resource of `type_`."""
        if type_ in self.types:
            for finding in self.check(properties):
                yield f"{finding}. {self.reason} {self.fix}"


@dataclass(frozen=True, kw_only=True)
class Resource:
    """A resource as a stack rule sees it."""

    type: str
    name: str
    properties: Properties


@dataclass(frozen=True, kw_only=True)
class StackRule:
    """A rule about how resources stand to each other."""

    name: str
    reason: str
    fix: str
    check: Callable[[Sequence[Resource]], Iterable[str]]

    def findings(self, resources: Sequence[Resource]) -> Iterator[str]:
        """One message for each thing that is wrong with the stack."""
        for finding in self.check(resources):
            yield f"{finding}. {self.reason} {self.fix}"


def document(value: Any) -> Mapping[str, Any]:
    """A JSON document that may come as text, or be empty. Not copied: the engine's own mappings raise when a value that
    is not known yet is looked at, and then the engine says that it judges later."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return value if hasattr(value, "get") else {}


def statements(policy: Any) -> list[Mapping[str, Any]]:
    """The statements of a policy document."""
    return listed(document(policy).get("Statement"))


def listed(value: Any) -> list[Any]:
    """IAM and ECS write one element without its list. (The engine's own lists are no `list`.)"""
    if value is None:
        return []
    return [value] if isinstance(value, str) or hasattr(value, "get") else list(value)
