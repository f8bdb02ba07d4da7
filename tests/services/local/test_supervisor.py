"""The supervisor with real child processes."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from local import supervisor as module
from local.supervisor import Reporter, Service, Spec, StartError, Step, Supervisor, end_leftovers
from tests.services.local.helpers import wait_until

ROOT = Path(__file__).parents[3]
# Says that it is ready by a file with its pid, and sleeps.
STAYS = "import os, pathlib, time; pathlib.Path('new').write_text(str(os.getpid())); os.rename('new', 'ready'); time.sleep(60)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + STAYS


class Notes(Reporter):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, str]] = []
        self.losses: list[tuple[str, str, float]] = []
        self.stops: list[list[str]] = []

    def changed(self, service: Service) -> None:
        self.changes.append((service.spec.name, service.state))

    def lost(self, service: Service, why: str, pause_seconds: float) -> None:
        self.losses.append((service.spec.name, why, pause_seconds))

    def stopping(self, services: Sequence[Service]) -> None:
        self.stops.append([service.spec.name for service in services])


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> Notes:
    monkeypatch.setattr(module, "READY_POLL_SECONDS", 0.005)
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.02)
    return Notes()


def spec(
    folder: Path,
    name: str,
    code: str = STAYS,
    *,
    needs: tuple[str, ...] = (),
    stage: int = 0,
    stop_seconds: float = 10.0,
    prepare: Callable[[], None] | None = None,
    alive: Callable[[], bool] | None = None,
) -> Spec:
    place = folder / name
    place.mkdir(exist_ok=True)
    return Spec(
        name=name,
        command=[sys.executable, "-I", "-S", "-c", code],
        folder=place,
        log=place / "log",
        ready=(place / "ready").exists,
        needs=needs,
        stage=stage,
        stop_seconds=stop_seconds,
        prepare=prepare,
        alive=alive,
    )


def pid(folder: Path, name: str) -> int:
    return int((folder / name / "ready").read_text())


def run(
    notes: Notes,
    specs: Sequence[Spec],
    steps: Sequence[Step] = (),
    then: Callable[[Supervisor], Awaitable[object]] | None = None,
) -> Supervisor:
    """Start all, do `then`, stop all."""

    async def life() -> Supervisor:
        supervisor = Supervisor(specs, steps, notes)
        try:
            await supervisor.start()
            if then is not None:
                await then(supervisor)
        finally:
            await supervisor.stop()
        return supervisor

    return asyncio.run(asyncio.wait_for(life(), 30))


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        await asyncio.sleep(0.005)


def test_a_thing_starts_once_what_it_needs_is_there(tmp_path: Path, notes: Notes) -> None:
    ran: list[list[tuple[str, str]]] = []
    specs = [spec(tmp_path, "c", needs=("migrate",)), spec(tmp_path, "b", needs=("a",)), spec(tmp_path, "a")]
    steps = [Step(name="migrate", run=lambda: ran.append(list(notes.changes)), needs=("a",))]
    supervisor = run(notes, specs, steps)
    order = notes.changes.index
    assert order(("a", "ready")) < min(order(("b", "starting")), order(("c", "starting")))
    assert ("a", "ready") in ran[0]
    assert ("c", "starting") not in ran[0]
    assert [service.state for service in supervisor.services] == ["stopped"] * 3
    assert not any(psutil.pid_exists(pid(tmp_path, name)) for name in "abc")


def test_a_process_that_dies_starts_again_and_the_loss_is_told(tmp_path: Path, notes: Notes) -> None:
    async def kill(supervisor: Supervisor) -> None:
        first = pid(tmp_path, "a")
        (tmp_path / "a" / "ready").unlink()
        psutil.Process(first).kill()
        await until(lambda: notes.changes.count(("a", "ready")) == 2)
        assert pid(tmp_path, "a") == supervisor.services[0].pid != first

    supervisor = run(notes, [spec(tmp_path, "a")], then=kill)
    assert notes.losses == [("a", "killed by SIGKILL", 0.02)]
    assert supervisor.services[0].restarts == 1


def test_pauses_grow_while_it_keeps_dying_up_to_a_limit(
    tmp_path: Path, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST_PAUSE_SECONDS", 0.05)
    dies = "import pathlib, sys; pathlib.Path('ready').touch(); sys.exit(3)"
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "ready").touch()
    run(notes, [spec(tmp_path, "a", dies)], then=lambda _: until(lambda: len(notes.losses) == 4))
    assert notes.losses == [("a", "exit status 3", pause) for pause in (0.02, 0.04, 0.05, 0.05)]


def test_pauses_start_anew_after_it_stayed_up(tmp_path: Path, notes: Notes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEADY_SECONDS", 0.0)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "ready").touch()
    run(notes, [spec(tmp_path, "a", "raise SystemExit(1)")], then=lambda _: until(lambda: len(notes.losses) == 3))
    assert [pause for _, _, pause in notes.losses] == [0.02] * 3


def test_what_does_not_start_is_given_up_with_the_last_line_of_its_log(tmp_path: Path, notes: Notes) -> None:
    bad = spec(tmp_path, "b", "import sys; sys.exit('no such table')")
    with pytest.raises(StartError, match=r"b did not start \(exit status 1\): no such table \(log: .*/b/log\)"):
        run(notes, [spec(tmp_path, "a"), bad])
    assert len(notes.losses) == module.START_ATTEMPTS - 1
    assert not psutil.pid_exists(pid(tmp_path, "a")), "what had started was stopped"


def test_what_is_never_ready_is_given_up_too(tmp_path: Path, notes: Notes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "START_SECONDS", 0.05)
    with pytest.raises(StartError, match="a did not start"):
        run(notes, [spec(tmp_path, "a", "import time; time.sleep(60)")])


def test_the_error_of_a_step_is_the_error_of_the_start(tmp_path: Path, notes: Notes) -> None:
    def fail() -> None:
        raise StartError("the migration failed")

    with pytest.raises(StartError, match="the migration failed"):
        run(notes, [spec(tmp_path, "a", needs=("step",))], [Step(name="step", run=fail)])


def test_a_failure_to_prepare_stops_a_start_but_not_a_restart(tmp_path: Path, notes: Notes) -> None:
    outcomes = iter([None, StartError("disk full"), None])

    def prepare() -> None:
        outcome = next(outcomes)
        if outcome is not None:
            raise outcome

    async def kill(_: Supervisor) -> None:
        process = psutil.Process(pid(tmp_path, "a"))
        (tmp_path / "a" / "ready").unlink()
        process.kill()
        await until(lambda: notes.changes.count(("a", "ready")) == 2)

    run(notes, [spec(tmp_path, "a", prepare=prepare)], then=kill)
    assert [why for _, why, _ in notes.losses] == ["killed by SIGKILL", "disk full"]
    outcomes = iter([StartError("no room")])
    with pytest.raises(StartError, match="no room"):
        run(notes, [spec(tmp_path, "b", prepare=prepare)])


def test_a_process_that_shows_no_life_is_killed_and_starts_again(
    tmp_path: Path, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ALIVE_EVERY_SECONDS", 0.01)
    answers = iter([True, False, True, False, False, False])
    stuck = spec(tmp_path, "a", DEAF, alive=lambda: next(answers, True))
    run(notes, [stuck], then=lambda _: until(lambda: notes.changes.count(("a", "ready")) == 2))
    assert [why for _, why, _ in notes.losses] == ["stuck: no sign of life 3 times in a row"]


def test_a_process_that_starts_again_in_an_outage_of_others_is_left_to_wait_while_it_lives(
    tmp_path: Path, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = threading.Event()
    asked: list[bool] = []

    def alive() -> bool:
        asked.append(outage.is_set())
        return True

    def ready() -> bool:
        return (tmp_path / "a" / "ready").exists() and not outage.is_set()

    async def kill(_: Supervisor) -> None:
        monkeypatch.setattr(module, "START_SECONDS", 0.01)
        monkeypatch.setattr(module, "ALIVE_EVERY_SECONDS", 0.01)
        outage.set()
        psutil.Process(pid(tmp_path, "a")).kill()
        await until(lambda: asked.count(True) > 3)
        outage.clear()
        await until(lambda: notes.changes.count(("a", "ready")) == 2)

    run(notes, [replace(spec(tmp_path, "a", alive=alive), ready=ready)], then=kill)
    assert [why for _, why, _ in notes.losses] == ["killed by SIGKILL"]


def test_stopping_goes_by_stage_and_kills_what_does_not_hear(tmp_path: Path, notes: Notes) -> None:
    specs = [spec(tmp_path, "a"), spec(tmp_path, "b", stage=2), spec(tmp_path, "c", DEAF, stage=1, stop_seconds=0.05)]
    specs.append(spec(tmp_path, "d", stage=2))
    run(notes, specs)
    assert notes.stops == [["b", "d"], ["c"], ["a"]]
    ends = [name for name, state in notes.changes if state == "stopped"]
    assert sorted(ends[:2]) == ["b", "d"]
    assert ends[2:] == ["c", "a"]
    assert not any(psutil.pid_exists(pid(tmp_path, name)) for name in "abcd")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the next `up` ends what was left")
def test_nothing_outlives_a_supervisor_that_was_killed(tmp_path: Path) -> None:
    program = f"""
import asyncio, pathlib, sys
from local.supervisor import Reporter, Spec, Supervisor
folder = pathlib.Path({str(tmp_path)!r})
specs = [
    Spec(name=name, command=[sys.executable, "-c", {DEAF!r}], folder=folder / name, log=folder / "log",
         ready=(folder / name / "ready").exists)
    for name in ("a", "b")
]
async def main():
    supervisor = Supervisor(specs, [], Reporter())
    await supervisor.start()
    (folder / "up").touch()
    await asyncio.sleep(60)
asyncio.run(main())
"""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT) as process:
        wait_until((tmp_path / "up").exists)
        children = [psutil.Process(pid(tmp_path, name)) for name in ("a", "b")]
        process.kill()
    gone, alive = psutil.wait_procs(children, timeout=5)
    assert (len(gone), alive) == (2, [])


def test_leftovers_are_ended_but_not_a_stranger_that_has_their_pid(tmp_path: Path) -> None:
    with (
        subprocess.Popen([sys.executable, "-c", DEAF], cwd=tmp_path) as deaf,
        subprocess.Popen(["sleep", "60"]) as other,
    ):
        try:
            wait_until((tmp_path / "ready").exists)
            created = {process.pid: psutil.Process(process.pid).create_time() for process in (deaf, other)}
            entries = [
                {"name": "emu", "pid": deaf.pid, "created": created[deaf.pid]},
                {"name": "gone", "pid": 2**22 + 1, "created": 1.0},
                {"name": "reused", "pid": other.pid, "created": created[other.pid] - 100},
            ]
            assert end_leftovers(entries, limit_seconds=0.1) == ["emu"]
            assert not psutil.pid_exists(deaf.pid)
            assert other.poll() is None
        finally:
            deaf.kill()
            other.kill()
