"""Run the Pulumi program offline and record what it declares.

`record("dev")` runs the whole program with the stack's own configuration in a process of its own, because Pulumi's SDK
keeps much in globals. `run(function, …)` runs any program in this process, for tests of single components.
"""

import argparse
import asyncio
import contextlib
import json
import os
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml

from blueprint import outputs
from blueprint.graph import Graph

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_SECONDS = 60.0


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
    # The SDK takes a second to import, and who reads a recorded graph does not need it.
    from blueprint.monitor import Monitor, begin  # noqa: PLC0415 - see above

    monitor = Monitor(preview=preview)

    async def drained() -> None:
        running = begin(monitor, program, project=project_name, stack=stack, config=config or {}, secrets=secrets or [])
        await asyncio.wait_for(running, timeout_seconds)

    with warnings.catch_warnings(), asyncio.Runner() as runner:
        # Of the SDK's own deprecated modules, which it imports lazily; what a program uses of them is in its log.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"pulumi_awsx?\.")
        try:
            runner.run(drained())
        except TimeoutError:
            raise RecordingError(f"the program's outputs did not settle within {timeout_seconds:.0f} s") from None
    return monitor.graph(project_name, stack)


def _environment() -> dict[str, str]:
    """This process's, without what would reach somebody's account or change what Pulumi's SDK does. Its providers are many
    megabytes of source, so what Python compiled is kept even where it is told not to: in a folder of ours."""
    foreign = ("AWS_", "PULUMI_", "PINECONE_", "PYTHONDONTWRITEBYTECODE")
    own = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    return own | {"PYTHONPYCACHEPREFIX": str(ROOT / ".local" / "pycache")}


def _main() -> int:
    """Print the graph as JSON; 1 and the program's own message when it failed."""
    parser = argparse.ArgumentParser(prog="python -m blueprint.record", description=__doc__)
    parser.add_argument("stack")
    parser.add_argument("--preview", action="store_true", help="nothing is known that a provider would make")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    options = parser.parse_args()
    import pulumi  # noqa: PLC0415 - see run()

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
