"""Live changes get the model first."""

import threading

import pytest

from emu.turns import Turns
from tests.services.emu.helpers import wait_until


def test_live_work_goes_before_a_backfill_that_waited_longer() -> None:
    turns, order = Turns(), list[str]()

    def work(name: str, *, live: bool) -> None:
        with turns.turn(live=live):
            order.append(name)

    threads = []
    with turns.turn(live=False):
        for name, live in (("backfill", False), ("live", True), ("another", True)):
            threads.append(threading.Thread(target=work, args=(name,), kwargs={"live": live}))
            threads[-1].start()
        wait_until(lambda: turns._live_waiting == 2, "both live ones wait")
    for thread in threads:
        thread.join(20)
    assert sorted(order[:2]) == ["another", "live"]
    assert order[2] == "backfill"


def test_a_turn_that_fails_is_over() -> None:
    turns = Turns()
    with pytest.raises(TimeoutError), turns.turn(live=True):
        raise TimeoutError
    with turns.turn(live=False):
        pass
