"""The kinds of faults: what each does to the running stack, and how it is taken back."""

import contextlib
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import psycopg

from chaos.plan import OUTAGE_SECONDS, Injection, Kind
from chaos.world import EMUS, PELICANS, World

CLOCK_STEPS_SECONDS = (-3600, -120, -30, 30, 120, 3600)
# What the stand-in may still write when its disk "fills up": a part of one record.
ROOM_BYTES = 700
# Not so often that a message is received ten times, which is what a dead letter is made of.
LEASE_ENDS_EVERY_SECONDS = 0.3
WRITES = ("upsert", "delete")

Run = Callable[[World, Injection], AbstractContextManager[None]]


@contextlib.contextmanager
def _nothing_to_take_back() -> Iterator[None]:
    yield


def _name(service: str, injection: Injection) -> str:
    count = {"pelican": PELICANS, "emu": EMUS}.get(service)
    return service if count is None else f"{service}-{injection.target % count + 1}"


def _killed(service: str) -> Run:
    def run(world: World, injection: Injection) -> AbstractContextManager[None]:
        world.kill(_name(service, injection))
        return _nothing_to_take_back()

    return run


def _stopped(service: str) -> Run:
    @contextlib.contextmanager
    def run(world: World, injection: Injection) -> Iterator[None]:
        name = _name(service, injection)
        world.await_ready([name])
        world.signal(name, signal.SIGSTOP)
        try:
            yield
        finally:
            world.signal(name, signal.SIGCONT)

    return run


def _postgres(how: signal.Signals) -> Run:
    def run(world: World, _: Injection) -> AbstractContextManager[None]:
        world.await_ready(["postgres"])
        world.kill("postgres", how)
        return _nothing_to_take_back()

    return run


def _sessions_cut(world: World, _: Injection) -> AbstractContextManager[None]:
    with psycopg.connect(world.state["postgres_dsn"], autocommit=True, connect_timeout=5) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename IN ('aviary_pelican', 'aviary_frontend')"
        )
    return _nothing_to_take_back()


@contextlib.contextmanager
def _queue_lost(world: World, injection: Injection) -> Iterator[None]:
    # With Emu held still, messages gather: else there would hardly be anything to lose.
    with contextlib.ExitStack() as emus:
        for number in range(EMUS):
            emus.enter_context(_stopped("emu")(world, injection._replace(target=number)))
        yield
        world.lose_queue = True
        world.kill("sqs")
        world.await_ready(["sqs"])


def _queue_fault(outcome: str, *actions: str, probability: float = 1.0) -> Run:
    @contextlib.contextmanager
    def run(world: World, injection: Injection) -> Iterator[None]:
        body = {"outcome": outcome, "actions": actions, "probability": probability, "seed": injection.seed}
        world.await_ready(["sqs"])
        world.queue("POST", "/_faults", {**body, "seconds": injection.seconds})
        yield

    return run


@contextlib.contextmanager
def _leases_end(world: World, _: Injection) -> Iterator[None]:
    ended = threading.Event()

    def end_leases() -> None:
        while not ended.wait(LEASE_ENDS_EVERY_SECONDS):
            with contextlib.suppress(OSError):
                world.queue("POST", "/_leases/end")

    thread = threading.Thread(target=end_leases)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _pinecone(*bodies: dict[str, object]) -> Run:
    @contextlib.contextmanager
    def run(world: World, injection: Injection) -> Iterator[None]:
        world.await_ready(["pinecone"])
        for body in bodies:
            world.pinecone("POST", "/_faults", {"seconds": injection.seconds, "seed": injection.seed, **body})
        yield

    return run


@contextlib.contextmanager
def _late_visibility(world: World, _: Injection) -> Iterator[None]:
    path = f"/_visibility/{world.state['index']}"
    world.await_ready(["pinecone"])
    world.pinecone("PUT", path, {"delay_ms": 2_000})
    try:
        yield
    finally:
        world.await_ready(["pinecone"])
        world.pinecone("PUT", path, {"delay_ms": 0})


@contextlib.contextmanager
def _disk_full(world: World, _: Injection) -> Iterator[None]:
    """The file size limit of the process is lowered to what its log has now: a write is cut short in the middle of a
    record and then fails, as on a full disk (with EFBIG in the place of ENOSPC)."""
    world.await_ready(["pinecone"])
    pid = next(service.pid for service in world.services if service.spec.name == "pinecone")
    log = world.folder.pinecone / f"{world.state['index']}.log"
    hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (log.stat().st_size + ROOM_BYTES, hard))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))


@contextlib.contextmanager
def _clock_step(world: World, injection: Injection) -> Iterator[None]:
    names = [f"pelican-{n + 1}" for n in range(PELICANS)] + [f"emu-{n + 1}" for n in range(EMUS)]
    # Pelican's clock is the one that others rely on, so it is stepped three times out of four.
    name = names[injection.target % PELICANS if injection.seed % 4 else injection.target % len(names)]
    step = CLOCK_STEPS_SECONDS[injection.target // len(names) % len(CLOCK_STEPS_SECONDS)]
    clock = world.clock(name)
    clock.write_text(str(step))
    try:
        yield
    finally:
        clock.unlink(missing_ok=True)


FAULTS: dict[str, tuple[Kind, Run]] = {
    kind.name: (kind, run)
    for kind, run in [
        (Kind("pelican killed", "pelican", (0, 0), 4, "SIGKILL"), _killed("pelican")),
        (Kind("emu killed", "emu", (0, 0), 4, "SIGKILL"), _killed("emu")),
        (Kind("frontend killed", "frontend", (0, 0), 3, "SIGKILL"), _killed("frontend")),
        (Kind("pelican stopped", "pelican", (6.5, 8), 1, "SIGSTOP for longer than a claim lasts"), _stopped("pelican")),
        (Kind("emu stopped", "emu", (5, 8), 1, "SIGSTOP for longer than a lease"), _stopped("emu")),
        (Kind("frontend stopped", "frontend", (2, 4), 1, "SIGSTOP"), _stopped("frontend")),
        (Kind("postgres restarted", "postgres", (0, 0), 2, "fast shutdown"), _postgres(signal.SIGINT)),
        (Kind("postgres crashed", "postgres", (0, 0), 2, "immediate shutdown"), _postgres(signal.SIGQUIT)),
        (Kind("sessions cut", "postgres", (0, 0), 1, "our services' sessions are ended by Postgres"), _sessions_cut),
        (Kind("queue killed", "queue", (0, 0), 2, "SIGKILL of the queue server, its state kept"), _killed("sqs")),
        (Kind("queue lost", "queue", (1.5, 1.5), 1, "SIGKILL of the queue server, its state deleted"), _queue_lost),
        (
            Kind("queue refuses", "queue", (1, 2.5), 1, "503 to half of all requests, not applied"),
            _queue_fault("refuse", probability=0.5),
        ),
        (
            Kind("queue answers lost", "queue", (1, 2.5), 1, "requests applied and never answered"),
            _queue_fault("cut", probability=0.3),
        ),
        (
            Kind("acknowledgements lost", "queue", (1, 2), 1, "deletions refused: messages are delivered again"),
            _queue_fault("refuse", "DeleteMessageBatch"),
        ),
        (Kind("duplicate delivery", "queue", (1, 2), 1, "leases end while the work goes on"), _leases_end),
        (
            Kind("pinecone 429", "pinecone", (2, 4), 1, "429 with Retry-After: 1"),
            _pinecone({"status": 429, "retry_after": 1, "probability": 0.7}),
        ),
        (Kind("pinecone 500", "pinecone", (1, 3), 1, "500"), _pinecone({"status": 500, "probability": 0.7})),
        (
            Kind("pinecone time-outs", "pinecone", (1, 2), 1, "writes applied and never answered"),
            _pinecone(
                *({"operation": name, "outcome": "hang", "applied": True, "probability": 0.4} for name in WRITES)
            ),
        ),
        (
            Kind("pinecone resets", "pinecone", (1, 3), 1, "connections reset, before or after the write was applied"),
            _pinecone(
                *({"operation": name, "outcome": "reset", "applied": True, "probability": 0.3} for name in WRITES),
                {"outcome": "reset", "probability": 0.3},
            ),
        ),
        (
            Kind("pinecone outage", "pinecone", (3, 5), 1, f"503 to everything; once for {OUTAGE_SECONDS:.0f} s"),
            _pinecone({"status": 503}),
        ),
        (
            Kind("pinecone slow", "pinecone", (2, 4), 1, "0.7 s for each answer"),
            _pinecone({"outcome": "pass", "delay_ms": 700}),
        ),
        (Kind("late visibility", "pinecone", (3, 5), 1, "writes are seen 2 s later"), _late_visibility),
        (Kind("pinecone killed", "pinecone", (0, 0), 1, "SIGKILL of the stand-in"), _killed("pinecone")),
        (Kind("disk full", "pinecone", (1, 3), 1, "the stand-in's writes fail half-way"), _disk_full),
        (Kind("clock step", "clock", (2, 4), 1, "a service's wall clock is up to an hour wrong"), _clock_step),
    ]
}
# Only Linux sets the limits of another process.
KINDS = [kind for kind, _ in FAULTS.values() if kind.name != "disk full" or hasattr(resource, "prlimit")]


def inject(world: World, injection: Injection, began: float) -> float:
    """Run one fault of an episode that began at `began`; when it was over (time.monotonic()). For a process that is
    ended that is the moment of the signal, not of its return."""
    world.ending.wait(max(0.0, began + injection.start - time.monotonic()))
    with FAULTS[injection.kind.name][1](world, injection):
        at = time.monotonic()
        world.ending.wait(injection.seconds)
        if not injection.seconds:
            return at
    return time.monotonic()
