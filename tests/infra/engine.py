"""A recording stand-in for Pulumi's engine: what a program asked for, drained, so that plain asserts can look at it.

`run(program)` returns once every registration and every output is done. Asserts inside `.apply` are never needed, and
would pass in silence on the unknown outputs of a preview.
"""

import asyncio
import contextlib
import json
import runpy
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pulumi
import yaml
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from pulumi.runtime import mocks
from pulumi.runtime.proto import engine_pb2, resource_pb2
from pulumi.runtime.rpc import UNKNOWN, _special_secret_sig, _special_sig_key
from pulumi.runtime.settings import set_root_resource
from pulumi.runtime.stack import run_in_stack

from tests.infra.answers import ACCOUNT, call, state

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "aviary"
API_KEY = "pinecone-key-of-the-tests"
TIMEOUT_SECONDS = 60
# Components of a plug-in: their outputs are no inputs, even where they share a name, as these do.
REMOTE: Mapping[str, Any] = {"awsx:ec2:Vpc": {"natGateways": []}}

Inputs = dict[str, Any]


@dataclass(frozen=True)
class Recorded:
    """One registration. `inputs` are plain values: secrets unwrapped (their paths are in `secrets`), unknown values
    `UNKNOWN`. `dependencies` are URNs, those that come by inputs included."""

    urn: str
    type: str
    name: str
    parent: str
    inputs: Inputs
    secrets: frozenset[str]
    dependencies: frozenset[str]
    provider: str
    protect: bool
    ignore_changes: tuple[str, ...]
    additional_secret_outputs: tuple[str, ...]

    def json(self, name: str) -> Any:
        """An input that is JSON text, parsed."""
        return json.loads(self.inputs[name])


@dataclass
class Graph:
    """Everything a program registered, in no order, its exports, and what it told the user."""

    resources: list[Recorded] = field(default_factory=list)
    exports: Inputs = field(default_factory=dict)
    secret_exports: set[str] = field(default_factory=set)
    log: list[str] = field(default_factory=list)

    def all(self, *types: str) -> list[Recorded]:
        """The resources of these types, such as `aws:sqs/queue:Queue`, by name."""
        return sorted((r for r in self.resources if r.type in types), key=lambda r: r.name)

    def one(self, type: str, name: str) -> Recorded:
        found = [r for r in self.resources if r.type == type and r.name == name]
        assert len(found) == 1, f"{len(found)} of {type} {name}; there are {[r.name for r in self.all(type)]}"
        return found[0]

    def before(self, resource: Recorded) -> set[str]:
        """The URNs of all that must exist before `resource`: what it depends on, through others too."""
        known = {r.urn: r for r in self.resources}
        seen: set[str] = set()
        todo = [resource.urn]
        while todo:
            for urn in known[todo.pop()].dependencies - seen:
                seen.add(urn)
                if urn in known:
                    todo.append(urn)
        return seen


class Monitor(mocks.MockMonitor):
    """Pulumi's own stand-in, which also keeps what it was asked. It is called from several threads, and unlike the
    original it makes no event loop in any of them, because nobody would close it."""

    def __init__(self, graph: Graph, *, preview: bool) -> None:
        super().__init__(_NoMocks())
        self._graph = graph
        self._preview = preview
        self._lock = threading.Lock()

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802 - the name in the protocol
        urn = self.make_urn(request.parent, request.type, request.name)
        if request.type == "pulumi:pulumi:Stack":
            return resource_pb2.RegisterResourceResponse(urn=urn)
        inputs, secrets = plain(MessageToDict(request.object))
        recorded = Recorded(
            urn=urn,
            type=request.type,
            name=request.name,
            parent=request.parent,
            inputs=inputs,
            secrets=frozenset(secrets),
            dependencies=frozenset(request.dependencies),
            provider=request.provider,
            protect=request.protect,
            ignore_changes=tuple(request.ignoreChanges),
            additional_secret_outputs=tuple(request.additionalSecretOutputs),
        )
        with self._lock:
            self._graph.resources.append(recorded)
        outputs = Struct()
        if not self._preview:
            outputs.update(state(request.type, request.name, inputs))
        if request.type in REMOTE:
            outputs.update(REMOTE[request.type])
        else:
            # What is an input stays what it was, secret or unknown. In a preview there is nothing else.
            outputs.MergeFrom(request.object)
        identifier = "" if self._preview else f"{request.name}-id"
        return resource_pb2.RegisterResourceResponse(urn=urn, id=identifier, object=outputs)

    def Invoke(self, request: Any) -> Any:  # noqa: N802 - the name in the protocol
        answer = Struct()
        answer.update(call(request.tok, plain(MessageToDict(request.args))[0]))
        return resource_pb2.ResourceInvokeResponse(**{"return": answer})

    def RegisterResourceOutputs(self, request: Any) -> Any:  # noqa: N802 - the name in the protocol
        if request.urn.endswith(f"::pulumi:pulumi:Stack::{PROJECT}-{pulumi.get_stack()}"):
            self._graph.exports, self._graph.secret_exports = plain(MessageToDict(request.outputs))
        return super().RegisterResourceOutputs(request)  # type: ignore[no-untyped-call] # the SDK's


class _NoMocks(mocks.Mocks):
    """Never asked: the monitor answers by itself."""

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        raise NotImplementedError

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[str, Any], None]:
        raise NotImplementedError


class _Log(mocks.MockEngine):
    def __init__(self, graph: Graph) -> None:
        super().__init__(None)
        self._graph = graph

    def Log(self, request: Any) -> None:  # noqa: N802 - the name in the protocol
        if request.severity != engine_pb2.DEBUG:
            self._graph.log.append(request.message)


def plain(value: Any) -> tuple[Any, set[str]]:
    """A value as on the wire, without the wrappings; and the paths of what was wrapped as secret."""
    secrets: set[str] = set()

    def unwrap(value: Any, path: str) -> Any:
        if isinstance(value, list):
            return [unwrap(item, f"{path}[{number}]") for number, item in enumerate(value)]
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if not isinstance(value, dict):
            return value
        if value.get(_special_sig_key) == _special_secret_sig:
            secrets.add(path)
            return unwrap(value["value"], path)
        return {key: unwrap(item, f"{path}.{key}" if path else key) for key, item in value.items()}

    return unwrap(value, ""), secrets


def configuration(stack: str) -> tuple[dict[str, str], list[str]]:
    """The stack file as Pulumi hands it to the program, with a key of the tests for the encrypted one."""
    given = yaml.safe_load((ROOT / f"Pulumi.{stack}.yaml").read_text("utf-8"))["config"]
    secret = [key for key, value in given.items() if isinstance(value, dict) and "secure" in value]
    config = {key: value if isinstance(value, str) else json.dumps(value) for key, value in given.items()}
    return {**config, **dict.fromkeys(secret, API_KEY)}, secret


def run(
    program: Callable[[], object],
    *,
    stack: str = "test",
    config: Mapping[str, str] | None = None,
    secret: list[str] | None = None,
    preview: bool = False,
) -> Graph:
    """Run `program` in a stack of its own and wait for all that it set in motion; raises what it raises."""
    graph = Graph()

    async def drained() -> None:
        pulumi.runtime.set_all_config(dict(config or {}), secret or [])
        monitor = Monitor(graph, preview=preview)
        mocks.set_mocks(monitor.mocks, PROJECT, stack, preview, monitor=monitor, organization="organization")
        pulumi.runtime.settings.SETTINGS.engine = _Log(graph)
        pulumi.runtime.settings.SETTINGS.outputs.clear()  # of a run that failed before, on a loop that is closed
        set_root_resource(None)  # type: ignore[arg-type] # run_in_stack makes the root, and takes none that is there
        # On the SDK's own loop and with a time-out: an error elsewhere would leave its registrations waiting for ever.
        await asyncio.wait_for(run_in_stack(lambda: _ignore(program())), TIMEOUT_SECONDS)

    with warnings.catch_warnings(), asyncio.Runner() as runner:
        # The SDK warns of its own deprecated modules when it is imported, lazily. Of what a program uses it tells the log.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"pulumi_awsx?\.")
        runner.run(drained())
    return graph


def _ignore(_: object) -> None:
    """A component is no coroutine to wait for."""


@cache
def whole(stack: str, *, preview: bool = False) -> Graph:
    """The whole program with one of our stack files. Made once; do not change it."""
    return changed(stack, preview=preview)


def changed(stack: str, *, preview: bool = False, **changes: str) -> Graph:
    """The whole program with a stack file and other values for some of its keys."""
    config, secret = configuration(stack)
    config |= {f"{PROJECT}:{key}": value for key, value in changes.items()}
    with contextlib.chdir(ROOT):
        return run(
            lambda: runpy.run_path(str(ROOT / "__main__.py"), run_name="__main__"),
            stack=stack,
            config=config,
            secret=secret,
            preview=preview,
        )


def statements(policy: str | Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The statements of a policy document."""
    document = json.loads(policy) if isinstance(policy, str) else policy
    assert document["Version"] == "2012-10-17"
    yield from document["Statement"]


__all__ = ["ACCOUNT", "API_KEY", "ROOT", "UNKNOWN", "Graph", "Recorded", "changed", "run", "statements", "whole"]
