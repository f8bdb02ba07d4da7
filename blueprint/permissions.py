"""What each task may do in AWS, from the recorded roles and policies."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from blueprint.graph import Graph, Resource


@dataclass(frozen=True, kw_only=True)
class Permission:
    """`actions` on `resources` for one task. `use`: `work` is the task's own role, `start` is ECS's role for it.
    `targets` are recorded resources among `resources`; `shown` is every resource, by name where it is known."""

    task: str
    use: str
    actions: tuple[str, ...]
    targets: tuple[Resource, ...]
    shown: tuple[str, ...]
    condition: str = ""


def permissions(graph: Graph) -> list[Permission]:
    """Of every ECS task, by task; its own role first."""
    found = []
    for task in sorted(graph.of("aws:ecs:TaskDefinition"), key=lambda task: task.name):
        for use, key in (("work", "taskRoleArn"), ("start", "executionRoleArn")):
            role = next((r for r in graph.of("aws:iam:Role") if r.arn == task.inputs.get(key)), None)
            if role:
                name = graph.short_name(task.name)
                found += [_permission(graph, name, use, statement) for statement in _statements(graph, role)]
    return found


def statements(policy: object) -> list[Mapping[str, Any]]:
    """The statements of a policy document as Pulumi hands it over."""
    document = json.loads(policy) if isinstance(policy, str) else policy
    if not isinstance(document, Mapping):
        return []
    listed = document["Statement"]
    return listed if isinstance(listed, list) else [listed]


def as_list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _statements(graph: Graph, role: Resource) -> Iterator[Mapping[str, Any]]:
    for policy in graph.of("aws:iam:RolePolicy"):
        if policy.inputs["role"] in (role.id, role.name):
            yield from statements(policy.inputs["policy"])


def _permission(graph: Graph, task: str, use: str, statement: Mapping[str, Any]) -> Permission:
    targets, shown = [], []
    for pattern in as_list(statement["Resource"]):
        resource = target(graph, pattern)
        if resource:
            targets.append(resource)
        shown.append(_label(graph, resource, pattern) if resource else pattern)
    conditions = [
        f"{key} {' or '.join(as_list(value))}"
        for tests in (statement.get("Condition") or {}).values()
        for key, value in tests.items()
    ]
    return Permission(
        task=task,
        use=use,
        actions=tuple(as_list(statement["Action"])),
        targets=tuple(targets),
        shown=tuple(dict.fromkeys(shown)),
        condition=", ".join(conditions),
    )


def _label(graph: Graph, resource: Resource, pattern: str) -> str:
    label = graph.label(resource)
    return f"owner's secret of {label}" if resource.arn and ":secret:rds" in pattern else label


def target(graph: Graph, pattern: str) -> Resource | None:
    """The recorded resource that an ARN (or a pattern below it) names: the one with the longest ARN that fits."""
    if ":dbuser:" in pattern:
        resource_id = pattern.split(":dbuser:")[1].partition("/")[0]
        return next((r for r in graph.of("aws:rds:Instance") if r.outputs.get("resourceId") == resource_id), None)
    fitting = [r for r in graph.resources if r.arn and (pattern == r.arn or pattern.startswith(f"{r.arn}:"))]
    for database in graph.of("aws:rds:Instance"):
        if any(secret["secretArn"] == pattern for secret in database.outputs.get("masterUserSecrets") or []):
            return database
    return max(fitting, key=lambda r: len(r.arn), default=None)
