"""Two Emus with the same message: whatever the first one had on the wire when it was stopped, no old state comes back.

Real processes and real signals. What these tests cannot make is a request that travels for longer than the lease had
left; docs/decisions/0020 says what happens then.
"""

import signal
from collections.abc import Callable

import pytest

from aviary.messages import Change
from tests.services.emu.helpers import Bench, EmuProcess, batch, delete, upsert, wait_until

Start = Callable[..., EmuProcess]


def arrived(bench: Bench, operation: str) -> int:
    return bench.pinecone.counts().get(operation, {"requests": 0})["requests"]


def finished(bench: Bench) -> bool:
    """Another Emu has done all that the queue gives."""
    bench.work()
    return bench.left() == 0


@pytest.mark.parametrize(
    ("old", "newer"),
    [
        (upsert("1", 2, "old"), upsert("1", 3, "new")),
        (upsert("1", 2, "old"), delete("1", 3)),
        (delete("1", 2), upsert("1", 3, "new")),
    ],
    ids=["upsert-upsert", "upsert-delete", "delete-upsert"],
)
def test_a_write_that_is_on_the_wire_when_its_emu_is_stopped_does_not_follow_a_newer_one(
    bench: Bench, start_emu: Start, old: Change, newer: Change
) -> None:
    operation = old.op
    bench.send(batch(upsert("1", 1, "first")))
    bench.work()
    before = arrived(bench, operation)
    # The stand-in holds the request for less than the margin that the lease had left when it was sent.
    bench.pinecone.faults(operation=operation, count=1, outcome="pass", delay_ms=700)
    stopped = start_emu(visibility_seconds=3)
    bench.send(batch(old))
    wait_until(lambda: arrived(bench, operation) > before, "its write is on the wire")
    stopped.process.send_signal(signal.SIGSTOP)
    bench.send(batch(newer))
    wait_until(lambda: finished(bench), "the lease ends, and another Emu does the old message and the newer one")
    expected = {"1": 3} if newer.op == "upsert" else {}
    assert bench.stored() == expected
    writes = arrived(bench, "upsert") + arrived(bench, "delete")
    stopped.process.send_signal(signal.SIGCONT)
    wait_until(lambda: stopped.stats()["units"] == 0, "the first Emu has given up")
    assert bench.stored() == expected
    assert arrived(bench, "upsert") + arrived(bench, "delete") == writes, "it must not even try"
    assert stopped.stats()["acknowledged"] == 0
    bench.send(batch(upsert("1", 4, "newest")))
    stopped.wait_for(acknowledged=1)
    assert bench.stored() == {"1": 4}
    assert bench.dead_bodies() == []
