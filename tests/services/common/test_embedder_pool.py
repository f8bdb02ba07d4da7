"""The threads that infer."""

import gc
import subprocess
import sys
import threading
import weakref

import pytest

from aviary.embedder_pool import Pool


def held(pool: Pool) -> tuple[threading.Event, threading.Thread]:
    """Keep the pool's only thread busy until the event is set."""
    entered, go = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        entered.set()
        assert go.wait(20)

    thread = threading.Thread(target=pool.each, args=(hold, [None]), kwargs={"urgent": True})
    thread.start()
    assert entered.wait(20)
    return go, thread


def test_what_is_urgent_goes_before_what_waited_longer() -> None:
    pool, order = Pool(1), list[str]()
    go, holder = held(pool)
    threads = []
    for number, (name, urgent) in enumerate((("backfill", False), ("live", True), ("another", True)), 1):
        threads.append(threading.Thread(target=pool.each, args=(order.append, [name]), kwargs={"urgent": urgent}))
        threads[-1].start()
        while pool._tasks.qsize() < number:
            threading.Event().wait(0.001)
    go.set()
    for thread in (holder, *threads):
        thread.join(20)
    assert order == ["live", "another", "backfill"]


def test_a_failure_reaches_whoever_asked_and_the_rest_is_done() -> None:
    done: list[int] = []

    def work(number: int) -> None:
        if number == 1:
            raise ValueError("one")
        done.append(number)

    pool = Pool(2)
    with pytest.raises(ValueError, match="one"):
        pool.each(work, [0, 1, 2], urgent=False)
    assert sorted(done) == [0, 2]
    pool.each(work, [3], urgent=True)
    assert sorted(done) == [0, 2, 3]


def test_a_thread_that_waits_keeps_nothing_alive_that_it_worked_on() -> None:
    class Model:
        def __init__(self) -> None:
            self.pool = Pool(2)

        def infer(self, _: int) -> None:
            pass

    model = Model()
    model.pool.each(model.infer, range(8), urgent=True)
    gone = threading.Event()
    weakref.finalize(model, gone.set)
    del model
    assert gone.wait(20)


def test_its_threads_have_ended_when_the_interpreter_ends() -> None:
    program = """
import atexit, threading
from aviary.embedder_pool import Pool

def left():
    print([thread.name for thread in threading.enumerate() if thread.name.startswith("embedder")])

atexit.register(left)
pool = Pool(2)
pool.each(lambda _: None, range(20), urgent=True)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_its_threads_end_when_nobody_has_it_any_more() -> None:
    pool, threads = Pool(2), list[threading.Thread]()
    pool.each(lambda _: threads.append(threading.current_thread()), range(20), urgent=True)
    del pool
    gc.collect()
    for thread in set(threads):
        thread.join(20)
        assert not thread.is_alive()
