"""What `python -m pelican reconcile` does, and what else needs the index. The worker imports none of it."""

import argparse
import contextlib
import datetime
import json
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg
from pinecone.errors import ApiError, PineconeError

from aviary import database, logs
from aviary.aws import sqs_client
from aviary.index import PineconeIndex, is_index_host
from aviary.settings import QueueSettings, read
from aviary.source import InvalidSourceError
from pelican.ledger import Ledger
from pelican.looking import Looker
from pelican.outbox import SourceError, prepare
from pelican.reconcile import LOOK_SECONDS, Outcome, Reconcile, Step
from pelican.settings import ReconcileSettings
from pelican.sqs import QueueError, SqsQueue
from pelican.watch import SOURCES, to_source

IN_STEP, DRIFTED, CANNOT_RUN = 0, 1, 2
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}

_logger = logging.getLogger("pelican")


def reconcile(arguments: argparse.Namespace) -> int:
    """Run the command; its exit status."""
    if (arguments.since is None) != (arguments.changed_column is None):
        raise InvalidSourceError("--since and --changed-column go together: a time, and the column to hold it against")
    since = None if arguments.since is None else _since(arguments.since)
    settings = read(ReconcileSettings)
    if arguments.log:
        logs.configure("pelican", settings.log_level)
    began = time.monotonic()
    try:
        outcomes = list(_outcomes(arguments, settings, since))
    except (PineconeError, QueueError, SourceError, psycopg.OperationalError) as error:
        return _cannot_run(error, log=arguments.log)
    if arguments.log:
        _tell(outcomes, time.monotonic() - began)
    elif arguments.json:
        print(json.dumps(_as_json(outcomes), indent=2, ensure_ascii=False))
    else:
        print("\n".join(_as_text(outcomes)))
    return DRIFTED if any(outcome.left for outcome in outcomes) else IN_STEP


def vector_deleter(pause: Callable[[float], object] = time.sleep) -> Callable[[str, str], None]:
    """What deletes every vector of a namespace (of the index at a host, "" for the configured one) that no source explains
    any more, once nothing is in the queue that could bring one back. It waits for that as long as it takes. Raises
    ValidationError when a setting is missing."""
    settings = read(ReconcileSettings)

    def delete(namespace: str, host: str) -> None:
        host = host or settings.index_host
        if not is_index_host(host, settings.index_host):
            raise InvalidSourceError(
                f"the namespace {namespace} is in an index elsewhere, which may not have the API key"
            )
        queue = _queue(settings)
        while any(queue.depth()):
            pause(LOOK_SECONDS)
        with PineconeIndex(settings.pinecone_api_key.get_secret_value(), host) as index:
            index.clear(namespace)

    return delete


def _outcomes(
    arguments: argparse.Namespace,
    settings: ReconcileSettings,
    since: Callable[[datetime.datetime], datetime.datetime] | None,
) -> Iterator[Outcome]:
    api_key = settings.pinecone_api_key.get_secret_value()
    with database.connect(settings, "pelican-reconcile", autocommit=True) as connection:
        prepare(connection)
        queue = _queue(settings)
        for row in _chosen(connection, arguments.source):
            source, revision, key_text = to_source(row), row[8], row[9]
            host = source.index_host or settings.index_host
            if not is_index_host(host, settings.index_host):
                raise SourceError(source.id, f"{source.name} is in an index elsewhere, which may not have the API key")
            ledger = Ledger(connection, source)
            asked = (
                revision,
                host,
                str(settings.chunking),
                arguments.repair,
                arguments.since,
                arguments.changed_column,
            )
            if not ledger.begin(json.dumps(asked), restart=arguments.restart):
                raise SourceError(
                    source.id, f"another reconcile of {source.name} is under way; wait until it has ended"
                )
            with PineconeIndex(api_key, host) as index, _reporter(source.name, quiet=arguments.log) as report:
                looker = Looker(
                    connection,
                    index,
                    source,
                    key_text,
                    dimension=settings.dimension,
                    chunking=settings.chunking,
                    changed_column=arguments.changed_column,
                )
                run = Reconcile(
                    connection,
                    ledger,
                    looker,
                    queue,
                    source,
                    settle_seconds=arguments.settle,
                    outbox_limit=settings.backfill_outbox_limit,
                    since=since,
                    report=report,
                )
                yield run.run(repair=arguments.repair, examples=0 if arguments.log else arguments.examples)


def _chosen(connection: psycopg.Connection[Any], names: Sequence[str] | None) -> list[tuple[Any, ...]]:
    known = {row[1]: row for row in connection.execute(SOURCES).fetchall()}
    for name in names or ():
        if name not in known:
            there = ", ".join(known) or "none"
            raise InvalidSourceError(f"no table is watched under the name {name!r}; watched are: {there}")
    return [known[name] for name in names or known]


def _queue(settings: QueueSettings) -> SqsQueue:
    return SqsQueue(sqs_client(settings), settings.queue_url, settings.dlq_url)


def _since(text: str) -> Callable[[datetime.datetime], datetime.datetime]:
    """The time that is meant, from the time at which the run began: one that goes on later looks at the same rows."""
    if found := re.fullmatch(r"(\d+)([mhd])", text):
        back = datetime.timedelta(**{_UNITS[found[2]]: int(found[1])})
        return lambda began: began - back
    try:
        at = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise InvalidSourceError(
            f"--since {text!r} is no time; give 30m, 2h or 7d, or a time such as 2026-05-31T12:00:00Z"
        ) from None
    at = at if at.tzinfo else at.replace(tzinfo=datetime.UTC)
    return lambda _: at


@contextlib.contextmanager
def _reporter(name: str, *, quiet: bool) -> Iterator[Callable[[Step], None]]:
    """One line that is written over on a terminal, and one line every ten seconds elsewhere."""
    live = sys.stderr.isatty()
    began = due = time.monotonic()
    first: dict[str, int] = {}

    def report(step: Step) -> None:
        nonlocal due
        now = time.monotonic()
        first.setdefault(step.stage, step.done)
        if quiet or now < due:
            return
        due = now + (0.2 if live else 10.0)
        line = f"{name}: {step.stage} {step.done:,} of {step.total:,}, {now - began:,.0f} s"
        print(f"\r\x1b[K{line}" if live else line, end="" if live else "\n", file=sys.stderr, flush=True)

    try:
        yield report
    finally:
        if live and not quiet:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _cannot_run(error: Exception, *, log: bool) -> int:
    match error:
        case ApiError():
            sentence = f"the index refuses ({error.status_code}); look at AVIARY_INDEX_HOST and PINECONE_API_KEY"
        case PineconeError():
            sentence = f"the index does not answer ({type(error).__name__}); look at AVIARY_INDEX_HOST"
        case psycopg.OperationalError():
            sentence = f"the database does not answer ({type(error).__name__})"
        case _:
            sentence = str(error)
    if log:
        logs.log(_logger, logging.ERROR, "reconcile_failed", error=type(error).__name__, why=sentence)
    else:
        print(f"pelican: {sentence}; run it again, and it goes on where it was", file=sys.stderr)
    return CANNOT_RUN


def _tell(outcomes: Sequence[Outcome], seconds: float) -> None:
    for outcome in outcomes:
        level = logging.WARNING if outcome.drift else logging.INFO
        logs.log(_logger, level, "reconciled", **_counts(outcome))
    logs.metrics(
        _logger,
        "pelican",
        {
            "Drift": (sum(outcome.drift for outcome in outcomes), "Count"),
            "DriftLeft": (sum(outcome.left for outcome in outcomes), "Count"),
            "ReconcileSeconds": (round(seconds, 3), "Seconds"),
            "ReconcileFinished": (1, "Count"),
        },
    )


def _counts(outcome: Outcome) -> dict[str, Any]:
    return {
        "source": outcome.source.name,
        "rows": outcome.rows,
        "vectors": outcome.vectors,
        **{str(kind): count for kind, count in outcome.found.items()},
        "pending": outcome.pending,
        "repaired": outcome.drift - outcome.left,
        "left": outcome.left,
        "seconds": round(outcome.seconds, 3),
    }


def _as_json(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "drift": sum(outcome.drift for outcome in outcomes),
        "left": sum(outcome.left for outcome in outcomes),
        "pending": sum(outcome.pending for outcome in outcomes),
        "sources": [_counts(outcome) | {"examples": outcome.examples} for outcome in outcomes],
    }


def _as_text(outcomes: Sequence[Outcome]) -> Iterator[str]:
    for outcome in outcomes:
        state = "in step" if not outcome.drift else "drifted" if outcome.left else "repaired"
        yield (
            f"{outcome.source.name}: {state}; {outcome.rows:,} rows, {outcome.vectors:,} vectors, {outcome.seconds:,.1f} s"
        )
        for kind, count in outcome.found.items():
            if count:
                shown = ", ".join(outcome.examples[kind])
                yield f"  {kind:9} {count:,}" + (f", such as {shown}" if shown else "")
        if outcome.drift:
            yield f"  repaired  {outcome.drift - outcome.left:,}, left {outcome.left:,}"
        if outcome.pending:
            yield f"  pending   {outcome.pending:,} that may still be on their way"
