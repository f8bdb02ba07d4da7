"""The Pinecone stand-in as a real process, for tests."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from pinecone._internal import bulk, http_client

REPOSITORY = Path(__file__).resolve().parents[3]
START_SECONDS = 30


def reset_sdk_budgets() -> None:
    """Forget what the SDK remembers of a host name's failures: it is kept for the whole process, without the port."""
    http_client.get_budget_registry()._reset()
    bulk.get_registry()._reset()


class PineconeProcess:
    """The stand-in as a process. `start` waits until it listens; the port stays the same over restarts."""

    def __init__(self, folder: Path, *options: str, api_key: str = "test-key", allow_faults: bool = True) -> None:
        self.data_dir = folder / "data"
        self.log_path = folder / "pinecone.log"
        self.api_key = api_key
        self.port = 0
        self._options = [*options, *(["--allow-faults"] if allow_faults else [])]
        self.process: subprocess.Popen[bytes] | None = None
        # Not verifying spares the second that reading the certificate authorities takes, over a whole run.
        self._http = httpx.Client(verify=False, timeout=10)  # noqa: S501 - plain HTTP on loopback

    @property
    def control_host(self) -> str:
        """For `Pinecone(host=…)`."""
        return f"http://127.0.0.1:{self.port}"

    def index_host(self, name: str) -> str:
        """For `pc.index(host=…)` and PineconeIndex."""
        return f"{self.control_host}/_ix/{name}"

    def command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "local.pinecone", "--port", str(self.port), "--data-dir", str(self.data_dir)),
            *("--api-key", self.api_key, *self._options),
        ]

    def start(self) -> None:
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            offset = log.tell()
            self.process = subprocess.Popen(
                self.command(), cwd=REPOSITORY, stdout=log, stderr=log, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}
            )
        deadline = time.monotonic() + START_SECONDS
        while (listening := self._listening(offset)) is None:
            assert self.process.poll() is None, f"the stand-in ended: {self.log_path.read_text()}"
            assert time.monotonic() < deadline, f"the stand-in does not listen: {self.log_path.read_text()}"
            time.sleep(0.02)
        self.port = int(listening.rpartition(":")[2])

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop_gracefully(self, how: signal.Signals = signal.SIGTERM) -> None:
        """It must end by itself, with status 0."""
        assert self.process is not None
        self.process.send_signal(how)
        assert self.process.wait(10) == 0

    def stop(self) -> None:
        self._http.close()
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(10)

    def faults(self, **rule: Any) -> int:
        """Add a fault (see local.pinecone.faults.Fault); its id."""
        answer = self._http.post(f"{self.control_host}/_faults", json=rule)
        assert answer.status_code == 200, answer.text
        return int(answer.json()["id"])

    def fault_report(self) -> dict[str, Any]:
        """Rules with their counters."""
        report: dict[str, Any] = self._http.get(f"{self.control_host}/_faults").json()
        return report

    def clear_faults(self) -> None:
        """End all faults, and what the SDK in this process made of them."""
        self._http.delete(f"{self.control_host}/_faults").raise_for_status()
        reset_sdk_budgets()

    def visibility_delay(self, index: str, milliseconds: float) -> None:
        """Reads of the index see writes this late from now on. 0 shows at once what was held back."""
        answer = self._http.put(f"{self.control_host}/_visibility/{index}", json={"delay_ms": milliseconds})
        assert answer.status_code == 200, answer.text

    def counts(self, index: str) -> dict[str, dict[str, int]]:
        """Per operation of an index: requests, errors, records."""
        counts: dict[str, dict[str, int]] = (
            self._http.get(f"{self.control_host}/_stats").json()["indexes"].get(index, {})
        )
        return counts

    def _listening(self, offset: int) -> str | None:
        with self.log_path.open("rb") as log:
            log.seek(offset)
            for line in log:
                if line.endswith(b"\n") and b'"event":"listening"' in line:
                    return str(json.loads(line)["url"])
        return None


class PineconeTestIndex(NamedTuple):
    """An empty index (384 dimensions, cosine) of one test."""

    server: PineconeProcess
    name: str

    @property
    def host(self) -> str:
        return self.server.index_host(self.name)

    @property
    def api_key(self) -> str:
        return self.server.api_key

    def counts(self) -> dict[str, dict[str, int]]:
        """Per operation: requests, errors, records."""
        return self.server.counts(self.name)

    def faults(self, **rule: Any) -> int:
        """Add a fault for this index only."""
        return self.server.faults(index=self.name, **rule)

    def visibility_delay(self, milliseconds: float) -> None:
        """Queries see writes this late from now on. 0 shows at once what was held back."""
        self.server.visibility_delay(self.name, milliseconds)
