"""The command line. Errors a person can mend are one sentence on stderr and exit code 2."""

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from typing import Any

import psycopg
import pydantic

from aviary import database, logs
from aviary.aws import sqs_client
from aviary.dead_letters import DeadLetterQueue
from aviary.settings import DatabaseSettings, listing, read
from aviary.settings import sentence as settings_sentence
from aviary.signals import on_end
from aviary.source import InvalidSourceError
from pelican import backfill, reconcile_options, reindex_options, tables
from pelican.migrate import MigrationError, migrate
from pelican.outbox import SourceError, prepare
from pelican.service import Pelican
from pelican.settings import BackfillSettings, PelicanSettings
from pelican.sqs import SqsQueue
from pelican.watch import SOURCES, source_named, sources, to_source, unwatch, watch

_DESCRIPTION = """\
Ships what changes in watched Postgres tables to the queue that Emu reads.

Without a command: the worker, until SIGTERM, with the settings below. The commands need AVIARY_POSTGRES_DSN of the role that
owns the tables (for `backfill`, `reconcile` and `sources` that of aviary_pelican is enough); what looks at the index needs
AVIARY_INDEX_HOST and PINECONE_API_KEY too, and says so in its own help."""
_EXAMPLES = """\
examples:
  python -m pelican migrate
  python -m pelican watch --table public.articles --key id --text "{title}\\n{body}" --metadata author,year
  python -m pelican backfill --source articles --wait
  python -m pelican"""
_WATCH_EXAMPLES = """\
examples:
  python -m pelican watch --table products --key id --text "{description} {name}" --metadata sku,name,category,price
  python -m pelican watch --table shop.stock --key warehouse,sku --text "{label}" --name stock
  python -m pelican watch --table '"Weird Schema"."Odd.Table"' --key '"a,b"' --text "{title}\\n\\n{body}"

The text template names columns as {column}; \\n and \\t in it are a new line and a tab, a literal brace is written twice.
Running it again for a table changes the mapping; rows are sent again where that makes a difference."""

_EXAMPLE = {"unwatch": "unwatch --source articles", "backfill": "backfill --source articles --wait"}


def main(arguments: Sequence[str]) -> int:
    """Run a command line; the exit code."""
    parsed = _parser().parse_args(arguments)
    try:
        return int(parsed.run(parsed))
    except KeyboardInterrupt:
        return 130
    except (InvalidSourceError, MigrationError, SourceError, pydantic.ValidationError, psycopg.Error) as error:
        if sentence := _sentence(error):
            print(f"pelican: {sentence}", file=sys.stderr)
            return 2
        raise


def _sentence(error: Exception) -> str:
    """What a person can do about it; "" for a defect of ours."""
    sentence = str(error)
    match error:
        case pydantic.ValidationError():
            sentence = f"{settings_sentence(error)}; `python -m pelican --help` says what each command needs"
        case psycopg.errors.UndefinedTable():
            sentence = "this database has no schema of ours yet; run `python -m pelican migrate` first"
        case psycopg.errors.InsufficientPrivilege():
            sentence = f"{error.diag.message_primary}; run this as the owner of the database and its tables"
        case psycopg.errors.DuplicateTable():
            sentence = f"{error.diag.message_primary}, and it is not ours; rename it and run this again"
        case psycopg.OperationalError():
            sentence = f"the database does not answer: {sentence.strip().splitlines()[-1]}"
        case psycopg.Error():
            sentence = ""
    return sentence


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pelican",
        description=_DESCRIPTION,
        epilog=f"{_EXAMPLES}\n\n{listing(PelicanSettings)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_work)
    commands = parser.add_subparsers(title="commands", metavar="")

    _command(commands, "migrate", _migrate, "make or update the schema, the roles and the products table")

    command = _command(commands, "watch", _watch, "make a table searchable, or change what of it is", _WATCH_EXAMPLES)
    command.add_argument("--table", required=True, help="schema.table, as in SQL")
    command.add_argument("--key", required=True, action="append", help="its key column, or columns with commas between")
    command.add_argument("--text", required=True, help='the text that is searched, such as "{title}. {body}"')
    command.add_argument(
        "--metadata", action="append", default=[], help="columns to filter by and to show, with commas between"
    )
    command.add_argument("--name", help="name of the source and its namespace in the index (default: the table's)")
    command.add_argument("--no-backfill", action="store_true", help="do not send the rows that are there already")

    command = _command(commands, "unwatch", _unwatch, "forget a watched table; its rows stay, and its vectors too")
    command.add_argument("--source", required=True, help="its name, see `sources`")
    command.add_argument(
        "--delete-vectors",
        action="store_true",
        help="empty its namespace of the index, once the queue is empty; also of a name that is watched no more. "
        "Needs AVIARY_QUEUE_URL, AVIARY_INDEX_HOST and PINECONE_API_KEY too",
    )

    command = _command(commands, "backfill", _backfill, "send every row of the watched tables again")
    command.add_argument("--source", action="append", help="only this one (may be given again)")
    command.add_argument("--restart", action="store_true", help="start over one that is under way")
    command.add_argument("--wait", action="store_true", help="until the queue has taken all of it")

    command = _command(commands, "reconcile", _reconcile, reconcile_options.SUMMARY, reconcile_options.EPILOG)
    reconcile_options.add_arguments(command)

    reindex_options.add_arguments(
        _command(commands, "reindex", _sources, reindex_options.SUMMARY, reindex_options.EPILOG)
    )

    _command(commands, "sources", _sources, "list the watched tables and how far behind each is")
    return parser


def _command(commands: Any, name: str, run: Any, summary: str, epilog: str = "") -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=epilog or f"example:\n  python -m pelican {_EXAMPLE.get(name, name)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def _work(_: argparse.Namespace) -> int:
    settings = read(PelicanSettings)
    logs.configure("pelican", settings.log_level)
    letters = DeadLetterQueue(sqs_client(settings, long_poll_seconds=1), settings.dlq_url) if settings.dlq_url else None
    pelican = Pelican(settings, SqsQueue(sqs_client(settings), settings.queue_url, settings.dlq_url), letters)

    def stop(name: str) -> None:
        logs.log(logging.getLogger("pelican"), logging.INFO, "stopping", signal=name)
        pelican.stop.set()

    on_end(stop)
    pelican.run()
    return 0


def _connect() -> psycopg.Connection[Any]:
    settings = read(DatabaseSettings)
    return database.connect(settings, "pelican-command", autocommit=True)


def _migrate(_: argparse.Namespace) -> int:
    # In a task its output is a log, and the text of what fails may quote a row.
    logs.configure("migrate")
    with _connect() as connection:
        applied = migrate(connection)
    print("\n".join(f"applied {name}" for name in applied) or "up to date")
    return 0


def _watch(arguments: argparse.Namespace) -> int:
    text = arguments.text.replace("\\n", "\n").replace("\\t", "\t")
    with _connect() as connection:
        watched = watch(
            connection,
            table=arguments.table,
            key=tables.split_columns(arguments.key),
            text=text,
            metadata=tables.split_columns(arguments.metadata),
            name=arguments.name,
            backfill=not arguments.no_backfill,
        )
    source = watched.source
    print(f"{source.schema}.{source.table} is {'now ' if watched.is_new else ''}watched as {source.name}")
    if watched.changed:
        print(
            "rows that are there already are not sent: `backfill` does it"
            if arguments.no_backfill
            else "rows that are there already are sent by the running Pelican; `sources` shows how far it is"
        )
    return 0


def _unwatch(arguments: argparse.Namespace) -> int:
    name = arguments.source
    if arguments.delete_vectors:
        return _unwatch_and_delete(name)
    with _connect() as connection:
        source = unwatch(connection, name)
    print(
        f"{source.schema}.{source.table} is not watched any more; its vectors are still there: "
        f"`unwatch --source {source.namespace} --delete-vectors` deletes them"
    )
    return 0


def _unwatch_and_delete(name: str) -> int:
    """Killed half-way, the same command deletes the vectors of a name that is not watched any more."""
    from pelican.reconcile_command import vector_deleter  # noqa: PLC0415 - the worker does without the SDK

    delete = vector_deleter()
    with _connect() as connection:
        rows = [row for row in connection.execute(SOURCES) if row[1] == name]
        places = {(row[7], row[10]) for row in rows} | {(row[13], row[14]) for row in rows if row[13]} or {(name, "")}
        if rows:
            unwatch(connection, name, other_too=True)
    print(f"{name} is not watched any more; waiting until nothing is in the queue", file=sys.stderr)
    for namespace, host in sorted(places):
        delete(namespace, host)
        print(f"the namespace {namespace} of the index is empty")
    return 0


def _reconcile(arguments: argparse.Namespace) -> int:
    from pelican.reconcile_command import reconcile  # noqa: PLC0415 - the worker does without the SDK

    return reconcile(arguments)


def _backfill(arguments: argparse.Namespace) -> int:
    limit = read(BackfillSettings).backfill_outbox_limit
    with _connect() as connection:
        prepare(connection)
        chosen = [source_named(connection, n) for n in arguments.source] if arguments.source else sources(connection)
        begun = backfill.request(connection, chosen, restart=arguments.restart)
        for source in chosen:
            print(f"{source.name}: {'from the start' if source in begun else 'goes on where it was'}", file=sys.stderr)
        backfill.run(connection, chosen, limit, wait=arguments.wait, report=_Reporter().report)
    return 0


class _Reporter:
    """One line that is written over on a terminal, and one line every ten seconds elsewhere."""

    def __init__(self) -> None:
        self._due = 0.0
        self._live = sys.stderr.isatty()

    def report(self, progress: backfill.Progress) -> None:
        now = time.monotonic()
        is_last = progress.finished and not progress.waiting
        if now < self._due and not is_last:
            return
        self._due = now + (0.2 if self._live else 10.0)
        left = "" if progress.seconds_left is None else f", about {progress.seconds_left:,.0f} s left"
        line = f"{progress.sent:,} of {max(progress.total, progress.enqueued):,} keys sent{left}"
        end = "\n" if is_last or not self._live else ""
        print(f"\r\x1b[K{line}" if self._live else line, end=end, file=sys.stderr, flush=True)


def _sources(_: argparse.Namespace) -> int:
    with _connect() as connection:
        states = connection.execute(
            "SELECT name, live_keys, backfill_keys, oldest_enqueued_at, backfill_enqueued, backfill_total, "
            "backfill_finished_at, backfill_seconds_left FROM sync.status"
        ).fetchall()
        rows = connection.execute(SOURCES).fetchall()
        known = {row[1]: to_source(row) for row in rows}
        others = {row[1]: f"; {row[13]} is {row[12]}, see `reindex status`" for row in rows if row[12]}
        for name, live, filling, oldest, enqueued, total, finished, left in states:
            source = known[name]
            print(f"{name}: {source.schema}.{source.table} by ({', '.join(source.key_columns)})")
            print(f"  text      {source.text_template!r}")
            print(f"  metadata  {', '.join(source.metadata_columns) or '-'}")
            print(f"  place     {source.namespace} ({source.model}){others.get(name, '')}")
            waiting = f"{live:,} live and {filling:,} backfilled keys" + (
                f", since {oldest:%F %T %Z}" if oldest else ""
            )
            print(f"  waiting   {waiting}")
            if enqueued is not None:
                done = f"finished {finished:%F %T %Z}" if finished else "under way"
                done += "" if left is None else f", all sent in about {left:,.0f} s"
                print(f"  backfill  {enqueued:,} of about {max(total, enqueued):,} keys enqueued, {done}")
            if trouble := tables.trouble(connection, source):
                print(f"  TROUBLE   {trouble}")
    return 0
