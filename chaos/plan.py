"""What a seed means: which operations users make, which faults come, in what order and for how long. Pure.

A run is a row of *episodes*. In each, users write, one fault or several overlapping ones come and go, and then the
index is compared with the tables in the quiet; so every difference has a culprit.
"""

import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

# Writers own the keys that are theirs modulo this, so that users never deadlock or collide by their own doing.
WRITERS = 4
KEYS = 400
# Rows that all writers touch, in transactions of one row.
HOT_KEYS = 8
STOCK_KEYS = 120
# What each episode takes besides its faults: users before them, recovery, and the look at what is left.
OVERHEAD_SECONDS = 4.0
RESERVE_SECONDS = 45.0
TRUNCATE_EVERY = 2_500
STORM_FAULTS = 3
STORM_SPREAD_SECONDS = 2.0
# From this length on, a run has one outage as long as a real one, with other faults in it.
LONG_RUN_SECONDS = 300.0
OUTAGE_SECONDS = 60.0
OUTAGE_FAULTS = 5

OPERATIONS: Mapping[str, int] = {
    "insert": 8,
    "update text": 8,
    "update metadata": 5,
    "update nothing": 1,
    "blank text": 2,
    "delete": 4,
    "delete then insert": 4,
    "change key": 3,
    "insert many": 2,
    "update many": 3,
    "delete many": 1,
    "hot update": 7,
    "hot delete": 1,
    "roll back": 4,
    "roll back to savepoint": 2,
    "long text": 1,
    "stock insert": 3,
    "stock update": 3,
    "stock delete": 2,
    "stock change key": 1,
}


class Operation(NamedTuple):
    """One user transaction: `kind` (a name of OPERATIONS, or "truncate"), a key of its writer, and the seed of
    everything else about it."""

    number: int
    kind: str
    writer: int
    key: int
    seed: int


class Kind(NamedTuple):
    """A kind of fault. `scope`: what it is done to; overlapping faults are of different scopes. `seconds`: how long
    it lasts, from and to. `weight`: how often it is drawn once every kind has been."""

    name: str
    scope: str
    seconds: tuple[float, float]
    weight: int
    what: str


class Injection(NamedTuple):
    """One fault of an episode: begins `start` seconds into it and lasts `seconds`. `target` chooses among equals."""

    kind: Kind
    start: float
    seconds: float
    target: int
    seed: int


class Episode(NamedTuple):
    """Faults that come together, and the operations that users make meanwhile."""

    injections: tuple[Injection, ...]
    operations: tuple[Operation, ...]

    @property
    def name(self) -> str:
        """The kind of a single fault, "storm" of several."""
        return self.injections[0].kind.name if len(self.injections) == 1 else "storm"

    @property
    def fault_seconds(self) -> float:
        return max(injection.start + injection.seconds for injection in self.injections)

    @property
    def seconds(self) -> float:
        """How long it should take."""
        return self.fault_seconds + OVERHEAD_SECONDS


class PlanError(ValueError):
    """What was asked for does not fit; the message says what would."""


def plan(kinds: Sequence[Kind], *, seed: int, seconds: float, operations: int, faults: int) -> list[Episode]:
    """The episodes of a run. Equal arguments give equal plans."""
    chance = random.Random(f"{seed} faults")  # noqa: S311 - a seed must repeat the run; no secret
    drawn = _draw(chance, kinds, faults, seconds)
    needed = sum(Episode(each, ()).seconds for each in drawn)
    room = seconds - min(RESERVE_SECONDS, seconds / 3)
    if needed > room:
        raise PlanError(
            f"{faults} faults take about {needed / 60:.1f} minutes and {room / 60:.1f} are there for them; "
            f"ask for --minutes {(needed + RESERVE_SECONDS) / 60:.1f} or for fewer faults"
        )
    made = make_operations(seed, operations)
    episodes: list[Episode] = []
    taken, passed = 0, 0.0
    for injections in drawn:
        passed += Episode(injections, ()).seconds
        until = round(operations * passed / needed)
        episodes.append(Episode(injections, tuple(made[taken:until])))
        taken = until
    return episodes


def make_operations(seed: int, count: int) -> list[Operation]:
    """The operations of a run, in order; each writer makes its own in this order. The last sixth has no TRUNCATE, so
    that there is something to compare in the end."""
    chance = random.Random(f"{seed} operations")  # noqa: S311 - a seed must repeat the run; no secret
    names, weights = list(OPERATIONS), list(OPERATIONS.values())
    operations = []
    for number in range(count):
        kind = chance.choices(names, weights)[0]
        if chance.randrange(TRUNCATE_EVERY) == 0 and number < count * 5 // 6:
            kind = "truncate"
        writer = chance.randrange(WRITERS)
        keys = {"stock": STOCK_KEYS, "hot": HOT_KEYS}.get(kind.split()[0], KEYS)
        key = chance.randrange(keys // WRITERS) * WRITERS + writer if keys != HOT_KEYS else chance.randrange(keys)
        operations.append(Operation(number, kind, writer, key, chance.getrandbits(32)))
    return operations


def _draw(chance: random.Random, kinds: Sequence[Kind], faults: int, seconds: float) -> list[tuple[Injection, ...]]:
    """The faults of each episode: every kind alone at first, storms for a third of all, and then by weight."""
    groups: list[tuple[Injection, ...]] = []
    left = faults
    outage = next((kind for kind in kinds if kind.name == "pinecone outage"), None)
    if outage is not None and seconds >= LONG_RUN_SECONDS and left > 2 * OUTAGE_FAULTS:
        others = _of_other_scopes(chance, kinds, {outage.scope}, OUTAGE_FAULTS)
        step = (OUTAGE_SECONDS - 20) / len(others)
        long = Injection(outage, 0.0, OUTAGE_SECONDS, 0, chance.getrandbits(32))
        groups.append((long, *(_inject(chance, kind, 5 + n * step) for n, kind in enumerate(others))))
        left -= 1 + len(others)
    storms = left // 3 // STORM_FAULTS if left > STORM_FAULTS * 3 else 0
    for _ in range(storms):
        together = _of_other_scopes(chance, kinds, set(), STORM_FAULTS)
        groups.append(tuple(_inject(chance, kind, chance.uniform(0, STORM_SPREAD_SECONDS)) for kind in together))
        left -= len(together)
    once = list(kinds)
    chance.shuffle(once)
    more = iter(lambda: chance.choices(kinds, [kind.weight for kind in kinds])[0], None)
    groups += [(_inject(chance, kind, 0.5),) for kind in itertools.islice(itertools.chain(once, more), left)]
    chance.shuffle(groups)
    return groups


def _of_other_scopes(chance: random.Random, kinds: Sequence[Kind], taken: Iterable[str], count: int) -> list[Kind]:
    """Kinds of different scopes. What needs a repair is left out: it must be known whose doing it was."""
    scopes = set(taken)
    chosen: list[Kind] = []
    candidates = [kind for kind in kinds if kind.name != "queue lost"]
    for kind in chance.sample(candidates, len(candidates)):
        if kind.scope not in scopes and len(chosen) < count:
            scopes.add(kind.scope)
            chosen.append(kind)
    return chosen


def _inject(chance: random.Random, kind: Kind, start: float) -> Injection:
    return Injection(kind, start, chance.uniform(*kind.seconds), chance.randrange(1 << 16), chance.getrandbits(32))
