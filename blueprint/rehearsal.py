"""`make rehearse`: the dev stack on the real Pulumi engine, in an AWS account and a Pinecone that are on loopback.

`pulumi up` under our policy pack, a second one that must find nothing to do, and `pulumi destroy`; then nothing is left. No
credentials are used or needed, and no state but a temporary folder's. Exit status: 0 all went well, 1 a step failed, 2 no Pulumi CLI.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import yaml

from blueprint.record import ROOT, project

STACK = "rehearsal"
# The stack whose configuration is rehearsed.
MODEL = "dev"
READY_SECONDS = 60.0
STOP_SECONDS = 10.0
POLL_SECONDS = 0.1
# What the program reads at run time; the folder's own Pulumi files are written anew.
COPIED = ("Pulumi.yaml", "__main__.py", "components")
LINKED = (".venv", "services")
NO_IMAGE = "rehearsal.invalid/{}@sha256:" + "0" * 64
# Not copied: it finds its virtual environment beside its own folder.
POLICIES = ROOT / "policies"
# Whoever rehearses may be logged in somewhere: none of that reaches the engine.
FOREIGN = ("AWS_", "PULUMI_", "PINECONE_")
KEPT = ("PULUMI_HOME",)


class RehearsalError(RuntimeError):
    """A step that did not go well; the message names it."""


def main() -> int:
    """The exit status."""
    pulumi = shutil.which("pulumi")
    if pulumi is None:
        print(
            "rehearse: there is no pulumi on PATH; install its CLI (https://www.pulumi.com/docs/install/) and try again",
            file=sys.stderr,
        )
        return 2
    signal.signal(signal.SIGTERM, _end)
    try:
        rehearse(pulumi)
    except RehearsalError as error:
        print(f"rehearse: {error}", file=sys.stderr)
        return 1
    print("rehearse: up, up again without a change, destroy: all well")
    return 0


def rehearse(pulumi: str) -> None:
    """Every step in order. A stack that was begun is destroyed too, and whatever happens the servers are stopped and the
    folder is removed. Raises RehearsalError."""
    with tempfile.TemporaryDirectory(prefix="aviary-rehearsal-") as work, contextlib.ExitStack() as stack:
        folder = Path(work)
        aws, pinecone = _free_port(), _free_port()
        data = folder / "pinecone"
        stack.enter_context(_server("moto", aws, folder, "blueprint.account", "--port", str(aws)))
        stack.enter_context(
            _server("Pinecone", pinecone, folder, "local.pinecone", "--port", str(pinecone), "--data-dir", str(data))
        )
        program = prepare(folder / "program")
        state = folder / "state"
        state.mkdir()
        environment = surroundings(os.environ, state=state, aws=aws, pinecone=pinecone)

        def run(*arguments: str) -> None:
            print(f"== pulumi {' '.join(arguments)}", flush=True)
            command = [pulumi, *arguments, "--non-interactive"]
            status = subprocess.run(command, cwd=program, env=environment, check=False).returncode
            if status:
                raise RehearsalError(f"`pulumi {' '.join(arguments)}` failed with status {status}")

        run("stack", "init", STACK)
        run("config", "set", "--stack", STACK, "--secret", "pineconeApiKey", "of-the-rehearsal")
        up = ("up", "--yes", "--skip-preview", "--stack", STACK, "--policy-pack", str(POLICIES))
        try:
            run(*up)
            run(*up, "--expect-no-changes")
        except RehearsalError as error:
            try:
                run("destroy", "--yes", "--skip-preview", "--stack", STACK)
            except RehearsalError as another:
                raise RehearsalError(f"{error}; {another}") from None
            raise
        run("destroy", "--yes", "--skip-preview", "--stack", STACK)


def prepare(program: Path) -> Path:
    """A copy of the program, so that the rehearsal's stack file is not left in the repository; its folder."""
    program.mkdir(parents=True)
    for name in COPIED:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy2
        copy(source, program / name)
    for name in LINKED:
        (program / name).symlink_to(ROOT / name)
    (program / f"Pulumi.{STACK}.yaml").write_text(yaml.safe_dump({"config": configuration()}), encoding="utf-8")
    return program


def configuration() -> dict[str, Any]:
    """The model stack's configuration for an account on loopback: no images are built, and secrets are left to
    `pulumi config set`, which encrypts them for the rehearsal."""
    given = yaml.safe_load((ROOT / f"Pulumi.{MODEL}.yaml").read_text(encoding="utf-8"))["config"]
    config = {key: value for key, value in given.items() if not (isinstance(value, dict) and "secure" in value)}
    name = project()
    config |= {
        f"{name}:images{service.capitalize()}": NO_IMAGE.format(service) for service in ("pelican", "emu", "frontend")
    }
    return config | {
        f"{name}:imagesBuild": False,
        f"{name}:savedQueries": True,  # blueprint.account keeps them, which moto alone does not
        f"{name}:waitForSteadyState": False,  # moto runs no tasks
        "aws:skipCredentialsValidation": True,
        "aws:skipRequestingAccountId": True,
        "aws:skipMetadataApiCheck": True,
        "aws:s3UsePathStyle": True,
    }


def surroundings(given: Mapping[str, str], *, state: Path, aws: int, pinecone: int) -> dict[str, str]:
    """The environment of the engine and its providers: loopback ports `aws` and `pinecone`, and nobody's account."""
    own = {key: value for key, value in given.items() if key in KEPT or not key.startswith(FOREIGN)}
    return own | {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{aws}",
        "PINECONE_CONTROLLER_HOST": f"http://127.0.0.1:{pinecone}",
        "PULUMI_BACKEND_URL": state.as_uri(),
        "PULUMI_CONFIG_PASSPHRASE": secrets.token_hex(16),
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "NO_PROXY": "127.0.0.1",
    }


@contextlib.contextmanager
def _server(name: str, port: int, folder: Path, *arguments: str) -> Iterator[None]:
    """A server of ours, in a process of its own, which answers on its port and ends with the block."""
    log = folder / f"{name}.log"
    with log.open("wb") as file:
        command = [sys.executable, "-m", *arguments]
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        _wait(name, port, process, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(name: str, port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:] or ["nothing"]
            raise RehearsalError(f"the {name} server did not start; it said: {said[0]}")
        time.sleep(POLL_SECONDS)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    """SIGTERM, as when a job is cancelled: unwind, so that everything is cleaned up."""
    raise SystemExit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
