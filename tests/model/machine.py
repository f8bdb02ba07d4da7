"""The state machine: what may happen, in any order, between people, Pelicans, Emus, the queue, the index and the clock.

It has one rule, and chooses among what could do something now. Hypothesis leaves some rules out of each run (swarm
testing), and a run without people, Pelicans or Emus would show nothing.
"""

from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.model.stepping import Outcome, Task
from tests.model.world import Process, World

# Those that are long become two and four vectors.
TEXTS = ("red kettle", "blue lamp", "long boat " * 12, "long rope " * 24, "")
# Where a task may be held up; "" is its end.
IN_PELICAN = ("read", "announce", "queue.send", "queue.send", "delete", "clear", "commit", "unlock", "")
IN_EMU = ("index.fetch", "embed", "embed", "index.upsert", "index.upsert", "index.delete", "queue.delete", "wait", "")
IN_PAGE = ("page: enqueue", "page: move", "")
# What happens there: nothing yet, or the process is killed, or the call ends in some way.
ENDINGS = ("stay", "stay", "stay", "kill", "kill", *Outcome)
# Longer than: nothing, a request, a claim, an expiry, an extension is due, a lease, an announcement, a deduplication id.
PASSING = (1.0, 11.0, 21.0, 26.0, 41.0, 61.0, 90.0, 301.0)
CHANGES = ("reword", "reprice", "touch", "delete", "delete", "replace", "rename", "truncate", "truncate")
STEERING = ("savepoint", "back", "commit", "commit", "rollback")
ENDS = ("commit", "commit", "commit", "commit", "open", "rollback")

WRITE = """
INSERT INTO products (id, sku, name, price) SELECT i, 's' || i || '-' || %s, %s, %s FROM unnest(%s::int[]) i
ON CONFLICT (id) DO UPDATE SET name = excluded.name, price = excluded.price"""
REWORD = "UPDATE products SET name = %s, description = NULL WHERE id = %s"
REPRICE = "UPDATE products SET price = %s"
TOUCH = "UPDATE products SET name = name, attributes = '{\"seen\": 1}'"
RENAME = "UPDATE products SET id = %s WHERE id = %s"
DELETE = "DELETE FROM products WHERE id = %s"


class Pipeline(RuleBasedStateMachine):
    """`world` is set by the test that runs it."""

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.world.reset()
        self._late = False
        self._data: Any = None

    @initialize(late=st.booleans())
    def begin(self, late: bool) -> None:
        """`late`: what was held up goes on when all else is done, and not before."""
        self._late = late

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        """One of the things that could happen now."""
        self._data = data
        world = self.world
        could = ["write"] * 3 + ["change"] * 2
        if any(user.is_open for user in world.users):
            could += ["steer"]
        if world.waiting() or self._busy(world.pelicans):
            could += ["pipe"] + ["pelican"] * 4 + ["page"]
        if world.queue.messages or self._busy(world.emus):
            could += ["emu"] * 6
        if any(emu.emu._keeper.held() for emu in world.emus):
            could += ["keep_leases"]
        if world.queue.travelling or self._busy([*world.pelicans, *world.emus]):
            could += ["trouble", "pass_time"]
        could += ["backfill", "look_back"]
        getattr(self, self._choose(could, "what"))()

    # ---- people

    def write(self) -> None:
        keys = sorted({self._choose(self.world.keys, "key"), self._choose(self.world.keys, "key")})
        values = (self.world.number(), self._choose(TEXTS, "text"), self._choose(range(3), "price"), keys)
        self._run((WRITE, values))

    def change(self) -> None:
        key = self._choose(self.world.keys, "key")
        match self._choose(CHANGES, "change"):
            case "reword":
                self._run((REWORD, (self._choose(TEXTS, "text"), key)))
            case "reprice":
                self._run((REPRICE, (self._choose((10, 11), "price"),)))
            case "touch":
                self._run((TOUCH, ()))
            case "delete":
                self._run((DELETE, (key,)))
            case "replace":
                values = (self.world.number(), self._choose(TEXTS, "text"), 5, [key])
                self._run((DELETE, (key,)), (WRITE, values))
            case "rename":
                self._run((RENAME, (self._choose(self.world.keys, "key"), key)))
            case "truncate":
                self._run(("TRUNCATE products", ()))

    def steer(self) -> None:
        user = self._choose([user for user in self.world.users if user.is_open], "user")
        getattr(user, self._choose(STEERING, "steer"))()

    def look_back(self) -> None:
        """The next transaction sees the table as it is now."""
        self._choose(self.world.users, "user").repeatable()

    def backfill(self) -> None:
        self.world.backfill()

    # ---- services

    def pipe(self) -> None:
        """All goes well for a while."""
        pelican = self._choose(self.world.pelicans, "pelican")
        pelican.task("worker", pelican.turn)
        emu = self._choose(self.world.emus, "emu")
        pelican.finish()
        emu.task("unit-0", emu.unit)
        emu.finish()

    def pelican(self) -> None:
        process = self._choose(self.world.pelicans, "pelican")
        self._advance(process, process.task("worker", process.turn), IN_PELICAN)

    def page(self) -> None:
        process = self._choose(self.world.pelicans, "pelican")
        self._advance(process, process.task("house", process.page), IN_PAGE)

    def emu(self) -> None:
        process = self._choose(self.world.emus, "emu")
        if process.stopping and not process.busy():
            self.world.kill(process)
            return
        unit = self._choose(("unit-0", "unit-0", "unit-1"), "unit")
        self._advance(process, process.task(unit, process.unit), IN_EMU)

    def keep_leases(self) -> None:
        process = self._choose(self.world.emus, "emu")
        self._advance(process, process.task("tick", process.tick), ("queue.change_visibility", ""))

    # ---- faults and time

    def trouble(self) -> None:
        world = self.world
        match self._choose(("cut", "terminate", "send", "write"), "trouble"):
            case "cut":
                self._choose(world.pelicans, "pelican").cut()
            case "terminate":
                self._choose(world.emus, "emu").terminate()
            case "send":
                world.queue.arrive()
            case "write":
                world.index.arrive()

    def pass_time(self) -> None:
        self.world.pass_time(self._choose(PASSING, "seconds"))

    # ---- promises

    @invariant()
    def nobody_is_harmed(self) -> None:
        self.world.check_nobody_harmed()

    def teardown(self) -> None:
        try:
            self.world.drain(late=self._late)
            self.world.check()
        except BaseException:
            self.world.abandon()
            raise

    # ----

    def _choose(self, among: Any, label: str) -> Any:
        return self._data.draw(st.sampled_from(among), label)

    def _busy(self, processes: Any) -> bool:
        return any(process.busy() for process in processes)

    def _run(self, *statements: tuple[str, tuple[Any, ...]]) -> None:
        writer = self._choose(self.world.users, "user")
        end = self._choose(ENDS, "end")
        # A TRUNCATE in a transaction of an older snapshot cannot name rows that are newer: so it is documented.
        if statements[0][0].startswith("TRUNCATE") and writer.is_repeatable:
            return
        writer.run(*statements)
        if end != "open":
            getattr(writer, end)()

    def _advance(self, process: Process, task: Task, places: tuple[str, ...]) -> None:
        until = self._choose(places, "until")
        ending = self._choose(ENDINGS, "ending")
        task.advance(until)
        if task.done or ending == "stay":
            return
        if ending == "kill":
            self.world.kill(process)
        else:
            task.step(ending)
