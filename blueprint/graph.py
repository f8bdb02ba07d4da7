"""What a run of the program declared: plain data, from which preview, cost and diagram are computed."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

STACK_TYPE = "pulumi:pulumi:Stack"
# How Pulumi writes a value that is not known yet.
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"

# Types whose own name says too little.
CALLED = {"aws:rds/instance:Instance": "database", "pulumi-python:dynamic/pinecone:VectorIndex": "Pinecone index"}


@dataclass(frozen=True, kw_only=True)
class Resource:
    """One registration. Property names are Pulumi's own (camel case), secrets are opened and what is not known yet is
    `UNKNOWN`. `parent` and `dependencies` are URNs, those that come by inputs included; `secrets` are
    the inputs that hold one."""

    urn: str
    type: str
    name: str
    parent: str
    custom: bool
    id: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    secrets: tuple[str, ...] = ()
    dependencies: tuple[str, ...] = ()
    provider: str = ""
    protect: bool = False
    delete_before_replace: bool = False
    ignore_changes: tuple[str, ...] = ()
    secret_outputs: tuple[str, ...] = ()

    @property
    def arn(self) -> str:
        """Empty where the type has none."""
        return str(self.outputs.get("arn", ""))

    def json(self, name: str) -> Any:
        """An input that is JSON text, parsed."""
        return json.loads(self.inputs[name])


@dataclass(frozen=True, kw_only=True)
class Graph:
    """All registrations by name and type, the stack's exports, and what the program had to say (level, text)."""

    project: str
    stack: str
    resources: tuple[Resource, ...]
    exports: Mapping[str, Any] = field(default_factory=dict)
    secret_exports: tuple[str, ...] = ()
    messages: tuple[tuple[str, str], ...] = ()

    def of(self, *types: str) -> Iterator[Resource]:
        """Resources of these types; a type may be given without its Pulumi module path, as in `aws:sqs:Queue`."""
        return (r for r in self.resources if r.type in types or short_type(r.type) in types)

    def all(self, *types: str) -> list[Resource]:
        """The same, by name."""
        return sorted(self.of(*types), key=lambda r: r.name)

    def one(self, type_: str, name: str) -> Resource:
        """The resource of this type and name; a LookupError says which there are."""
        found = [r for r in self.of(type_) if r.name == name]
        if len(found) != 1:
            there = [r.name for r in self.all(type_)]
            raise LookupError(f"{len(found)} of {type_} are called {name}; there are {there}")
        return found[0]

    def before(self, resource: Resource) -> set[str]:
        """The URNs of all that must exist before `resource`: what it depends on, through others too."""
        known = {r.urn: r for r in self.resources}
        seen: set[str] = set()
        todo = [resource.urn]
        while todo:
            for urn in set(known[todo.pop()].dependencies) - seen:
                seen.add(urn)
                if urn in known:
                    todo.append(urn)
        return seen

    def children(self, urn: str) -> list[Resource]:
        return [r for r in self.resources if r.parent == urn]

    def short_name(self, name: str) -> str:
        """A resource's name without the project and stack that all names begin with."""
        prefix = f"{self.project}-{self.stack}"
        return name.removeprefix(prefix).lstrip("-") or name

    def label(self, resource: Resource) -> str:
        """What a person would call it: `queue changes`, `log group emu`, `database`."""
        kind = (
            CALLED.get(resource.type) or re.sub(r"(?<=[a-z])(?=[A-Z])", " ", resource.type.rpartition(":")[2]).lower()
        )
        name = self.short_name(resource.name)
        return kind if name == f"{self.project}-{self.stack}" else f"{kind} {name}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Graph":
        def resource(given: Mapping[str, Any]) -> Resource:
            fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
            return Resource(**fields)

        resources = tuple(resource(given) for given in data["resources"])
        messages = tuple((level, text) for level, text in data["messages"])
        secret_exports = tuple(data["secret_exports"])
        return cls(**{**data, "resources": resources, "messages": messages, "secret_exports": secret_exports})


def short_type(token: str) -> str:
    """`aws:sqs/queue:Queue` → `aws:sqs:Queue`."""
    package, module, name = token.split(":")
    return f"{package}:{module.split('/')[0]}:{name}"
