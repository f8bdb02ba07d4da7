"""The stand-in as a process: it survives SIGKILL and a full disk, and says in one sentence why it cannot start."""

import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pinecone import Index, Pinecone
from pinecone.errors import PineconeError, ServiceError

from aviary.index import PineconeIndex, Record
from tests.services.pinecone.process import PineconeProcess, reset_sdk_budgets
from tests.services.pinecone.samples import as_dict, records

SERVERLESS = {"serverless": {"cloud": "aws", "region": "us-east-1"}}


@pytest.fixture
def own(tmp_path: Path) -> Iterator[PineconeProcess]:
    """A stand-in of this test alone, with the index `ix`."""
    server = PineconeProcess(tmp_path)
    server.start()
    with Pinecone(api_key=server.api_key, host=server.control_host) as client:
        client.create_index(name="ix", dimension=384, spec=SERVERLESS, tags={"a": "b"})
    reset_sdk_budgets()
    yield server
    server.stop()
    reset_sdk_budgets()


def test_every_answered_write_survives_a_kill_at_any_moment(own: PineconeProcess, no_backoff: list[float]) -> None:
    answered: dict[str, Record] = {}
    for attempt in range(3):
        enough = threading.Event()

        def write(attempt: int = attempt, enough: threading.Event = enough) -> None:
            with PineconeIndex(own.api_key, own.index_host("ix"), timeout_seconds=2) as index:
                for batch in range(10_000):
                    written = records(20, seed=batch, prefix=f"{attempt}-{batch}-")
                    try:
                        index.upsert("p", written)
                    except PineconeError:
                        return
                    answered.update({record.id: record for record in written})
                    if batch == 15 * (attempt + 1):
                        enough.set()

        writer = threading.Thread(target=write)
        writer.start()
        assert enough.wait(20)
        own.kill()
        writer.join(20)
        assert not writer.is_alive()
        own.start()
        with PineconeIndex(own.api_key, own.index_host("ix")) as index:
            ids = set(index.ids("p"))
            assert set(answered) <= ids
            # What was not answered is there whole or not at all.
            assert len(ids) % 20 == 0
            fetched = index.fetch("p", list(answered)[-100:])
        assert len(fetched) == 100
        for id_, record in fetched.items():
            assert np.array_equal(record.values, answered[id_].values)
            assert record.metadata == answered[id_].metadata
    with Pinecone(api_key=own.api_key, host=own.control_host) as client:
        assert client.describe_index("ix").tags == {"a": "b"}


def test_sigterm_ends_it_with_status_0_and_what_was_written_is_there_again(own: PineconeProcess) -> None:
    with PineconeIndex(own.api_key, own.index_host("ix")) as index:
        index.upsert("p", records(5))
        own.stop_gracefully()
        own.start()
        assert index.count("p") == 5


def test_a_full_disk_is_a_server_error_and_harms_nothing(own: PineconeProcess, no_backoff: list[float]) -> None:
    if not hasattr(resource, "prlimit"):
        pytest.skip("a limit on another process's file size needs Linux")
    assert own.process is not None
    with Pinecone(api_key=own.api_key, host=own.control_host) as client, client.index(host=own.index_host("ix")) as sdk:
        sdk.upsert(vectors=[as_dict(record) for record in records(20)])
        log = own.data_dir / "ix.log"
        # A write of 20 records takes some 32 KB: it fails half-way.
        resource.prlimit(own.process.pid, resource.RLIMIT_FSIZE, (log.stat().st_size + 10_000, resource.RLIM_INFINITY))
        for _ in range(2):
            with pytest.raises(ServiceError, match="could not be stored: File too large"):
                sdk.upsert(vectors=[as_dict(record) for record in records(20, prefix="late")])
        assert count(sdk) == 20
        # What still fits is still taken.
        sdk.delete(ids=["k0"])
        assert count(sdk) == 19
        resource.prlimit(own.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        sdk.upsert(vectors=[as_dict(record) for record in records(20, prefix="late")])
        own.kill()
        own.start()
        assert count(sdk) == 39


def count(sdk: Index) -> int:
    return sdk.describe_index_stats().total_vector_count


def refused(*arguments: str) -> str:
    """What a process that cannot start says, which is one line."""
    done = subprocess.run(
        [sys.executable, "-m", "local.pinecone", *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1, done.stderr
    said = done.stderr.strip()
    assert "\n" not in said
    return said


def test_a_folder_in_use_a_foreign_folder_and_a_busy_port_each_get_one_sentence(
    own: PineconeProcess, tmp_path: Path
) -> None:
    assert own.process is not None
    assert f"is in use by process {own.process.pid};" in refused("--port", "0", "--data-dir", str(own.data_dir))
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "letter.txt").write_text("Dear")
    assert "name another folder" in refused("--port", "0", "--data-dir", str(foreign))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refused("--port", str(port), "--data-dir", str(tmp_path / "other"))
        assert f"127.0.0.1:{port} cannot be used" in said
        assert "--port" in said


def test_an_interrupt_at_the_keyboard_ends_it_without_a_traceback(tmp_path: Path) -> None:
    server = PineconeProcess(tmp_path)
    server.start()
    server.stop_gracefully(signal.SIGINT)
    assert "Traceback" not in server.log_path.read_text()


def test_options_set_the_delay_and_keep_faults_out(tmp_path: Path) -> None:
    server = PineconeProcess(tmp_path, "--visibility-delay-ms", "3600000", "--fsync", allow_faults=False)
    server.start()
    with Pinecone(api_key=server.api_key, host=server.control_host) as client:
        client.create_index(name="ix", dimension=384, spec=SERVERLESS)
    with PineconeIndex(server.api_key, server.index_host("ix")) as index:
        index.upsert("p", records(3))
        assert index.count("p") == 0
    with pytest.raises(AssertionError, match="NOT_FOUND"):
        server.faults(status=503)
    server.kill()
    server.start()
    with PineconeIndex(server.api_key, server.index_host("ix")) as index:
        assert index.count("p") == 3
    server.stop()
