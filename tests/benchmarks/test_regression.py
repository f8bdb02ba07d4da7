"""What CI's check of the hot paths counts."""

import sys
import threading

import pytest

from benchmarks.regression import calls


def test_calls_are_counted_in_this_thread_and_in_those_that_the_work_starts() -> None:
    def inner() -> None:
        for number in range(100):
            abs(number)

    def threaded() -> None:
        thread = threading.Thread(target=inner)
        thread.start()
        thread.join(20)

    assert 101 <= calls(inner) < 130
    assert calls(inner) <= calls(threaded) < 300
    assert calls(inner) == calls(inner)


def test_nothing_is_counted_any_more_when_the_work_fails() -> None:
    def fail() -> None:
        raise ValueError("none")

    with pytest.raises(ValueError, match="none"):
        calls(fail)
    assert sys.getprofile() is None
    assert threading.getprofile() is None
