"""What can be proven of the images without a Docker engine: their build commands install from the lock into a clean
environment, the entry point starts from what they installed, and they keep the rules of a safe image."""

import datetime
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from docker.utils.build import exclude_paths

ROOT = Path(__file__).parents[3]
CONTEXT = ROOT / "services"
SERVICES = ("pelican", "emu", "frontend")


class Instruction(NamedTuple):
    name: str
    value: str


def stages(service: str) -> list[list[Instruction]]:
    """The instructions of each stage, its FROM first."""
    text = (CONTEXT / service / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    found: list[list[Instruction]] = []
    for line in joined.splitlines():
        name, value = line.split(maxsplit=1)
        if name == "FROM":
            found.append([])
        found[-1].append(Instruction(name, value))
    return found


def values(instructions: list[Instruction], name: str) -> list[str]:
    return [instruction.value for instruction in instructions if instruction.name == name]


def copied(instructions: list[Instruction]) -> list[str]:
    """Sources of COPY from the build context (not from another stage)."""
    sources: list[str] = []
    for value in values(instructions, "COPY"):
        if not value.startswith("--from="):
            sources += value.split()[:-1]
    return sources


@pytest.fixture(scope="module")
def context() -> set[str]:
    """Paths that the allow-list lets into a build."""
    patterns = [line for line in (CONTEXT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    paths: set[str] = exclude_paths(str(CONTEXT), patterns)
    return paths


@pytest.mark.parametrize("service", SERVICES)
def test_everything_copied_exists_and_is_let_into_the_build(service: str, context: set[str]) -> None:
    for stage in stages(service):
        for source in copied(stage):
            assert (CONTEXT / source).exists(), source
            inside = [path for path in context if path == source or path.startswith(f"{source}/")]
            assert any((CONTEXT / path).is_file() for path in inside), f"{source} is kept out by .dockerignore"


def test_nothing_but_sources_and_locks_is_let_into_a_build(context: set[str]) -> None:
    files = {path for path in context if (CONTEXT / path).is_file() and "__pycache__" not in path}
    allowed = re.compile(
        r"(build-requirements\.txt|\.dockerignore|common/rds-ca-bundle\.pem|\w+/(pyproject\.toml|requirements\.txt|src/.+|Dockerfile))"
    )
    assert not [path for path in files if not allowed.fullmatch(path)]
    assert not [path for path in files if "__pycache__" in path or path.endswith((".env", ".pyc"))]


@pytest.mark.parametrize("service", SERVICES)
def test_the_linter_has_nothing_to_say(service: str) -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [str(linter), str(CONTEXT / service / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("service", SERVICES)
def test_the_last_stage_is_small_unprivileged_and_speaks_to_signals(service: str) -> None:
    build, last = stages(service)
    for stage in (build, last):
        assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+( AS build)?", stage[0].value), "base pinned by exact version"
    user = values(last, "USER")
    assert len(user) == 1
    assert int(user[0].split(":")[0]) >= 1000, "a number, so that the orchestrator can see that it is not root"
    assert json.loads(values(last, "ENTRYPOINT")[0]) == ["/opt/venv/bin/python", "-m", service], (
        "exec form: signals arrive"
    )
    installs = [run for run in values(last, "RUN") if re.search(r"\b(apt-get|uv|gcc|pip install)\b", run)]
    assert installs == [], "no build tools in the last stage"
    assert values(last, "COPY")[0] == "--from=build /opt/venv /opt/venv"
    assert len(values(last, "HEALTHCHECK")) == 1


@pytest.mark.parametrize("service", SERVICES)
def test_every_dependency_is_locked_with_a_hash(service: str) -> None:
    for lock in (CONTEXT / service / "requirements.txt", CONTEXT / "build-requirements.txt"):
        entries = [line for line in lock.read_text().splitlines() if line and not line[0].isspace()]
        assert entries
        assert all("==" in line and line.endswith("\\") for line in entries)
        assert not re.search(r"^(torch|sentence-transformers|nvidia)", lock.read_text(), re.MULTILINE)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("service", SERVICES)
def test_the_build_commands_work_and_the_entry_point_starts_from_what_they_installed(
    service: str, tmp_path: Path
) -> None:
    """Runs the build stage's own `uv` commands in a clean environment, offline: `make install` has the files."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    build, last = stages(service)
    for source in copied(build):
        target = tmp_path / "build" / Path(source).name
        target.parent.mkdir(exist_ok=True)
        if (CONTEXT / source).is_dir():
            shutil.copytree(CONTEXT / source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(CONTEXT / source, target)
    # This environment stands in for the one that build-requirements.txt makes; everything else is the image's own text.
    environment = {
        "UV_OFFLINE": "1",
        "PIP_NO_INDEX": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": os.environ["HOME"],
    }
    _, *commands = values(build, "RUN")
    assert len(commands) == 2
    for command in commands:
        done = subprocess.run(
            ["sh", "-ec", command.replace("/opt/venv", str(venv)).replace("--no-cache ", "")],
            cwd=tmp_path / "build",
            env=environment,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    python, *arguments = json.loads(values(last, "ENTRYPOINT")[0])
    started = subprocess.run(
        [python.replace("/opt/venv", str(venv)), "-I", *arguments, "--help"],
        cwd="/",
        env={},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert started.returncode == 0, started.stderr
    assert f"python -m {service}" in started.stdout


def test_the_database_is_verified_against_unexpired_amazon_roots_only() -> None:
    bundle = x509.load_pem_x509_certificates((CONTEXT / "common/rds-ca-bundle.pem").read_bytes())
    assert len(bundle) > 50
    in_a_year = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=365)
    for certificate in bundle:
        name = certificate.subject.rfc4514_string()
        assert "CN=Amazon RDS " in name
        assert certificate.issuer == certificate.subject, name
        certificate.verify_directly_issued_by(certificate)
        assert certificate.not_valid_after_utc > in_a_year, name
