"""The options of `python -m pelican reconcile`, apart from what it does, which the worker need not import."""

import argparse

SUMMARY = "compare tables with their vectors, and mend what is not in step"
EPILOG = """\
examples:
  python -m pelican reconcile
  python -m pelican reconcile --repair
  python -m pelican reconcile --source products --since 2h --changed-column updated_at --json

exit status:
  0  in step, or all that was found is repaired
  1  drift was found, and some of it is left
  2  it cannot run; nothing is known

missing   a row without its vector (a row whose text is blank needs none)
stale     the vector is of another text, shows other metadata, or lacks a further vector of a long text
orphaned  a vector without a row, or with a blank one; a surplus one of a long text
pending   a difference that may still be on its way; it is no drift, and the next run looks again

Writes may go on. Killed, it goes on where it was when it is started again with the same options within a day.
--since leaves out rows that are older by --changed-column, and orphans altogether. So it misses what was deleted, and
whatever was written without setting that column. Run it without --since now and then.
It needs AVIARY_POSTGRES_DSN, AVIARY_QUEUE_URL, AVIARY_INDEX_HOST and PINECONE_API_KEY."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The options of `reconcile`."""
    command.add_argument("--source", action="append", help="only this one (may be given again)")
    command.add_argument("--repair", action="store_true", help="send what drifted again, delete what is orphaned")
    command.add_argument("--since", help="only rows changed since: 30m, 2h, 7d, or a time such as 2026-05-31T12:00:00Z")
    command.add_argument("--changed-column", help="the timestamp column that says so; goes with --since")
    command.add_argument(
        "--settle",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how long a difference may take to go away; then it is pending, and a repair that does not move is left (60)",
    )
    command.add_argument("--examples", type=int, default=5, help="keys of each kind to show (5)")
    command.add_argument("--restart", action="store_true", help="start over one that was killed")
    command.add_argument("--json", action="store_true", help="the report as JSON")
    command.add_argument(
        "--log", action="store_true", help="for schedulers: the report as log lines and metrics, without any key"
    )
