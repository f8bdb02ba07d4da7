"""What Pulumi's SDK talks to instead of an engine: it keeps every request whole. Pulumi's own mocks are told neither
parents nor dependencies."""

import inspect
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pulumi
from google.protobuf import empty_pb2, json_format, struct_pb2
from pulumi.runtime import mocks, settings
from pulumi.runtime.proto import resource_pb2
from pulumi.runtime.stack import run_in_stack

from blueprint import outputs
from blueprint.graph import STACK_TYPE, Graph, Resource
from blueprint.outputs import SECRET, SIGNATURE

# Inputs that are Pulumi's own: the dynamic provider's code, and which inputs are defaults.
INTERNAL = {"__provider", "__defaults"}


async def begin(
    monitor: "Monitor",
    program: Callable[[], object],
    *,
    project: str,
    stack: str,
    config: Mapping[str, str],
    secrets: list[str],
) -> None:
    """Run `program` in a new stack; done when all registrations and outputs are."""
    mocks.set_mocks(monitor.mocks, project, stack, monitor.preview, monitor=monitor, organization="organization")
    settings.SETTINGS.engine = _Engine(monitor)
    # What a run that failed left behind belongs to its own loop, which is closed.
    settings.SETTINGS.outputs.clear()
    settings.SETTINGS.rpc_manager.clear()
    # run_in_stack makes the root, and takes none that is there; that of set_mocks has closed its exports.
    settings.set_root_resource(None)  # type: ignore[arg-type] # the SDK's way to begin anew; its type forgets None
    pulumi.runtime.set_all_config(dict(config), secrets)

    async def body() -> None:
        waiting = program()
        if inspect.isawaitable(waiting):
            await waiting

    await run_in_stack(body)


def plain(value: Any) -> Any:
    """A value of the wire as plain data: secrets opened, references as URNs, whole numbers as int."""
    if isinstance(value, Mapping):
        if SIGNATURE in value:
            return plain(next((value[key] for key in ("value", "urn", "text", "path") if key in value), None))
        return {key: plain(item) for key, item in value.items() if key not in INTERNAL}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def is_secret(value: Any) -> bool:
    """Whether a value of the wire holds a secret at any depth."""
    if isinstance(value, Mapping):
        return value.get(SIGNATURE) == SECRET or any(is_secret(item) for item in value.values())
    return isinstance(value, list) and any(is_secret(item) for item in value)


class Monitor(mocks.MockMonitor):
    """Called from several threads of the SDK."""

    def __init__(self, *, preview: bool) -> None:
        super().__init__(_Unused())
        self.preview = preview
        self.said: list[tuple[str, str]] = []
        self._recorded: list[Resource] = []
        self._exports: dict[str, Any] = {}
        self._lock = threading.Lock()

    def graph(self, project: str, stack: str) -> Graph:
        return Graph(
            project=project,
            stack=stack,
            resources=tuple(sorted(self._recorded, key=lambda r: (r.name, r.type))),
            exports=plain(self._exports),
            secret_exports=tuple(sorted(key for key, value in self._exports.items() if is_secret(value))),
            messages=tuple(sorted(set(self.said))),
        )

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802 # a gRPC method
        urn = self.make_urn(request.parent, request.type, request.name)
        if request.type == STACK_TYPE:
            return resource_pb2.RegisterResourceResponse(urn=urn)
        raw = json_format.MessageToDict(request.object)
        inputs = plain(raw)
        made = outputs.made(request.type, request.name, inputs) if request.custom or request.remote else {}
        id_ = str(made.pop("id", ""))
        answer = struct_pb2.Struct()
        if not request.remote:  # a component of another process answers with its outputs alone
            answer.CopyFrom(request.object)
        if not self.preview:
            answer.update(made)
        recorded = Resource(
            urn=urn,
            type=request.type,
            name=request.name,
            parent=request.parent,
            custom=bool(request.custom),
            id="" if self.preview else id_,
            inputs=inputs,
            outputs=plain(json_format.MessageToDict(answer)),
            secrets=tuple(sorted(key for key in raw.keys() - INTERNAL if is_secret(raw[key]))),
            dependencies=tuple(sorted(request.dependencies)),
            provider=request.provider,
            protect=bool(request.protect),
            delete_before_replace=bool(request.deleteBeforeReplace),
            ignore_changes=tuple(request.ignoreChanges),
            secret_outputs=tuple(request.additionalSecretOutputs),
        )
        with self._lock:
            self._recorded.append(recorded)
        return resource_pb2.RegisterResourceResponse(urn=urn, id=recorded.id, object=answer)

    def RegisterResourceOutputs(self, request: Any) -> Any:  # noqa: N802 # a gRPC method
        if request.urn.split("::")[2] == STACK_TYPE:
            self._exports = json_format.MessageToDict(request.outputs)
        return empty_pb2.Empty()

    def Invoke(self, request: Any) -> Any:  # noqa: N802 # a gRPC method
        answer = struct_pb2.Struct()
        answer.update(outputs.called(request.tok, plain(json_format.MessageToDict(request.args))))
        return resource_pb2.ResourceInvokeResponse(**{"return": answer})


class _Unused(mocks.Mocks):
    """The monitor answers by itself."""

    def new_resource(self, args: mocks.MockResourceArgs) -> Any:
        raise NotImplementedError

    def call(self, args: mocks.MockCallArgs) -> Any:
        raise NotImplementedError


class _Engine(mocks.MockEngine):
    """Keeps what the program tells the user, by level."""

    LEVELS = ("debug", "info", "warning", "error")

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(None)
        self._monitor = monitor

    def Log(self, request: Any) -> None:  # noqa: N802 # a gRPC method
        if request.severity:
            self._monitor.said.append((self.LEVELS[request.severity], request.message))
