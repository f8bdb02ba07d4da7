"""`python -m pelican reindex` with a running Pelican and Emu in this process, and the index stand-in."""

import json
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import psycopg
import pytest

from aviary.index import PineconeIndex
from aviary.source import Source, render, vector_id
from emu.queue import SqsQueue as EmuQueue
from emu.settings import EmuSettings
from emu.worker import Emu
from pelican import arrival, reindex
from pelican.outbox import prepare
from pelican.reindex import Progress
from pelican.service import Pelican
from pelican.sqs import SqsQueue
from pelican.watch import BUILDING, DROPPING, READY, source_named
from tests.conftest import Queues
from tests.services.emu.embedders import HashEmbedder
from tests.services.pelican.harness import Done, Store, command, settings_for, wait_until
from tests.services.pinecone.process import PineconeTestIndex

SMALL = "small"


class Pipeline:
    """Pelican and Emu at work between a store and an index; and the commands, as an operator has them."""

    def __init__(self, store: Store, queues: Queues, pinecone: PineconeTestIndex, sqs: SqsQueue) -> None:
        self.store = store
        self.index = PineconeIndex(pinecone.api_key, pinecone.host)
        self._queue = sqs
        self._settings = settings_for(store, queues.queue_url, poll_seconds=0.05)
        self.pelican = Pelican(self._settings, sqs)
        fields: dict[str, Any] = {
            "queue_url": queues.queue_url,
            "dlq_url": queues.dlq_url,
            "pinecone_api_key": pinecone.api_key,
            "index_host": pinecone.host,
            "receive_wait_seconds": 0,
            "models": {SMALL: "/nowhere"},
            "drain_seconds": 1,
        }
        self.emu = Emu(
            EmuSettings(**fields),
            queue=EmuQueue(queues.client, queues.queue_url, queues.dlq_url),
            index=self.index,
            embedder=HashEmbedder(),
            open_index=lambda host: PineconeIndex(pinecone.api_key, host),
            load_embedder=lambda name: HashEmbedder(name=name),
        )
        self.threads = [threading.Thread(target=run, daemon=True) for run in (self.pelican.run, self.emu.run)]

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def stop_pelican(self) -> None:
        self.pelican.stop.set()
        self.threads[0].join(20)

    def start_pelican(self) -> None:
        self.pelican = Pelican(self._settings, self._queue)
        self.threads[0] = threading.Thread(target=self.pelican.run, daemon=True)
        self.threads[0].start()

    def stop(self) -> None:
        self.pelican.stop.set()
        self.emu.stop()
        for thread in self.threads:
            thread.join(20)
        self.index.close()

    def run(self, *arguments: str) -> Done:
        return command(self.store, "reindex", *arguments)

    def done(self, *arguments: str) -> str:
        """The output of a command that goes well."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def progress(self) -> Progress:
        with self.store.connect() as connection:
            return reindex.progress_of(connection, "products")

    def in_step(self, source: Source) -> bool:
        """Whether the place holds f(table), and nothing else."""
        with self.store.connect() as connection:
            rows = psycopg.Cursor(connection, row_factory=psycopg.rows.dict_row).execute("TABLE products").fetchall()
        documents = [document for row in rows if (document := render(source, str(row["id"]), row))]
        wanted = {vector_id(document.key): document.text_hash for document in documents}
        ids = list(self.index.ids(source.namespace))
        stored = self.index.fetch(source.namespace, ids) if ids else {}
        return {each: record.metadata["_text_hash"] for each, record in stored.items()} == wanted

    def settled(self, source: Source) -> None:
        wait_until(lambda: self.in_step(source), f"{source.namespace} holds f(table)")


@pytest.fixture
def pipeline(
    store: Store, queues: Queues, pinecone_index: PineconeTestIndex, sqs: SqsQueue, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Pipeline]:
    monkeypatch.setenv("AVIARY_INDEX_HOST", pinecone_index.host)
    monkeypatch.setenv("PINECONE_API_KEY", pinecone_index.api_key)
    monkeypatch.setenv("AVIARY_MODELS", f"{SMALL}=/nowhere")
    monkeypatch.setattr("pelican.reindex_command.AFTER_SWITCH_SECONDS", 0.0)
    monkeypatch.setattr("pelican.reindex_command.SETTLE_SECONDS", 2.0)
    made = Pipeline(store, queues, pinecone_index, sqs)
    store.add_products(60)
    made.start()
    yield made
    made.stop()
    store.execute("CREATE TABLE public.changed ()")  # the next test gets a store of its own


class Writer:
    """Goes on changing rows until it is stopped."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.writes = 0

    def _run(self) -> None:
        with self._store.connect() as connection:
            while not self._stop.wait(0.02):
                self.writes += 1
                key = self.writes % 60 + 1
                if self.writes % 7 == 0:
                    connection.execute("DELETE FROM products WHERE id = %s", (key,))
                else:
                    connection.execute(
                        "INSERT INTO products (id, sku, name, category) VALUES (%s, %s, %s, 'Kitchen') "
                        "ON CONFLICT (id) DO UPDATE SET name = excluded.name",
                        (key, f"sku-{key}", f"Written {self.writes}"),
                    )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        assert self.writes > 0


def test_a_reindex_from_start_to_drop_while_writes_go_on(pipeline: Pipeline) -> None:
    with Writer(pipeline.store):
        pipeline.done("start", "--source", "products", "--template", "{category}: {name}", "--model", SMALL, "--wait")
        built = pipeline.progress()
        assert (built.other.state, built.filled) == (READY, True)
        compared = json.loads(pipeline.done("compare", "--source", "products", "--sample", "20", "--json"))
        assert (compared["active"]["namespace"], compared["other"]["namespace"]) == ("products", "products--2")
        assert 0 <= compared["overlap"] <= 1
        assert "searched in products--2" in pipeline.done("switch", "--source", "products")
        assert "already" in pipeline.done("switch", "--source", "products"), "run again, it changes nothing"
    new, old = pipeline.progress().source, pipeline.progress().other.source
    assert (new.text_template, new.model, old.namespace) == ("{category}: {name}", SMALL, "products")
    pipeline.settled(new)
    pipeline.settled(old)
    assert "searched in products\n" in pipeline.done("rollback", "--source", "products")
    assert "nothing to roll back" in pipeline.done("rollback", "--source", "products")
    pipeline.done("switch", "--source", "products")
    with Writer(pipeline.store):
        assert "products--2 alone" in pipeline.done("drop", "--source", "products")
    assert pipeline.index.count("products") == 0
    pipeline.settled(new)
    assert list(pipeline.index.ids("products")) == [], "nothing arrived in the place after it was emptied"
    assert pipeline.done("status").strip() == "no source has another place in the index"


def test_a_place_that_is_not_wanted_any_more_is_emptied_and_forgotten(pipeline: Pipeline) -> None:
    pipeline.done("start", "--source", "products", "--wait")
    assert "products--2 is dropped" in pipeline.done("cancel", "--source", "products")
    assert pipeline.index.count("products--2") == 0
    with pytest.raises(Exception, match="in products only"):
        pipeline.progress()
    done = pipeline.run("cancel", "--source", "products")
    assert (done.returncode, "`reindex start --source products`" in done.stderr) == (2, True)


def test_a_switch_to_a_place_that_lacks_rows_is_refused_and_says_which(pipeline: Pipeline) -> None:
    pipeline.done("start", "--source", "products", "--template", "{name}", "--wait")
    place = pipeline.progress().other.source
    pipeline.index.delete(place.namespace, ["7"])
    done = pipeline.run("switch", "--source", "products")
    assert done.returncode == 1
    assert "60 rows have text, and it holds 59 vectors" in done.stderr
    assert "1 of 60 sampled rows are not there as they are now: '7'" in done.stderr
    assert pipeline.progress().source.namespace == "products"
    assert "searched in products--2" in pipeline.done("switch", "--source", "products", "--force")


def test_a_switch_before_the_filling_is_done_is_refused(pipeline: Pipeline) -> None:
    pipeline.stop_pelican()
    pipeline.done("start", "--source", "products", "--template", "{name}")
    done = pipeline.run("switch", "--source", "products")
    assert (done.returncode, "0 of about" in done.stderr) == (1, True)
    report = json.loads(pipeline.done("status", "--json"))[0]
    assert (report["state"], report["filled"], report["other"]["vectors"]) == (BUILDING, False, 0)
    assert "0 of about" in pipeline.done("status")


def test_a_switch_waits_for_what_one_that_was_killed_has_left_in_the_outbox(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.done("start", "--source", "products", "--template", "{name}", "--wait")
    pipeline.stop_pelican()

    class Killed(BaseException):
        pass

    def killed(_: str) -> None:
        if pipeline.progress().waiting:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("pelican.reindex_command.Telling", lambda: killed)
        with pytest.raises(Killed):
            pipeline.run("switch", "--source", "products")
    done = pipeline.run("switch", "--source", "products", "--within", "0.5")
    assert (done.returncode, f"{arrival.SHARDS} keys had not been sent to it" in done.stderr) == (1, True), done.stderr
    assert pipeline.progress().source.namespace == "products"
    looked = threading.Event()
    monkeypatch.setattr("pelican.reindex_command.Telling", lambda: lambda _: looked.set())

    def restart() -> None:
        assert looked.wait(20)
        pipeline.start_pelican()

    restarting = threading.Thread(target=restart)
    restarting.start()
    assert "searched in products--2" in pipeline.done("switch", "--source", "products")
    restarting.join(20)


def test_what_is_still_in_the_queue_for_a_place_keeps_it_from_being_dropped(pipeline: Pipeline) -> None:
    pipeline.done("start", "--source", "products", "--template", "{name}", "--wait")
    pipeline.emu.stop()
    pipeline.threads[1].join(20)
    pipeline.store.execute("UPDATE products SET name = 'Late'")
    done = pipeline.run("cancel", "--source", "products", "--within", "1")
    assert (done.returncode, "still on its way (16 of 16 shards)" in done.stderr) == (1, True)
    assert pipeline.progress().other.state == DROPPING
    pipeline.emu = Emu(pipeline.emu._settings, queue=pipeline.emu._queue, index=pipeline.index, embedder=HashEmbedder())
    pipeline.threads[1] = threading.Thread(target=pipeline.emu.run, daemon=True)
    pipeline.threads[1].start()
    pipeline.done("cancel", "--source", "products")
    assert pipeline.index.count("products--2") == 0


def test_markers_of_a_wait_that_was_killed_are_taken_away(store: Store, pinecone_index: PineconeTestIndex) -> None:
    with store.connect() as owner, PineconeIndex(pinecone_index.api_key, pinecone_index.host) as index:
        prepare(owner)
        reindex.start(owner, source_named(owner, "products"))
        place = reindex.progress_of(owner, "products").other.source

        def killed(_: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            arrival.wait_until_arrived(owner, index, place, dimension=384, seconds=30, report=killed)
        assert index.count(place.namespace) == arrival.SHARDS
        arrival.clean_up(owner, index, place)
        assert index.count(place.namespace) == 0
        assert store.value("SELECT marker FROM sync.reindex") is None
        left = arrival.wait_until_arrived(owner, index, place, dimension=384, seconds=0.5, report=lambda _: None)
        assert left == arrival.SHARDS, "no Pelican runs"
    store.execute("CREATE TABLE public.changed ()")


def test_what_cannot_be_is_said_before_anything_is_made(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text('{"hidden_size": 768}')
    monkeypatch.setenv("AVIARY_MODELS", f"large={tmp_path}")
    for arguments, says in (
        (("--model", "huge"), "'huge' is not known here, only all-MiniLM-L6-v2, large"),
        (("--model", "large"), "makes vectors of 768 numbers, and the index in use holds vectors of 384"),
        (("--index", "https://example.com"), "is neither Pinecone's"),
        (("--index", pipeline._settings.queue_url), "is neither Pinecone's"),
        (("--template", "{nothing}"), "no column 'nothing'"),
        (("--template", "{}"), "is not a plain column name"),
    ):
        done = pipeline.run("start", "--source", "products", *arguments)
        assert (done.returncode, says in done.stderr) == (2, True), done.stderr
    host = pipeline.emu._settings.index_host.rsplit("/", 1)[0] + f"/none-{uuid.uuid4().hex[:6]}"
    done = pipeline.run("start", "--source", "products", "--index", host)
    assert (done.returncode, "does not answer" in done.stderr) == (2, True), done.stderr
    assert pipeline.done("status").strip() == "no source has another place in the index"


def test_both_places_are_asked_the_same_questions(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pelican.reindex_command._embedder", lambda _settings, model: HashEmbedder(name=model))
    pipeline.done("start", "--source", "products", "--template", "{name}", "--wait")
    # With an embedder without meaning only the very text finds its row.
    questions = tmp_path / "queries.tsv"
    questions.write_text("Bottle 7\t7\nBottle 8\t8\t9\n\nBottle 9\t9\n")
    compared = json.loads(
        pipeline.done("compare", "--source", "products", "--queries", str(questions), "--sample", "5", "--json")
    )
    assert compared["queries"] == 3
    assert compared["other"]["hits"] == 1.0
    assert compared["active"]["hits"] < 1.0
    table = pipeline.done("compare", "--source", "products", "--queries", str(questions), "--sample", "5")
    assert "1.000" in next(line for line in table.splitlines() if line.startswith("hits at 5, 3 queries"))
    questions.write_text("no key\n")
    done = pipeline.run("compare", "--source", "products", "--queries", str(questions))
    assert (done.returncode, "queries.tsv:1 is not a query" in done.stderr) == (2, True)


def test_an_index_that_does_not_answer_costs_a_sentence_and_no_step(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.done("start", "--source", "products", "--wait")
    monkeypatch.setenv("AVIARY_INDEX_HOST", "http://127.0.0.2:9")
    done = pipeline.run("switch", "--source", "products")
    assert (done.returncode, "run the same step again" in done.stderr) == (2, True), done.stderr
    assert pipeline.progress().other.state == READY
