"""The command line of `reindex`. What its steps need is imported when one is asked for: the worker does without."""

import argparse
from collections.abc import Callable
from pathlib import Path

SUMMARY = "build another place in the index for a source beside the one in use, and change over to it"
EPILOG = """\
examples:
  python -m pelican reindex start --source products --template "{name}\\n{description}" --wait
  python -m pelican reindex start --source products --model small         named in AVIARY_MODELS
  python -m pelican reindex start --source products --index https://aviary-2-….pinecone.io
  python -m pelican reindex status
  python -m pelican reindex compare --source products --queries queries.tsv
  python -m pelican reindex switch --source products                      searches ask the new place from now on
  python -m pelican reindex rollback --source products                    and the old one again
  python -m pelican reindex drop --source products                        delete what is not in use any more

Every step may be interrupted and run again. From `start` until `drop` or `cancel` all changes go to both places. The steps
need AVIARY_POSTGRES_DSN of the tables' owner; those that look at the index need AVIARY_INDEX_HOST and PINECONE_API_KEY
too, as Emu has them."""

Command = Callable[[argparse.Namespace], int]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The steps, as commands of `reindex`."""
    parser.set_defaults(
        run=lambda _: parser.error("say which step: start, status, compare, switch, rollback, drop or cancel")
    )
    steps = parser.add_subparsers(title="steps", metavar="")

    def step(name: str, summary: str, *, all_sources: bool = False) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = steps.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.add_argument("--source", required=not all_sources, help="its name, see `sources`")
        made.set_defaults(run=_run(name))
        return made

    start = step("start", "make another place and have it filled; what is not said stays as in the place in use")
    start.add_argument("--model", help="the embedding model, one that AVIARY_MODELS names")
    start.add_argument("--template", help='the text that is searched, such as "{title}. {body}"')
    start.add_argument("--metadata", action="append", help="columns to filter by and to show, with commas between")
    start.add_argument("--index", metavar="HOST", help="the address of another index of the same project")
    start.add_argument("--wait", action="store_true", help="until every row has arrived there")

    step("status", "show where it is", all_sources=True).add_argument(
        "--json", action="store_true", help="for programs"
    )

    compare = step("compare", "counts and answers of both places beside each other")
    compare.add_argument("--queries", type=Path, metavar="FILE", help="lines of query TAB key of a right answer")
    compare.add_argument("--sample", type=int, default=200, metavar="N", help="rows to look at (default 200)")
    compare.add_argument("--json", action="store_true", help="for programs")

    switch = step("switch", "have searches ask the new place, at once; the old one is kept and kept in step")
    switch.add_argument("--force", action="store_true", help="although it is not complete, and without looking")
    switch.add_argument(
        "--within", type=float, default=60.0, metavar="S", help="seconds in which what is on its way must arrive (60)"
    )

    step("rollback", "have searches ask the old place again; the new one is kept and kept in step")
    for name, summary in (
        ("drop", "delete the place that was in use before the switch"),
        ("cancel", "delete the place that is being built, or is ready and not in use"),
    ):
        drop = step(name, summary)
        drop.add_argument(
            "--force",
            action="store_true",
            help="without waiting for what is on its way there: it may leave vectors behind",
        )
        drop.add_argument(
            "--within",
            type=float,
            default=120.0,
            metavar="S",
            help="seconds in which what is on its way must arrive (120)",
        )


def _run(name: str) -> Command:
    def run(arguments: argparse.Namespace) -> int:
        from pelican import reindex_command  # noqa: PLC0415 - the index's SDK takes half a second

        return reindex_command.run(name, arguments)

    return run
