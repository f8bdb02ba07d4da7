"""Run the Pulumi program offline and record what it declares.

`record("dev")` runs the whole program with the stack's own configuration in a process of its own, because Pulumi's SDK
keeps much in globals. `run(function, …)` runs any program in this process, for tests of single components.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from blueprint import outputs
from blueprint.graph import STACK_TYPE, Graph, Resource

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_SECONDS = 60.0
# Signatures and sentinel of Pulumi's wire format.
# https://github.com/pulumi/pulumi/blob/master/sdk/python/lib/pulumi/runtime/rpc.py
SIGNATURE = "4dabf18193072939515e22adb298388d"
SECRET = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105 # a type's mark on the wire, the same for everyone
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
# Inputs that are Pulumi's own: the dynamic provider's code, and which inputs are defaults.
INTERNAL = {"__provider", "__defaults"}


class RecordingError(RuntimeError):
    """The program did not run to its end; the message is what it said."""


def placeholder(key: str) -> str:
    """What stands for the secret of this key, so that a test can look where it went."""
    return f"secret-of-{key}"


def project() -> str:
    """The project's name, from Pulumi.yaml."""
    return str(yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["name"])


def stack_config(stack: str) -> tuple[dict[str, str], list[str]]:
    """Configuration of a stack as the engine hands it over, by full key, and which keys are secret."""
    path = ROOT / f"Pulumi.{stack}.yaml"
    if not path.is_file():
        known = sorted(p.name.split(".")[1] for p in ROOT.glob("Pulumi.*.yaml"))
        raise RecordingError(f"there is no {path.name}; stacks with a file are {', '.join(known)}")
    config, secrets = {}, []
    for key, value in (yaml.safe_load(path.read_text()).get("config") or {}).items():
        if isinstance(value, dict) and set(value) == {"secure"}:
            secrets.append(key)
            config[key] = placeholder(key.partition(":")[2])
        else:
            config[key] = value if isinstance(value, str) else json.dumps(value)
    return config, secrets


def record(
    stack: str, *, overrides: Mapping[str, str] | None = None, preview: bool = False, timeout_seconds: float = 60.0
) -> Graph:
    """The whole program with Pulumi.<stack>.yaml and `overrides` (keys without the project's name). With `preview`
    nothing is known that a provider would make, as in `pulumi preview` of a new stack. Raises RecordingError."""
    command = [sys.executable, "-m", "blueprint.record", stack, *(["--preview"] if preview else [])]
    command += [f"--set={key}={value}" for key, value in (overrides or {}).items()]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_seconds, check=False, env=_environment()
        )
    except subprocess.TimeoutExpired:
        raise RecordingError(f"the program did not end within {timeout_seconds:.0f} s") from None
    if done.returncode:
        raise RecordingError(done.stderr.strip())
    return Graph.from_json(json.loads(done.stdout))


def run(
    program: Callable[[], object],
    *,
    config: Mapping[str, str] | None = None,
    secrets: list[str] | None = None,
    project_name: str = "aviary",
    stack: str = "test",
    preview: bool = False,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Graph:
    """Run a program in this process until all of its outputs have settled; what it raises is raised here."""
    import pulumi
    from pulumi.runtime import mocks, settings
    from pulumi.runtime.stack import run_in_stack
    from pulumi.runtime.sync_await import _ensure_event_loop

    said = _Messages()
    logger = logging.Logger("program")
    logger.addHandler(said)
    monitor = _monitor(preview=preview)
    settings.set_root_resource(None)  # type: ignore[arg-type] # the SDK's own way to begin anew; its type forgets None
    mocks.set_mocks(
        monitor.mocks, project=project_name, stack=stack, preview=preview, logger=logger, monitor=monitor
    )
    settings.set_root_resource(None)  # type: ignore[arg-type] # the one that set_mocks made has closed its exports
    pulumi.runtime.set_all_config(dict(config or {}), list(secrets or []))
    loop = _ensure_event_loop()

    def body() -> None:
        program()

    try:
        loop.run_until_complete(asyncio.wait_for(run_in_stack(body), timeout_seconds))
    except asyncio.TimeoutError:
        raise RecordingError(f"the program's outputs did not settle within {timeout_seconds:.0f} s") from None
    recorded: list[Resource] = monitor.recorded
    return Graph(
        project=project_name,
        stack=stack,
        resources=tuple(r for r in recorded if r.type != STACK_TYPE),
        exports=monitor.exports,
        messages=tuple(said.lines),
    )


def plain(value: Any) -> Any:
    """A value of the wire as plain data: secrets opened, references as URNs, whole numbers as int."""
    if isinstance(value, Mapping):
        if SIGNATURE in value:
            inner = next((value[key] for key in ("value", "urn", "text", "path") if key in value), None)
            return plain(inner)
        return {key: plain(item) for key, item in value.items() if key not in INTERNAL}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def is_secret(value: Any) -> bool:
    """Whether a value of the wire holds a secret at any depth."""
    if isinstance(value, Mapping):
        return value.get(SIGNATURE) == SECRET or any(is_secret(item) for item in value.values())
    return isinstance(value, list) and any(is_secret(item) for item in value)


def _monitor(*, preview: bool) -> Any:
    """A monitor of Pulumi's mocks that keeps each request whole: mocks themselves are told neither parents nor
    dependencies. Made in a function because the SDK takes a second to import."""
    from google.protobuf import empty_pb2, json_format, struct_pb2
    from pulumi.runtime import mocks
    from pulumi.runtime.proto import resource_pb2

    class Unused(mocks.Mocks):
        def call(self, args: mocks.MockCallArgs) -> Any:
            raise NotImplementedError

        def new_resource(self, args: mocks.MockResourceArgs) -> Any:
            raise NotImplementedError

    class Recorder(mocks.MockMonitor):
        def __init__(self) -> None:
            super().__init__(Unused())
            self.recorded: list[Resource] = []
            self.exports: dict[str, Any] = {}

        def RegisterResource(self, request: Any) -> Any:  # noqa: N802 # a gRPC method
            urn = self.make_urn(request.parent, request.type, request.name)
            raw = json_format.MessageToDict(request.object)
            inputs = plain(raw)
            made = outputs.made(request.type, request.name, inputs) if request.custom or request.remote else {}
            id_ = "" if preview else str(made.pop("id", ""))
            answer = struct_pb2.Struct()
            if not request.remote:  # a component of another process answers with its outputs alone
                answer.CopyFrom(request.object)
            if not preview:
                answer.update(made)
            self.recorded.append(
                Resource(
                    urn=urn,
                    type=request.type,
                    name=request.name,
                    parent=request.parent,
                    custom=bool(request.custom),
                    id=id_,
                    inputs=inputs,
                    outputs=plain(json_format.MessageToDict(answer)),
                    secrets=tuple(sorted(key for key, value in raw.items() if is_secret(value))),
                    depends_on=tuple(sorted(request.dependencies)),
                    protect=bool(request.protect),
                )
            )
            self.resources[urn] = self.ResourceRegistration(urn, id_, {})
            return resource_pb2.RegisterResourceResponse(urn=urn, id=id_, object=answer)

        def RegisterResourceOutputs(self, request: Any) -> Any:  # noqa: N802 # a gRPC method
            if request.urn.split("::")[2] == STACK_TYPE:
                self.exports = plain(json_format.MessageToDict(request.outputs))
            return empty_pb2.Empty()

        def Invoke(self, request: Any) -> Any:  # noqa: N802 # a gRPC method
            answer = struct_pb2.Struct()
            answer.update(outputs.called(request.tok, plain(json_format.MessageToDict(request.args))))
            return resource_pb2.ResourceInvokeResponse(**{"return": answer})

    return Recorder()


class _Messages(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.levelname.lower(), record.getMessage()))


def _environment() -> dict[str, str]:
    """This process's, without what would reach somebody's account or change what Pulumi's SDK does."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "PULUMI_", "PINECONE_"))}


def _main() -> int:
    """Print the graph as JSON; 1 and the program's own message when it failed."""
    parser = argparse.ArgumentParser(prog="python -m blueprint.record", description=__doc__)
    parser.add_argument("stack")
    parser.add_argument("--preview", action="store_true", help="nothing is known that a provider would make")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    options = parser.parse_args()
    import pulumi

    try:
        config, secrets = stack_config(options.stack)
        config |= {f"{project()}:{key}": value for key, _, value in (o.partition("=") for o in options.overrides)}
        with contextlib.redirect_stdout(sys.stderr):
            graph = run(
                lambda: runpy.run_path(str(ROOT / "__main__.py"), run_name="__main__"),
                config=config,
                secrets=secrets,
                project_name=project(),
                stack=options.stack,
                preview=options.preview,
            )
    except (RecordingError, outputs.UnknownCallError, pulumi.RunError) as error:
        print(error, file=sys.stderr)
        return 1
    json.dump(graph.to_json(), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
