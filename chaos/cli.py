"""The command line of the chaos suite."""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from chaos.faults import KINDS
from chaos.plan import Episode, PlanError, plan
from chaos.report import Asked, report, write
from chaos.run import InterruptedRunError, Run
from chaos.world import World
from local.folder import FolderError
from local.supervisor import StartError

EXAMPLES = """examples:
  python -m chaos                                       ten minutes, 10,000 transactions, 66 faults
  python -m chaos --seed 7 --minutes 3 --operations 1500 --faults 14
  python -m chaos --only "emu killed" --faults 5 --minutes 1 --operations 500
  python -m chaos --list                                what the seed means, without running it
  python -m chaos --keep --data-dir /tmp/chaos          leave the logs to be read

The same seed makes the same transactions, and the same faults at the same places among them. How the processes
interleave under them is the machine's doing, and is not repeated.

Exit status: 0 every promise held, 1 one did not (the report names it), 2 a wrong option."""


def main(arguments: Sequence[str]) -> int:
    """Run the suite; the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    unknown = [name for name in options.only if name not in {kind.name for kind in KINDS}]
    if unknown:
        parser.error(f"there is no fault {unknown[0]!r}; there are: {', '.join(kind.name for kind in KINDS)}")
    kinds = [kind for kind in KINDS if not options.only or kind.name in options.only]
    try:
        episodes = plan(
            kinds,
            seed=options.seed,
            seconds=options.minutes * 60,
            operations=options.operations,
            faults=options.faults,
        )
    except PlanError as error:
        parser.error(str(error))
    if options.list:
        _list(episodes)
        return 0
    folder = options.data_dir or Path(tempfile.mkdtemp(prefix="aviary-chaos-"))
    try:
        return _run(options, episodes, folder)
    except InterruptedRunError:
        print("chaos: stopped before the end, so there is no report")
        return 1
    except (FolderError, StartError, OSError) as error:
        print(f"chaos: {error}")
        return 1
    finally:
        if options.data_dir is None and not options.keep:
            shutil.rmtree(folder, ignore_errors=True)


def _run(options: argparse.Namespace, episodes: list[Episode], folder: Path) -> int:
    world = World(folder)
    load, began = os.getloadavg()[0], time.monotonic()
    answers = []

    def work() -> None:
        _say(f"all is up after {time.monotonic() - began:.0f} s; {len(episodes)} episodes; logs: {world.folder.logs}")
        with Run(world, episodes, _say) as run:
            outcome = run.go()
        asked = Asked(
            seed=options.seed,
            minutes=options.minutes,
            operations=options.operations,
            faults=options.faults,
            took_seconds=time.monotonic() - began,
            load=(load, os.getloadavg()[0]),
        )
        answers.append(report(asked, outcome, run.users.made, world.unexpected))

    world.run(work)
    (answer,) = answers
    text = write(options.report, answer)
    print(f"\n{text.read_text()}\n{text}")
    return 1 if answer["failures"] else 0


def _say(line: str) -> None:
    print(line, flush=True)


def _list(episodes: Sequence[Episode]) -> None:
    passed = 0.0
    for episode in episodes:
        faults = "; ".join(
            f"{i.kind.name} at {i.start:.1f} s" + (f" for {i.seconds:.1f} s" if i.seconds else "")
            for i in episode.injections
        )
        print(f"{passed:5.0f} s  {len(episode.operations):4} transactions  {faults}")
        passed += episode.seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m chaos",
        description="Break the laptop stack on purpose while users write, and compare the index with the tables.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="which run (default 1)")
    parser.add_argument(
        "--minutes", type=_over(0.0, float), default=10.0, metavar="M", help="how long it may take (default 10)"
    )
    parser.add_argument(
        "--operations", type=_over(0, int), default=10_000, metavar="N", help="user transactions (default 10,000)"
    )
    parser.add_argument("--faults", type=_over(0, int), default=66, metavar="N", help="faults (default 66)")
    parser.add_argument("--only", action="append", default=[], metavar="KIND", help="only these kinds of faults")
    parser.add_argument("--list", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument(
        "--report", type=Path, default=Path("build/chaos"), metavar="D", help="where the report goes (build/chaos)"
    )
    parser.add_argument("--data-dir", type=Path, metavar="D", help="the stack's data folder (default: a temporary one)")
    parser.add_argument("--keep", action="store_true", help="leave the temporary folder, with its logs")
    return parser


def _over(least: float, kind: Callable[[str], float]) -> Callable[[str], float]:
    def number(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = least
        if value <= least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number greater than {least:g}")
        return value

    return number
