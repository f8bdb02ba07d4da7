"""What `python -m pelican reindex` shows people and programs."""

import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any

from pinecone.errors import PineconeError

from aviary.index import VectorIndex
from aviary.source import Source
from pelican.comparison import Comparison, Quality
from pelican.reindex import Progress
from pelican.watch import BUILDING, DROPPING, PREVIOUS, READY

OpenIndex = Callable[[str], VectorIndex]


def report(found: Progress, index_at: OpenIndex | None) -> dict[str, Any]:
    """One source's places; without `index_at` the numbers of vectors are null."""
    return {
        "source": found.source.name,
        "state": found.other.state,
        "since": found.changed_at.isoformat(),
        "active": _place(found.source, index_at),
        "other": _place(found.other.source, index_at),
        "enqueued": found.enqueued,
        "total": found.total,
        "waiting": found.waiting,
        "filled": found.filled,
    }


def _place(source: Source, index_at: OpenIndex | None) -> dict[str, Any]:
    count = None
    if index_at is not None:
        # Where it is, is known also while the index does not answer.
        with contextlib.suppress(PineconeError):
            count = index_at(source.index_host).count(source.namespace)
    return {
        "namespace": source.namespace,
        "index_host": source.index_host,
        "model": source.model,
        "text_template": source.text_template,
        "metadata_columns": list(source.metadata_columns),
        "vectors": count,
    }


_NEXT = {
    BUILDING: "`reindex switch` when it is filled, or `reindex cancel`",
    READY: "`reindex compare`, `reindex switch`, or `reindex cancel`",
    PREVIOUS: "`reindex rollback`, or `reindex drop`",
    DROPPING: "`reindex drop` again, which was interrupted",
}


def show(report: dict[str, Any]) -> None:
    """One source's report, for people."""
    print(f"{report['source']}: searched in {report['active']['namespace']}")
    for role in ("active", "other"):
        place = report[role]
        vectors = "an unknown number of" if place["vectors"] is None else f"{place['vectors']:,}"
        state = "in use" if role == "active" else f"{report['state']} since {report['since'][:19]}"
        print(f"  {place['namespace']}  {state}, {vectors} vectors, index {place['index_host'] or 'as configured'}")
        print(
            f"    model {place['model']}, text {place['text_template']!r}, metadata {', '.join(place['metadata_columns']) or '-'}"
        )
    if report["state"] == BUILDING:
        print(
            f"  filled     {report['enqueued']:,} of about {report['total']:,} keys read, {report['waiting']:,} not sent yet"
        )
    print(f"  next       {_NEXT[report['state']]}")


def show_comparison(compared: Comparison) -> None:
    """A table of both places."""

    def line(name: str, *values: str) -> None:
        print(f"{name:24}" + "".join(f"{value:>26}" for value in values))

    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    both = (compared.active, compared.other)

    def of(name: str, shown: Callable[[Quality], str]) -> None:
        line(name, *(shown(each) for each in both))

    line(compared.source, "in use", "other")
    of("namespace", lambda q: q.namespace)
    of("model", lambda q: q.model)
    of("rows with text", lambda q: f"{q.rows:,}")
    of("vectors", lambda q: f"{q.vectors:,}")
    of("sampled rows in step", lambda q: f"{q.in_step:,} of {q.sampled:,}")
    if compared.queries:
        of(f"hits at 5, {compared.queries:,} queries", lambda q: share(q.hits))
    line("same 10 nearest rows", share(compared.overlap), f"least {share(compared.least_overlap)}")
    if compared.missing:
        line("not in step", ", ".join(map(repr, compared.missing)))


class Telling:
    """Says a line on stderr when it is another one than before, at most twice a second."""

    def __init__(self) -> None:
        self._said = ""
        self._due = 0.0

    def __call__(self, line: str) -> None:
        now = time.monotonic()
        if line != self._said and now >= self._due:
            self._said, self._due = line, now + 0.5
            say(line)


def say(line: str) -> None:
    """On stderr: stdout is for results."""
    print(line, file=sys.stderr, flush=True)
