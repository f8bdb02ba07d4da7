"""How dead letters are shown: tables and JSON on standard output, progress and remarks on standard error."""

import shutil
import sys
import time
from collections.abc import Sequence
from typing import TypeVar

import orjson

from aviary.dead_letters import KINDS, Look
from emu.dlq.desk import SHORTEST_ID, Seen

T = TypeVar("T")
COLUMNS = ("id", "kind", "age", "void", "source", "key", "version", "reason")
LONGEST_KEY_CHARS = 40
ON_A_TERMINAL_SECONDS = 0.2
ELSEWHERE_SECONDS = 10.0


class Progress:
    """One line that is written over on a terminal, and one line every ten seconds elsewhere."""

    def __init__(self, look: Look) -> None:
        self._total = look.depth.waiting
        self._live = sys.stderr.isatty()
        self._count = 0
        self._shown = False
        self._due = time.monotonic() + self._every

    @property
    def _every(self) -> float:
        return ON_A_TERMINAL_SECONDS if self._live else ELSEWHERE_SECONDS

    def counted(self, one: T) -> T:
        """Count one letter; returns it."""
        self._count += 1
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + self._every
            line = f"{self._count:,} letters, of about {self._total:,} in the queue"
            print(
                f"\r\x1b[K{line}" if self._live else line, end="" if self._live else "\n", file=sys.stderr, flush=True
            )
            self._shown = self._live
        return one

    def interrupt(self) -> None:
        """Make room for a line of another kind."""
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._shown = False

    end = interrupt


def table(found: Sequence[Seen]) -> list[str]:
    """Lines of text; the last column is cut on a terminal only."""
    cells = [tuple(name.upper() for name in COLUMNS), *map(_cells, found)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(COLUMNS) - 1)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in cells
    ]
    return [line[: shutil.get_terminal_size().columns] for line in lines] if sys.stdout.isatty() else lines


def details(seen: Seen) -> list[str]:
    """One letter without its contents."""
    letter = seen.letter
    lines = [
        f"id         {letter.id}",
        f"kind       {letter.kind}: {KINDS[letter.kind]}",
        f"reason     {_plain(letter.reason)}",
        f"source     {_plain(letter.source) or '-'}",
        f"namespace  {_plain(letter.namespace) or '-'}",
        f"set aside  {time.strftime('%F %T UTC', time.gmtime(letter.at_ms / 1000))}, {age(letter.age_seconds())} ago",
        f"void       {_VOID[seen.void]}",
    ]
    return lines + [f"key        {_plain(key)}, version {version or 'unknown'}" for key, version in letter.keys]


def pretty(body: str) -> str:
    """A message's body, laid out when it is JSON."""
    try:
        lines = orjson.dumps(orjson.loads(body), option=orjson.OPT_INDENT_2).decode().split("\n")
        return "\n".join(map(_plain, lines))
    except orjson.JSONDecodeError:
        return _plain(body)


def as_json(seen: Seen) -> dict[str, object]:
    """One letter for programs; `void` is null when it cannot be told."""
    letter = seen.letter
    return {
        "id": letter.id,
        "kind": letter.kind,
        "reason": letter.reason,
        "source": letter.source,
        "namespace": letter.namespace,
        "set_aside_at_ms": letter.at_ms,
        "age_seconds": round(letter.age_seconds()),
        "void": seen.void,
        "keys": [{"key": key, "version": version or None} for key, version in letter.keys],
    }


def totals(look: Look) -> dict[str, int]:
    """What stands beside a list: what could not be looked at."""
    return {"held_by_others": look.depth.held, "out_of_reach": look.out_of_reach}


def say(look: Look, troubles: Sequence[str]) -> None:
    """Remarks about what this look could not see."""
    if look.depth.held:
        print(f"{look.depth.held} letters are being looked at by somebody else right now", file=sys.stderr)
    if look.out_of_reach:
        print(
            f"{look.out_of_reach} letters stand behind ten others of their group: redrive or drop those, then look again",
            file=sys.stderr,
        )
    for trouble in troubles:
        print(trouble, file=sys.stderr)


def age(seconds: float) -> str:
    """A rough duration: 40 s, 12 m, 3 h, 9 d."""
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


_VOID = {True: "yes", False: "no", None: "not known"}


def _cells(seen: Seen) -> tuple[str, ...]:
    letter = seen.letter
    key, version = "-", "-"
    if len(letter.keys) == 1:
        key, version = letter.keys[0].key, str(letter.keys[0].version or "-")
    elif letter.keys:
        key = f"({len(letter.keys)} rows)"
    key = _plain(key)
    return (
        letter.id[:SHORTEST_ID],
        letter.kind,
        age(letter.age_seconds()),
        {True: "yes", False: "no", None: "?"}[seen.void],
        _plain(letter.source) or "-",
        key if len(key) <= LONGEST_KEY_CHARS else key[: LONGEST_KEY_CHARS - 2] + " …",
        version,
        _plain(letter.reason),
    )


def _plain(text: str) -> str:
    """Text from a stranger on one line, without what would command a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
