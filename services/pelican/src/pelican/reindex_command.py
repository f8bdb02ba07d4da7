"""What the steps of `python -m pelican reindex` do, and say."""

import argparse
import contextlib
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pydantic
from pinecone.errors import ApiError, PineconeError

from aviary import database
from aviary.index import PineconeIndex
from aviary.settings import DatabaseSettings, read
from aviary.source import InvalidSourceError, Source, template_columns
from pelican import reindex, tables
from pelican.arrival import SHARDS, wait_until_arrived
from pelican.comparison import Embeds, too_few
from pelican.comparison import compare as compare_places
from pelican.indexes import Indexes, check_index
from pelican.outbox import prepare
from pelican.reindex import Progress
from pelican.reindex_report import Telling, report, say, show, show_comparison
from pelican.settings import ReindexSettings
from pelican.watch import BUILDING, PREVIOUS, READY, source_named

LOOK_SECONDS = 0.3
SETTLE_SECONDS = 10.0
SAMPLE = 200
# Frontends look which place is the active one once a second.
AFTER_SWITCH_SECONDS = 5.0


def run(step: str, arguments: argparse.Namespace) -> int:
    """The step of that name; an index that does not answer is an InvalidSourceError."""
    steps = {f.__name__: f for f in (start, status, compare, switch, rollback, drop, cancel)}
    try:
        return steps[step](arguments)
    except PineconeError as error:
        code = f" {error.status_code}" if isinstance(error, ApiError) else ""
        raise InvalidSourceError(
            f"the index does not answer ({type(error).__name__}{code}); nothing is lost: run the same step again"
        ) from error


def start(arguments: argparse.Namespace) -> int:
    """Make another place."""
    settings = _index_settings() if arguments.model or arguments.index or arguments.wait else None
    with _connect() as connection:
        source = source_named(connection, arguments.source)
        wanted = _wanted(source, arguments)
        if settings is not None:
            check_index(settings, wanted)
        begun = reindex.start(connection, wanted)
        found = reindex.progress_of(connection, source.name)
        place = found.other.source.namespace
        say(f"{source.name}: {place} is {'made' if begun else 'there already, and goes on where it was'}")
        if arguments.wait and settings is not None:
            with Indexes(settings) as indexes:
                _wait(connection, indexes, source.name)
            say(f"every row is in {place}; `reindex compare`, then `reindex switch --source {source.name}`")
        else:
            say("the running Pelican fills it; `reindex status` shows how far it is")
    return 0


def status(arguments: argparse.Namespace) -> int:
    """Where each reindex is."""
    settings = None
    # Without an index's settings, the numbers of vectors are not known.
    with contextlib.suppress(pydantic.ValidationError):
        settings = _index_settings()
    with _connect() as connection, ExitStack() as exits:
        if arguments.source:
            source_named(connection, arguments.source)
        found = [p for p in reindex.progress(connection) if arguments.source in (None, p.source.name)]
        indexes = None if settings is None else exits.enter_context(Indexes(settings))
        reports = [report(each, indexes.at if indexes else None) for each in found]
    if arguments.json:
        print(json.dumps(reports, indent=2))
    elif not reports:
        print("no source has another place in the index")
    for each in [] if arguments.json else reports:
        show(each)
    return 0


def compare(arguments: argparse.Namespace) -> int:
    """Both places beside each other."""
    settings = _index_settings()
    queries = {} if arguments.queries is None else read_queries(arguments.queries)
    with _connect() as connection, Indexes(settings) as indexes:
        found = reindex.progress_of(connection, arguments.source)
        compared = compare_places(
            connection,
            indexes.side(found.source),
            indexes.side(found.other.source),
            sample=arguments.sample,
            queries=queries,
            embedder=lambda model: _embedder(settings, model),
            settle_seconds=SETTLE_SECONDS,
        )
    if arguments.json:
        print(msgspec.json.format(msgspec.json.encode(compared), indent=2).decode())
    else:
        show_comparison(compared)
    return 0


def switch(arguments: argparse.Namespace) -> int:
    """Make the other place the active one."""
    with _connect() as connection:
        found = reindex.progress_of(connection, arguments.source)
        if found.other.state in (BUILDING, READY) and not arguments.force:
            with Indexes(_index_settings()) as indexes:
                if gaps := _gaps(connection, indexes, found, arguments.within):
                    for gap in gaps:
                        say(f"not complete: {gap}")
                    say("nothing is switched; run it again later, or with --force")
                    return 1
        done = reindex.switch(connection, found.source)
        now = source_named(connection, arguments.source)
    print(f"{now.name} is searched in {now.namespace}{'' if done else ' already'}")
    if done:
        say(f"{found.source.namespace} is kept in step: `reindex rollback` goes back to it, `reindex drop` deletes it")
    return 0


def rollback(arguments: argparse.Namespace) -> int:
    """Make the place before the switch the active one again."""
    with _connect() as connection:
        found = reindex.progress_of(connection, arguments.source)
        done = reindex.roll_back(connection, found.source)
        now = source_named(connection, arguments.source)
    print(f"{now.name} is searched in {now.namespace}{'' if done else ': nothing to roll back'}")
    return 0


def drop(arguments: argparse.Namespace) -> int:
    """Delete the place that was in use before."""
    return _delete(arguments, (PREVIOUS,))


def cancel(arguments: argparse.Namespace) -> int:
    """Delete the place that is not in use yet."""
    return _delete(arguments, (BUILDING, READY))


def _delete(arguments: argparse.Namespace, states: tuple[str, ...]) -> int:
    settings = _index_settings()
    with _connect() as connection, Indexes(settings) as indexes:
        found = reindex.progress_of(connection, arguments.source)
        if found.other.state == PREVIOUS:
            _let_frontends_see(connection, found)
        reindex.begin_drop(connection, found.source, states)
        found = reindex.progress_of(connection, arguments.source)
        place = found.other.source
        index = indexes.at(place.index_host)
        if not arguments.force:
            # What was sent to it before must not arrive in it when it is empty.
            left = _arrive(connection, indexes, place, arguments.within)
            if left:
                say(
                    f"what was sent to {place.namespace} before is still on its way ({left} of {SHARDS} shards); run it "
                    "again when the queue has been worked off, or with --force"
                )
                return 1
        try:
            _empty(index, place)
        except PineconeError as error:
            if not arguments.force:
                raise
            say(f"the vectors of {place.namespace} could not be deleted ({type(error).__name__}); delete them by hand")
        reindex.forget(connection, found.source)
    print(f"{place.namespace} is dropped; {found.source.name} is in {found.source.namespace} alone")
    return 0


def _empty(index: PineconeIndex, place: Source) -> None:
    tell = Telling()
    index.clear(place.namespace)
    while count := index.count(place.namespace):
        tell(f"{place.namespace}: {count:,} vectors left")
        time.sleep(LOOK_SECONDS)


def _let_frontends_see(connection: psycopg.Connection[Any], found: Progress) -> None:
    row = connection.execute(
        "SELECT %s - extract(epoch FROM clock_timestamp() - %s)::float8", (AFTER_SWITCH_SECONDS, found.changed_at)
    ).fetchone()
    if row and row[0] > 0:
        time.sleep(row[0])


def _wanted(source: Source, arguments: argparse.Namespace) -> Source:
    """The source as it shall be in the other place."""
    template = source.text_template
    if arguments.template is not None:
        template = arguments.template.replace("\\n", "\n").replace("\\t", "\t")
        template_columns(template)
    metadata = source.metadata_columns if arguments.metadata is None else tables.split_columns(arguments.metadata)
    return msgspec.structs.replace(
        source,
        model=arguments.model or source.model,
        index_host=arguments.index or source.index_host,
        text_template=template,
        metadata_columns=metadata,
    )


def _wait(connection: psycopg.Connection[Any], indexes: Indexes, name: str) -> None:
    """Until the other place is ready."""
    found = _sent(connection, name, float("inf"))
    if found.other.state == BUILDING:
        _arrive(connection, indexes, found.other.source, float("inf"))
        reindex.ready(connection, found.source)


def _sent(connection: psycopg.Connection[Any], name: str, deadline: float) -> Progress:
    """How far the other place is when all its rows have been sent to the queue, or at the deadline."""
    tell = Telling()
    while not (found := reindex.progress_of(connection, name)).filled and time.monotonic() < deadline:
        tell(f"{found.enqueued:,} of about {found.total:,} keys read, {found.waiting:,} not sent yet")
        time.sleep(LOOK_SECONDS)
    return found


def _arrive(connection: psycopg.Connection[Any], indexes: Indexes, place: Source, seconds: float) -> int:
    index, tell = indexes.at(place.index_host), Telling()
    return wait_until_arrived(
        connection,
        index,
        place,
        dimension=index.dimension(),
        seconds=seconds,
        report=lambda left: tell(
            f"what is on its way to {place.namespace} must arrive: {left} of {SHARDS} shards left"
        ),
    )


def _gaps(connection: psycopg.Connection[Any], indexes: Indexes, found: Progress, seconds: float) -> list[str]:
    """What the other place lacks, in sentences. Finding nothing, it notes that the place is ready."""
    place = found.other.source
    if found.finished_at is None:
        return [f"{found.enqueued:,} of about {found.total:,} keys have been read from the table"]
    deadline = time.monotonic() + seconds
    # The last page of the filling, or the markers of a switch that was killed.
    if waiting := _sent(connection, found.source.name, deadline).waiting:
        return [f"after {seconds:.0f} s, {waiting:,} keys had not been sent to it"]
    if left := _arrive(connection, indexes, place, deadline - time.monotonic()):
        return [f"after {seconds:.0f} s, what was sent to it had not arrived ({left} of {SHARDS} shards)"]
    compared = compare_places(
        connection,
        indexes.side(found.source),
        indexes.side(place),
        sample=SAMPLE,
        queries={},
        embedder=lambda model: _embedder(_index_settings(), model),
        settle_seconds=SETTLE_SECONDS,
    )
    other, gaps = compared.other, []
    if short := too_few(connection, indexes.side(place), SETTLE_SECONDS):
        gaps.append(f"{short.rows:,} rows have text, and it holds {short.vectors:,} vectors; see the dead letters")
    if other.in_step < other.sampled:
        keys = ", ".join(map(repr, compared.missing))
        gaps.append(
            f"{other.sampled - other.in_step} of {other.sampled} sampled rows are not there as they are now: {keys}"
        )
    if not gaps:
        reindex.ready(connection, found.source)
    return gaps


def read_queries(path: Path) -> dict[str, frozenset[str]]:
    """Right keys by query. InvalidSourceError for a line that is none."""
    found: dict[str, set[str]] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        query, tab, key = line.partition("\t")
        if not (tab and query.strip() and key.strip()):
            raise InvalidSourceError(f"{path}:{number} is not a query, a TAB and the key of a right answer")
        found.setdefault(query.strip(), set()).update(part.strip() for part in key.split("\t") if part.strip())
    if not found:
        raise InvalidSourceError(f"{path} has no query; write lines of query TAB key of a right answer")
    return {query: frozenset(keys) for query, keys in found.items()}


def _embedder(settings: ReindexSettings, model: str) -> Embeds:
    try:
        from aviary.embedder import Embedder  # noqa: PLC0415 - a Pelican's image is without it
    except ImportError:
        raise InvalidSourceError(
            "--queries needs the embedding model, which is not installed here (aviary[embed]); run it where Emu's "
            "packages are, or leave it out"
        ) from None
    return Embedder(name=model, folder=settings.models.get(model))


def _index_settings() -> ReindexSettings:
    return read(ReindexSettings)


@contextmanager
def _connect() -> Iterator[psycopg.Connection[Any]]:
    settings = read(DatabaseSettings)
    with database.connect(settings, "pelican-reindex", autocommit=True) as connection:
        prepare(connection)
        # Counting a big table takes its time, and reads it from end to end.
        connection.execute("SET statement_timeout = 0; SET enable_seqscan = on; SET enable_bitmapscan = on")
        yield connection
