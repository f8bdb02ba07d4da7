"""The other end of benchmarks.peers: its environment, made when it is not there, and questions to the child process."""

import base64
import json
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from aviary.embedder import model_folder
from benchmarks.machine import REPOSITORY

ENVIRONMENT = REPOSITORY / "build" / "bench"
PYTHON = ENVIRONMENT / "bin" / "python"
REQUIREMENTS = REPOSITORY / "requirements" / "bench.in"
INSTALL_SECONDS = 900


class PeersMissingError(RuntimeError):
    """The peers cannot be installed or do not answer; the message says why."""


class Spent(NamedTuple):
    """Of one pass over the texts. `vectors` has shape (texts, dimension)."""

    seconds: float
    cpu_seconds: float
    vectors: NDArray[np.float32]


def install() -> None:
    """Make the environment unless it is there and of these requirements; PeersMissingError when that does not work."""
    mark = ENVIRONMENT / ".installed"
    if mark.exists() and mark.read_text() == REQUIREMENTS.read_text():
        return
    print("making build/bench with torch and the others (some hundred MB, once) …", file=sys.stderr)
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True, capture_output=True, text=True)
        subprocess.run(
            [*pip, "-r", str(REQUIREMENTS)], check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS
        )
    except (subprocess.SubprocessError, OSError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        raise PeersMissingError(f"not installed: {said[-1][:200] if said else type(error).__name__}") from None
    mark.write_text(REQUIREMENTS.read_text())


class PeerProcess:
    """The child. `engines`: name → version, or "not loaded: …"."""

    def __init__(self, threads: int) -> None:
        install()
        self._process = subprocess.Popen(
            [str(PYTHON), str(REPOSITORY / "benchmarks" / "peers.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            self.engines: dict[str, str] = self._ask(op="load", folder=str(model_folder()), threads=threads)["engines"]
        except BaseException:
            self.close()
            raise

    def runs(self, engine: str) -> bool:
        """Whether that engine was loaded."""
        return not self.engines.get(engine, "not loaded").startswith("not loaded")

    def encode(self, texts: Sequence[str]) -> Spent:
        """sentence-transformers on whole texts."""
        return _spent(self._ask(op="encode", texts=list(texts)))

    def run(self, engine: str, batches: Sequence[Sequence[NDArray[np.int32]]]) -> Spent:
        """An engine on batches of tokens that were packed before."""
        return _spent(self._ask(op="run", engine=engine, batches=[[each.tolist() for each in b] for b in batches]))

    def flops(self, rows: int, inner: int, columns: int, precision: str) -> float:
        """Of one matrix product."""
        found = self._ask(op="matmul", rows=rows, inner=inner, columns=columns, precision=precision)
        return float(found["flops"])

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, **question: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        answer: dict[str, Any] = json.loads(line) if line else {"error": "the child process ended"}
        if "error" in answer:
            raise PeersMissingError(f"{question['op']}: {answer['error']}")
        return answer


def _spent(answer: dict[str, Any]) -> Spent:
    values = np.frombuffer(base64.b64decode(answer["vectors"]), np.float32)
    return Spent(answer["seconds"], answer["cpu_seconds"], values.reshape(-1, 384))
