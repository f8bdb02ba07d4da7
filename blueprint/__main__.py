"""`python -m blueprint`: preview, cost and diagram of the stacks, without an engine, an account or a network."""

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from aviary.pipes import ending_quietly
from blueprint import diagram, text
from blueprint.graph import Graph
from blueprint.record import RecordingError, record

STACKS = ("dev", "prod")


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, or 1 with the program's own message when it does not run."""
    parser = argparse.ArgumentParser(
        prog="python -m blueprint",
        description=__doc__,
        epilog="examples: `python -m blueprint preview --stack prod`, `python -m blueprint cost`",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, help_ in (("preview", "what would be built, and what it costs"), ("cost", "the estimate alone")):
        command = commands.add_parser(name, help=help_, description=f"{help_.capitalize()}.")
        which = command.add_mutually_exclusive_group()
        which.add_argument("--stack", choices=STACKS, help="show this one; costs stand side by side all the same")
        which.add_argument("--both", action="store_true", help="show both stacks, as without --stack")
    commands.add_parser("diagram", help=f"draw {diagram.FOLDER.name}/{diagram.NAME.format('dev')} and its like")
    options = parser.parse_args(arguments)
    try:
        graphs = recorded()
    except RecordingError as error:
        print(error, file=sys.stderr)
        return 1
    if options.command == "diagram":
        for graph in graphs.values():
            print(diagram.write(graph))
        return 0
    shown = (options.stack,) if options.stack else STACKS
    show = text.show if options.command == "preview" else text.show_cost
    with text.tidy(text.console()) as console:
        show(graphs, shown, console)
    return 0


def recorded() -> dict[str, Graph]:
    """Both stacks, each recorded in a process of its own."""
    with ThreadPoolExecutor() as threads:
        return dict(zip(STACKS, threads.map(record, STACKS), strict=True))


if __name__ == "__main__":
    with ending_quietly():
        sys.exit(main())
