"""`python -m pelican reconcile` and `unwatch --delete-vectors`: what they print, what they log, how they end."""

import io
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aviary import logs
from aviary.index import PineconeIndex
from tests.conftest import Queues
from tests.services.pelican.harness import REPOSITORY, Store, command, wait_until
from tests.services.pelican.mirror import Mirror
from tests.services.pinecone.process import PineconeTestIndex

QUICK = ("--settle", "0.4")


@pytest.fixture
def mirror(
    store: Store, pinecone_index: PineconeTestIndex, queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Mirror]:
    """Ten products in step, and an environment for the command."""
    store.execute("TRUNCATE sync.reconcile, sync.drift")
    monkeypatch.setenv("AVIARY_QUEUE_URL", queues.queue_url)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", queues.endpoint)
    monkeypatch.setenv("AVIARY_INDEX_HOST", pinecone_index.host)
    monkeypatch.setenv("PINECONE_API_KEY", pinecone_index.api_key)
    with PineconeIndex(pinecone_index.api_key, pinecone_index.host) as index:
        mirror = Mirror(store, index)
        store.add_products(10)
        mirror.work()
        yield mirror


def test_in_step_is_status_0_and_one_line(mirror: Mirror) -> None:
    done = command(mirror.store, "reconcile", *QUICK, user="aviary_pelican")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("products: in step; 10 rows, 10 vectors, ")


def test_drift_that_is_left_is_status_1_with_examples_for_the_person_who_asked(mirror: Mirror) -> None:
    mirror.index.delete("products", ["3", "4"])
    mirror.put("900")
    done = command(mirror.store, "reconcile", *QUICK, "--examples", "1")
    assert done.returncode == 1
    first, *lines = done.stdout.splitlines()
    assert first.startswith("products: drifted; 10 rows, 9 vectors, ")
    assert lines == ["  missing   2, such as 3", "  orphaned  1, such as 900", "  repaired  0, left 3"]


def test_the_report_as_json(mirror: Mirror) -> None:
    mirror.index.delete("products", ["3"])
    done = command(mirror.store, "reconcile", *QUICK, "--json")
    report = json.loads(done.stdout)
    report["sources"][0].pop("seconds")
    assert report == {
        "drift": 1,
        "left": 1,
        "pending": 0,
        "sources": [
            {
                "source": "products",
                "rows": 10,
                "vectors": 9,
                "missing": 1,
                "stale": 0,
                "orphaned": 0,
                "pending": 0,
                "repaired": 0,
                "left": 1,
                "examples": {"missing": ["3"], "stale": [], "orphaned": []},
            }
        ],
    }


def test_what_is_on_its_way_is_told_apart_and_status_0(mirror: Mirror) -> None:
    mirror.store.execute("UPDATE products SET price = 99 WHERE id = 3")
    done = command(mirror.store, "reconcile", *QUICK)
    assert done.returncode == 0
    assert "  pending   1 that may still be on their way" in done.stdout


def test_for_a_scheduler_it_logs_counts_and_metrics_and_no_key(
    mirror: Mirror, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror.put("marker-of-a-key", category="marker of a row")
    mirror.index.delete("products", ["3"])
    said = io.StringIO()
    configure = logs.configure
    monkeypatch.setattr(logs, "configure", lambda service, level: configure(service, level, said))
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    try:
        done = command(mirror.store, "reconcile", *QUICK, "--log")
    finally:
        logging.getLogger().handlers[:] = handlers
        logging.getLogger().setLevel(level)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    assert "marker" not in said.getvalue()
    told = {line["event"]: line for line in map(json.loads, said.getvalue().splitlines())}
    assert told["reconciled"]["missing"] == 1
    assert told["reconciled"]["orphaned"] == 1
    names = [metric["Name"] for metric in told["metrics"]["_aws"]["CloudWatchMetrics"][0]["Metrics"]]
    assert names == ["Drift", "DriftLeft", "ReconcileSeconds", "ReconcileFinished"]
    assert (told["metrics"]["Drift"], told["metrics"]["ReconcileFinished"]) == (2, 1)


def test_what_it_cannot_reach_is_status_2_and_one_sentence(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PINECONE_API_KEY", "wrong")
    done = command(mirror.store, "reconcile", *QUICK)
    assert done.returncode == 2
    assert done.stderr == (
        "pelican: the index refuses (401); look at AVIARY_INDEX_HOST and PINECONE_API_KEY; run it again, and it goes on "
        "where it was\n"
    )
    monkeypatch.delenv("PINECONE_API_KEY")
    done = command(mirror.store, "reconcile", *QUICK)
    assert done.returncode == 2
    assert done.stderr.startswith("pelican: settings: PINECONE_API_KEY: Field required")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--source", "nothing"], "no table is watched under the name 'nothing'; watched are: products"),
        (["--since", "2h"], "--since and --changed-column go together: a time, and the column to hold it against"),
        (
            ["--since", "soon", "--changed-column", "updated_at"],
            "--since 'soon' is no time; give 30m, 2h or 7d, or a time such as 2026-05-31T12:00:00Z",
        ),
        (
            ["--since", "2h", "--changed-column", "nope"],
            (
                "public.products has no column 'nope' to tell what changed; its columns are id, sku, name, description, "
                "category, price, attributes, created_at, updated_at"
            ),
        ),
    ],
)
def test_a_wrong_option_is_named_with_the_way_out(mirror: Mirror, arguments: list[str], sentence: str) -> None:
    done = command(mirror.store, "reconcile", *arguments)
    assert (done.returncode, done.stderr) == (2, f"pelican: {sentence}\n")


@pytest.mark.parametrize("since", ["2h", "2020-01-01", "2020-01-01T00:00:00+00:00"])
def test_since_takes_spans_and_times(mirror: Mirror, since: str) -> None:
    mirror.store.execute("UPDATE products SET updated_at = '2019-01-01' WHERE id = 4")
    mirror.index.delete("products", ["3", "4"])
    done = command(mirror.store, "reconcile", *QUICK, "--since", since, "--changed-column", "updated_at", "--json")
    assert json.loads(done.stdout)["sources"][0]["examples"]["missing"] == ["3"]


def test_a_killed_process_goes_on_where_it_was(mirror: Mirror, tmp_path: Path) -> None:
    """SIGKILL while it waits for what is on its way; the next one finds what the first one saw."""
    mirror.index.delete("products", ["3"])
    mirror.store.execute("UPDATE products SET price = 99 WHERE id = 5")  # keeps it settling
    environment = {**os.environ, "AVIARY_POSTGRES_DSN": mirror.store.dsn("aviary_pelican")}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "pelican", "reconcile", "--settle", "600"],
            env=environment,
            cwd=REPOSITORY,
            stdout=log,
            stderr=log,
        )
        try:
            wait_until(
                lambda: mirror.store.execute("SELECT 1 FROM sync.reconcile WHERE stage = 'settle'"), "it settles"
            )
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(10)
    mirror.work()
    done = command(mirror.store, "reconcile", *QUICK)
    assert "products: drifted; 10 rows, 9 vectors, " in done.stdout
    assert mirror.store.value("SELECT rows FROM sync.reconcile") == 10


def test_unwatching_can_empty_the_namespace_once_the_queue_is_empty(mirror: Mirror, queues: Queues) -> None:
    mirror.put("1", "others")
    done = command(mirror.store, "unwatch", "--source", "products", "--delete-vectors")
    assert (done.returncode, done.stdout) == (0, "the namespace products of the index is empty\n")
    assert mirror.index.count("products") == 0
    assert not mirror.store.execute("SELECT id FROM sync.source")
    # Of a name that is watched no more (it was killed half-way, or unwatched long ago).
    done = command(mirror.store, "unwatch", "--source", "others", "--delete-vectors")
    assert done.returncode == 0
    assert mirror.index.count("others") == 0


def test_unwatching_needs_what_it_deletes_with_before_it_unwatches(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AVIARY_INDEX_HOST")
    assert command(mirror.store, "unwatch", "--source", "products", "--delete-vectors").returncode == 2
    assert mirror.store.value("SELECT name FROM sync.source") == "products"
