"""What can be done with dead letters: tell which are void, send their rows' present state again, delete them.

Sending a letter itself again could bring an old state back: of a row that was deleted since, no version is left in the
index to compare with. So a letter only says which rows to look at; Pelican sends what they are now, by the ordinary way.
"""

import enum
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from pinecone.errors import PineconeError

from aviary.dead_letters import Held, Letter, Look, is_void, read
from aviary.index import VectorIndex, is_missing_namespace
from aviary.source import vector_id
from emu.dlq.rows import Rows, UnknownSourceError
from emu.retrying import describe

# A message's own id is long; as many of its first characters are enough to name it.
SHORTEST_ID = 8


class Seen(NamedTuple):
    """A letter, and whether it is void: None when that cannot be told."""

    letter: Letter
    void: bool | None


class Filter(NamedTuple):
    """Which letters are meant: those that meet everything that is given. `ids` may be beginnings of ids."""

    ids: tuple[str, ...] = ()
    source: str = ""
    key: str = ""
    reason: str = ""
    kind: str = ""
    older_than_seconds: float | None = None
    newer_than_seconds: float | None = None
    void: bool | None = None

    @property
    def is_all(self) -> bool:
        return self == Filter()

    def takes(self, seen: Seen) -> bool:
        letter, age = seen.letter, seen.letter.age_seconds()
        return (
            (not self.ids or any(map(letter.id.startswith, self.ids)))
            and self.source in ("", letter.source)
            and (not self.key or any(key.key == self.key for key in letter.keys))
            and self.reason.lower() in letter.reason.lower()
            and self.kind in ("", letter.kind)
            and (self.older_than_seconds is None or age >= self.older_than_seconds)
            and (self.newer_than_seconds is None or age <= self.newer_than_seconds)
            and self.void in (None, seen.void)
        )


class Action(enum.Enum):
    """What becomes of a letter."""

    ENQUEUE = "sent again"
    RESEND = "resent as it came"
    DELETE = "deleted"
    KEEP = "kept"


class Done(NamedTuple):
    """What became of a letter (or, of a dry run, would), and why."""

    letter: Letter
    action: Action
    why: str = ""


class Desk:
    """Works through one look at the dead letter queue. Without `index` nothing is known to be void, without `rows` only
    what the index holds in a later version; `troubles` collects sentences about what could not be asked."""

    def __init__(
        self, look: Look, *, index: VectorIndex | None = None, index_host: str = "", rows: Rows | None = None
    ) -> None:
        self._look = look
        self._index = index
        self._index_host = index_host
        self._rows = rows
        self.troubles: list[str] = []

    def letters(self, chosen: Filter) -> Iterator[Seen]:
        """The letters that are meant, in the order in which the queue gives them."""
        for held in self._look.batches():
            yield from self._chosen(held, chosen)

    def contents(self, id: str) -> tuple[Seen, str] | None:
        """The letter whose id begins so, with the message's body as it is."""
        for held in self._look.batches():
            for seen in self._chosen(held, Filter(ids=(id,))):
                return seen, next(one.body for one in held if one.id == seen.letter.id)
        return None

    def drop(self, chosen: Filter, *, dry_run: bool) -> Iterator[Done]:
        """Delete the letters that are meant."""
        for held in self._look.batches():
            found = self._chosen(held, chosen)
            yield from self._finish([Done(seen.letter, Action.DELETE) for seen in found], dry_run=dry_run)

    def redrive(self, chosen: Filter, *, resend: Callable[[Held], None] | None = None, dry_run: bool) -> Iterator[Done]:
        """Have the present state of their rows sent again, then delete the letters; void ones are only deleted.
        `resend` sends a message as it came whose keys cannot be known; without it such a letter is kept."""
        for held in self._look.batches():
            decided = [_decide(seen, may_resend=resend is not None) for seen in self._chosen(held, chosen)]
            if not dry_run:
                decided = self._enqueue(decided)
                for done in decided:
                    if done.action is Action.RESEND and resend is not None:
                        resend(next(one for one in held if one.id == done.letter.id))
            yield from self._finish(decided, dry_run=dry_run)

    def _chosen(self, held: Sequence[Held], chosen: Filter) -> list[Seen]:
        letters = [read(one) for one in held]
        # The cheap tests first: what is not meant need not be looked up.
        meant = [letter for letter in letters if chosen._replace(void=None).takes(Seen(letter, None))]
        return [seen for seen in self._judge(meant) if chosen.takes(seen)]

    def _enqueue(self, decided: Sequence[Done]) -> list[Done]:
        """Enqueue the keys, source by source; committed on return."""
        keys: dict[str, set[str]] = {}
        for letter, action, _ in decided:
            if action is Action.ENQUEUE:
                keys.setdefault(letter.source, set()).update(key.key for key in letter.keys)
        unknown: set[str] = set()
        for source, some in keys.items():
            if self._rows is None:
                raise RuntimeError("rows cannot be sent again without a database")
            try:
                self._rows.enqueue(source, sorted(some))
            except UnknownSourceError:
                unknown.add(source)
        why = "its source is not watched any more; drop the letter, or watch the table again"
        return [
            Done(done.letter, Action.KEEP, why)
            if done.action is Action.ENQUEUE and done.letter.source in unknown
            else done
            for done in decided
        ]

    def _finish(self, decided: Sequence[Done], *, dry_run: bool) -> list[Done]:
        if dry_run:
            return list(decided)
        kept = self._look.delete([done.letter.id for done in decided if done.action is not Action.KEEP])
        why = "another reader holds the letter; run this again later"
        return [Done(done.letter, Action.KEEP, why) if done.letter.id in kept else done for done in decided]

    def _judge(self, letters: Sequence[Letter]) -> list[Seen]:
        if self._index is None:
            return [Seen(letter, None) for letter in letters]
        stored = self._stored(self._index, letters)
        missing: dict[str, set[str]] = {}
        for letter in letters:
            known = stored.get(letter.namespace) or {}
            missing.setdefault(letter.source, set()).update(key.key for key in letter.keys if key.key not in known)
        absent: dict[str, set[str]] = {}
        if self._rows is not None:
            absent = {source: self._rows.absent(source, sorted(keys)) for source, keys in missing.items() if keys}
        judged = []
        for letter in letters:
            versions = stored.get(letter.namespace, {})
            void: bool | None = None
            # Only the configured index is asked: a letter must not choose whom the API key is shown to.
            if versions is not None and letter.index_host in ("", self._index_host):
                void = is_void(letter, versions, absent.get(letter.source, ()))
                if not void and self._rows is None and is_void(letter, versions, missing[letter.source]):
                    void = None  # it depends on whether the rows are there, and nobody can be asked
            judged.append(Seen(letter, void))
        return judged

    def _stored(self, index: VectorIndex, letters: Sequence[Letter]) -> dict[str, dict[str, float] | None]:
        """The versions that the index holds, by namespace and key; None for a namespace when it does not answer."""
        keys: dict[str, dict[str, str]] = {}
        for letter in letters:
            keys.setdefault(letter.namespace, {}).update((vector_id(key.key), key.key) for key in letter.keys)
        stored: dict[str, dict[str, float] | None] = {}
        for namespace, by_id in keys.items():
            try:
                records = index.fetch(namespace, list(by_id)).values()
            except PineconeError as error:
                if is_missing_namespace(error):
                    continue
                trouble = f"the index does not answer ({describe(error)}), so it is not known which letters are void"
                if trouble not in self.troubles:
                    self.troubles.append(trouble)
                stored[namespace] = None
                continue
            versions = ((by_id[record.id], record.metadata.get("_version")) for record in records)
            stored[namespace] = {key: version for key, version in versions if isinstance(version, int | float)}
        return stored


def _decide(seen: Seen, *, may_resend: bool) -> Done:
    letter = seen.letter
    if seen.void:
        return Done(letter, Action.DELETE, "void: a later state of its rows is in the index")
    if letter.keys and letter.source:
        return Done(letter, Action.ENQUEUE)
    if may_resend and letter.kind in ("message", "moved"):
        return Done(letter, Action.RESEND)
    return Done(
        letter,
        Action.KEEP,
        "its rows cannot be known; `python -m pelican reconcile --repair` sends what the index misses, "
        "then drop the letter (or give --resend)",
    )


def counted(done: Iterable[Done]) -> dict[str, int]:
    """How many letters each action befell."""
    counts = dict.fromkeys((action.value for action in Action), 0)
    for one in done:
        counts[one.action.value] += 1
    return {action: count for action, count in counts.items() if count}
