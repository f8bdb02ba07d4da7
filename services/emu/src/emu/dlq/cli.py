"""`python -m emu dlq`: what people do with dead letters. Errors a person can mend are one sentence, exit code 2."""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import orjson
import psycopg
import pydantic
from botocore.exceptions import BotoCoreError, ClientError

from aviary import database
from aviary.aws import sqs_client
from aviary.dead_letters import KINDS, DeadLetterQueue, Held, Look, whole_message
from aviary.index import PineconeIndex
from aviary.settings import DatabaseSettings, read, sentence
from emu.dlq import report
from emu.dlq.desk import SHORTEST_ID, Action, Desk, Done, Filter, counted
from emu.dlq.rows import Rows
from emu.dlq.settings import DlqSettings

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_NOT_ALL_DONE = 1
_MISTAKE = 2

_DESCRIPTION = """\
Look after the dead letter queue: what was set aside because it could not be processed.

It needs AVIARY_DLQ_URL. With PINECONE_API_KEY and AVIARY_INDEX_HOST it tells which letters are void (a later state of
the row is in the index), with AVIARY_POSTGRES_DSN also where the row is gone. `redrive` needs the database, as
aviary_operator: it does not send the letter itself, but has Pelican send what its rows are now."""
_EXAMPLES = """\
examples:
  python -m emu dlq list --older-than 1h
  python -m emu dlq show 3fa85f64
  python -m emu dlq redrive --source products --dry-run
  python -m emu dlq redrive --all
  python -m emu dlq drop --void"""
_EXAMPLE = {
    "list": ("list", "list --source products --reason metadata", "list --json --void"),
    "show": ("show 3fa85f64", "show 3fa85f64 --contents"),
    "redrive": ("redrive 3fa85f64", "redrive --source products --older-than 10m --dry-run", "redrive --all"),
    "drop": ("drop 3fa85f64", "drop --void", "drop --all --yes"),
}


class MistakeError(RuntimeError):
    """What was asked for cannot be done like this; the message is for people."""


def main(arguments: Sequence[str]) -> int:
    """Run a command line; the exit code: 0, 1 when something was not found or not done, 2 for a mistake."""
    parsed = _parser().parse_args(arguments)
    try:
        return int(parsed.run(parsed))
    except KeyboardInterrupt:
        return 130
    except (MistakeError, pydantic.ValidationError, psycopg.Error, BotoCoreError, ClientError, ValueError) as error:
        print(f"emu: {_sentence(error)}", file=sys.stderr)
        return _MISTAKE


def _sentence(error: Exception) -> str:
    match error:
        case pydantic.ValidationError():
            return f"{sentence(error)}; `python -m emu dlq --help` says what is needed for what"
        case ClientError():
            return f"the dead letter queue refuses: {error.response.get('Error', {}).get('Code', 'unknown error')}"
        case BotoCoreError():
            return f"the dead letter queue does not answer ({type(error).__name__})"
        case psycopg.errors.InsufficientPrivilege() | psycopg.errors.UndefinedFunction():
            return f"{error.diag.message_primary}; run `python -m pelican migrate`, and log in as aviary_operator"
        case psycopg.Error():
            return f"the database does not answer ({type(error).__name__}); what was enqueued stays enqueued"
        case _:
            return str(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m emu dlq",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="", required=True)

    command = _command(commands, "list", _list, "every letter: reason, source, key, version, age, kind, void or not")
    _add_filters(command)

    command = _command(commands, "show", _show, "one letter, whole")
    command.add_argument("id", help=f"its id, or the first {SHORTEST_ID} characters of it")
    command.add_argument("--contents", action="store_true", help="the message too, with the row's text and metadata")
    command.add_argument("--json", action="store_true", help="for programs")

    command = _command(
        commands, "redrive", _redrive, "have Pelican send what the letters' rows are now, then delete the letters"
    )
    _add_choice(command)
    command.add_argument(
        "--resend",
        action="store_true",
        help="put a message whose rows cannot be known into the queue as it came (AVIARY_QUEUE_URL)",
    )

    command = _command(commands, "drop", _drop, "delete letters; their rows stay as they are in the index")
    _add_choice(command)
    command.add_argument("--yes", action="store_true", help="do not ask before dropping everything")
    return parser


def _command(commands: Any, name: str, run: Any, summary: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog="examples:\n" + "\n".join(f"  python -m emu dlq {example}" for example in _EXAMPLE[name]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def _add_filters(command: argparse.ArgumentParser) -> None:
    command.add_argument("--source", default="", help="of this source only")
    command.add_argument("--key", default="", help="about this row")
    command.add_argument("--reason", default="", help="with these words in the reason")
    command.add_argument("--kind", choices=sorted(KINDS), default="", help="; ".join(map(": ".join, KINDS.items())))
    command.add_argument("--older-than", type=_seconds, metavar="AGE", help="such as 90s, 15m, 2h or 7d")
    command.add_argument("--newer-than", type=_seconds, metavar="AGE", help="the same")
    void = command.add_mutually_exclusive_group()
    void.add_argument("--void", action="store_true", default=None, help="of which a later state is in the index")
    void.add_argument("--not-void", action="store_false", dest="void", help="that still matter")
    command.add_argument("--json", action="store_true", help="for programs")


def _add_choice(command: argparse.ArgumentParser) -> None:
    command.add_argument("ids", nargs="*", metavar="id", help=f"ids, or the first {SHORTEST_ID} characters of them")
    _add_filters(command)
    command.add_argument("--all", action="store_true", help="every letter")
    command.add_argument("--dry-run", action="store_true", help="only say what would be done")


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not an age; write a number with s, m, h or d, such as 15m")
    return float(found[1]) * _UNITS[found[2]]


def _filter(arguments: argparse.Namespace, ids: Sequence[str] = ()) -> Filter:
    _check_ids(ids)
    return Filter(
        ids=tuple(ids),
        source=arguments.source,
        key=arguments.key,
        reason=arguments.reason,
        kind=arguments.kind,
        older_than_seconds=arguments.older_than,
        newer_than_seconds=arguments.newer_than,
        void=arguments.void,
    )


def _check_ids(ids: Sequence[str]) -> None:
    for short in (each for each in ids if len(each) < SHORTEST_ID):
        raise MistakeError(f"{short!r} is too short to name a letter; give its first {SHORTEST_ID} characters or more")


def _choice(arguments: argparse.Namespace) -> Filter:
    chosen = _filter(arguments, arguments.ids)
    if chosen.is_all != arguments.all:
        raise MistakeError("say which letters: by id, by filters, or --all of them, and not two of these at once")
    return chosen


class _Opened(NamedTuple):
    settings: DlqSettings
    queue: DeadLetterQueue
    look: Look
    desk: Desk
    client: Any


@contextmanager
def _open(*, void: bool | None = None, needs_rows: bool = False) -> Iterator[_Opened]:
    """The queue and what else there are settings for."""
    settings = read(DlqSettings)
    if needs_rows and settings.postgres_dsn is None:
        raise MistakeError("redrive has Pelican send rows again, so it needs AVIARY_POSTGRES_DSN (of aviary_operator)")
    has_index = settings.pinecone_api_key is not None and bool(settings.index_host)
    if void is not None and not has_index:
        raise MistakeError("the index tells which letters are void: set PINECONE_API_KEY and AVIARY_INDEX_HOST")
    with ExitStack() as opened:
        client = sqs_client(settings, long_poll_seconds=1)
        opened.callback(client.close)
        index = rows = None
        if settings.pinecone_api_key is not None and settings.index_host:
            key = settings.pinecone_api_key.get_secret_value()
            index = opened.enter_context(PineconeIndex(key, settings.index_host, settings.pinecone_timeout_seconds))
        if settings.postgres_dsn is not None:
            given = read(DatabaseSettings)
            connection = database.connect(given, "emu-dlq", autocommit=True)
            rows = Rows(opened.enter_context(connection))
        queue = DeadLetterQueue(client, settings.dlq_url)
        look = opened.enter_context(queue.look())
        yield _Opened(settings, queue, look, Desk(look, index=index, index_host=settings.index_host, rows=rows), client)


def _list(arguments: argparse.Namespace) -> int:
    chosen = _filter(arguments)
    with _open(void=chosen.void) as opened:
        progress = report.Progress(opened.look)
        found = [progress.counted(seen) for seen in opened.desk.letters(chosen)]
        progress.end()
    found.sort(key=lambda seen: seen.letter.at_ms, reverse=True)
    if arguments.json:
        _print_json({"letters": [report.as_json(seen) for seen in found], **report.totals(opened.look)})
    elif found:
        print("\n".join(report.table(found)))
    else:
        print("no letter can be seen" if chosen.is_all else "no letter is meant", file=sys.stderr)
    report.say(opened.look, opened.desk.troubles)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    _check_ids([arguments.id])
    with _open() as opened:
        found = opened.desk.contents(arguments.id)
    report.say(opened.look, opened.desk.troubles)
    if found is None:
        print(f"emu: no letter {arguments.id} can be seen", file=sys.stderr)
        return _NOT_ALL_DONE
    seen, body = found
    if arguments.json:
        _print_json(report.as_json(seen) | ({"contents": body} if arguments.contents else {}))
        return 0
    print("\n".join(report.details(seen)))
    if arguments.contents:
        print(f"\n{report.pretty(body)}")
    return 0


def _redrive(arguments: argparse.Namespace) -> int:
    chosen = _choice(arguments)
    with _open(void=chosen.void, needs_rows=not arguments.dry_run) as opened:
        if arguments.resend and not opened.settings.queue_url:
            raise MistakeError("--resend puts messages into the queue of changes: set AVIARY_QUEUE_URL")

        def resend(held: Held) -> None:
            opened.client.send_message(
                QueueUrl=opened.settings.queue_url,
                MessageBody=whole_message(held),
                MessageGroupId=held.group or held.id,
                MessageDeduplicationId=f"resent-{held.id}",
            )

        done = opened.desk.redrive(chosen, resend=resend if arguments.resend else None, dry_run=arguments.dry_run)
        return _tell(arguments, opened, done)


def _drop(arguments: argparse.Namespace) -> int:
    chosen = _choice(arguments)
    with _open(void=chosen.void) as opened:
        if chosen.is_all and not (arguments.yes or arguments.dry_run):
            depth = opened.look.depth
            if not sys.stdin.isatty():
                raise MistakeError(f"this drops every letter ({depth.waiting}); give --yes where nobody can be asked")
            print(f"Drop all {depth.waiting} letters? Their rows stay as they are in the index. [y/N] ", end="")
            if input().strip().lower() not in ("y", "yes"):
                raise MistakeError("nothing was dropped")
        return _tell(arguments, opened, opened.desk.drop(chosen, dry_run=arguments.dry_run))


def _tell(arguments: argparse.Namespace, opened: _Opened, doing: Iterator[Done]) -> int:
    """Do it and say what became of each letter: ids and sources only, because a task's output ends in its log."""
    progress = report.Progress(opened.look)
    done = []
    for one in doing:
        done.append(progress.counted(one))
        if not arguments.json:
            progress.interrupt()
            print(" ".join(part for part in (one.letter.id, one.letter.source, one.action.value) if part), end="")
            print(f": {one.why}" if one.why else "", flush=True)
    progress.end()
    if arguments.json:
        letters = [{"id": d.letter.id, "source": d.letter.source, "action": d.action.value, "why": d.why} for d in done]
        _print_json({"dry_run": arguments.dry_run, "letters": letters, "counts": counted(done)})
    else:
        summary = ", ".join(f"{count} {action}" for action, count in counted(done).items()) or "no letter is meant"
        print(f"{'would be: ' if arguments.dry_run else ''}{summary}", file=sys.stderr)
    report.say(opened.look, opened.desk.troubles)
    unseen = [each for each in arguments.ids if not any(one.letter.id.startswith(each) for one in done)]
    if unseen:
        print(f"emu: no letter {' nor '.join(unseen)} can be seen", file=sys.stderr)
        return _NOT_ALL_DONE
    return _NOT_ALL_DONE if any(one.action is Action.KEEP for one in done) or opened.desk.troubles else 0


def _print_json(value: object) -> None:
    print(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())
