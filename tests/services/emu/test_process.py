"""`python -m emu` as a real process: killed, stopped, told to end; its health endpoints, metrics, memory."""

import signal
from collections.abc import Callable

import httpx
import numpy as np
import psutil

from aviary.embedder import Embedder
from tests.services.emu.helpers import Bench, EmuProcess, batch, delete, upsert, upsert_of_row, wait_until

Start = Callable[..., EmuProcess]


def requests(bench: Bench, operation: str) -> int:
    return bench.pinecone.counts().get(operation, {"requests": 0})["requests"]


def test_a_process_stopped_for_longer_than_its_lease_brings_no_old_version_back(bench: Bench, start_emu: Start) -> None:
    bench.pinecone.faults(operation="upsert", status=503)
    emu = start_emu(visibility_seconds=2)
    bench.send(batch(upsert("1", 1, "old")))
    wait_until(lambda: requests(bench, "upsert") >= 2, "it tries to write")
    emu.process.send_signal(signal.SIGSTOP)
    bench.pinecone.server.clear_faults()

    def taken_over() -> bool:
        bench.work()
        return bench.stored() == {"1": 1}

    wait_until(taken_over, "the lease ends and another Emu has the message")
    bench.send(batch(upsert("1", 2, "new")))
    bench.work()
    before = requests(bench, "upsert")
    emu.process.send_signal(signal.SIGCONT)
    emu.wait_for(leases_lost=1)
    assert bench.stored() == {"1": 2}
    assert requests(bench, "upsert") == before, "it must not even try"
    bench.send(batch(upsert("1", 3, "newer")))
    emu.wait_for(upserted=1)
    assert bench.stored() == {"1": 3}
    assert bench.dead_bodies() == []


def test_what_a_killed_process_had_in_work_is_done_by_the_next(bench: Bench, start_emu: Start) -> None:
    bench.pinecone.faults(operation="upsert", count=1, outcome="hang", applied=True)
    killed = start_emu(visibility_seconds=2)
    bench.send(batch(upsert("1", 1), upsert("2", 1)), batch(delete("2", 2)))
    wait_until(lambda: requests(bench, "upsert") == 1, "it writes")
    killed.process.kill()
    start_emu(visibility_seconds=2)
    wait_until(lambda: bench.left() == 0, "all is acknowledged")
    assert bench.stored() == {"1": 1}
    assert bench.dead_bodies() == []


def test_sigterm_ends_an_idle_process_soon_and_cleanly(start_emu: Start) -> None:
    emu = start_emu()
    emu.process.terminate()
    assert emu.process.wait(5) == 0
    assert emu.events()[-1]["event"] == "stopped"


def test_sigterm_lets_the_unit_in_work_end_and_acknowledges_it(bench: Bench, start_emu: Start) -> None:
    bench.pinecone.faults(operation="upsert", count=1, outcome="pass", delay_ms=1_500)
    emu = start_emu()
    bench.send(batch(upsert("1", 1)))
    wait_until(lambda: emu.stats()["units"] == 1, "the unit is in work")
    emu.process.terminate()
    assert emu.process.wait(10) == 0
    assert bench.stored() == {"1": 1}
    assert bench.left() == 0


def test_sigterm_during_an_outage_gives_the_messages_back_at_once(bench: Bench, start_emu: Start) -> None:
    bench.pinecone.faults(operation="upsert", status=503)
    emu = start_emu()
    bench.send(batch(upsert("1", 1)))
    bench.send("not json", group="1-4")
    wait_until(lambda: emu.stats()["retries"] and emu.stats()["poisoned"], "it tries to write")
    emu.process.terminate()
    assert emu.process.wait(10) == 0
    bench.pinecone.server.clear_faults()
    bench.work()
    assert bench.stored() == {"1": 1}
    assert bench.left() == 0
    assert len(bench.dead_letters()) == 1


def test_a_drain_is_bounded_and_what_hangs_comes_back_when_its_lease_ends(bench: Bench, start_emu: Start) -> None:
    bench.pinecone.faults(operation="upsert", outcome="hang")
    emu = start_emu(drain_seconds=1, visibility_seconds=3)
    bench.send(batch(upsert("1", 1)))
    wait_until(lambda: requests(bench, "upsert") == 1, "it writes")
    emu.process.terminate()
    assert emu.process.wait(6) == 0
    bench.pinecone.server.clear_faults()
    bench.work()
    assert bench.stored() == {}, "a write may be on its way: nobody else may start yet"

    def taken_over() -> bool:
        bench.work()
        return bench.stored() == {"1": 1}

    wait_until(taken_over, "the lease ends and another Emu has the message")


def test_an_embedding_without_end_does_not_hold_the_process_up_and_its_messages_are_free_at_once(
    bench: Bench, start_emu: Start
) -> None:
    emu = start_emu(embedder="EndlessEmbedder", drain_seconds=0.5)
    bench.send(batch(upsert("1", 1)))
    wait_until(lambda: emu.stats()["units"] == 1, "the unit is in work")
    emu.process.terminate()
    assert emu.process.wait(6) == 0
    bench.work()
    assert bench.stored() == {"1": 1}


def test_health_readiness_and_counters_are_served_and_logs_hold_no_contents(bench: Bench, start_emu: Start) -> None:
    emu = start_emu()
    wait_until(lambda: httpx.get(f"{emu.health}/readyz").status_code == 200, "it is ready")
    assert httpx.get(f"{emu.health}/readyz").json() == {"queue": "ok", "index": "ok"}
    assert httpx.get(f"{emu.health}/healthz").json() == {"status": "ok"}
    bench.send(batch(upsert("secret-key", 1, "secret text", metadata={"name": "secret name"})), '{"secret": "body"}')
    emu.wait_for(acknowledged=2)
    stats = emu.stats()
    assert (stats["received"], stats["upserted"], stats["embedded"], stats["poisoned"]) == (2, 1, 1, 1)
    assert 0 <= stats["freshness_ms"]["p50"] <= stats["freshness_ms"]["p99"] < 60_000
    emu.process.terminate()
    assert emu.process.wait(10) == 0
    (metrics,) = emu.events("metrics")
    assert (metrics["RowsUpserted"], metrics["RowsEmbedded"], metrics["RowsPoisoned"]) == (1, 1, 1)
    assert metrics["FreshnessP99"] >= metrics["FreshnessP50"] >= 0
    assert "secret" not in emu.log_path.read_text()
    assert bench.pinecone.api_key not in emu.log_path.read_text()


def test_the_real_model_is_loaded_once_means_what_the_text_says_and_fits_in_400_mb(
    bench: Bench, start_emu: Start
) -> None:
    emu = start_emu(embedder="real")
    long = "A vacuum flask keeps soup hot for hours. " * 25_000
    rows = {
        "flask": ("Vacuum flask", "Keeps soup hot until lunch"),
        "lamp": ("Desk lamp", "Bright light for reading"),
        "long": ("Long", long),
    }
    assert len(long) > 1_000_000
    bench.send(batch(*(upsert_of_row(key, 1, *texts) for key, texts in rows.items())))
    for n in range(5):
        changes = (upsert(f"{n}-{row}", 1, f"Product {n} {row}: " + "words " * (row * 4)) for row in range(60))
        bench.send(batch(*changes, lane="backfill"), group=f"1-{n}")
    wait_until(lambda: bench.left() == 0, "all is indexed", 60)
    reference = Embedder("f32").embed(
        ["Vacuum flask. Keeps soup hot until lunch", "Desk lamp. Bright light for reading"]
    )
    assert float(bench.vector("flask") @ reference[0]) > 0.999
    assert float(bench.vector("lamp") @ reference[1]) > 0.999
    assert np.isclose(np.linalg.norm(bench.vector("long")), 1, atol=1e-4)
    assert bench.index.query("products", bench.vector("flask"), 3)[1].id == "long"
    memory = psutil.Process(emu.process.pid).memory_info().rss / 2**20
    print(f"resident: {memory:.0f} MB")
    assert memory <= 400
    assert bench.pinecone.counts()["upsert"]["requests"] > 1, "it worked on several units"
    assert len(emu.events("model_loaded")) == 1
