"""The command line of the laptop stack."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from aviary.pipes import ending_quietly
from local.folder import Folder, FolderError

DEFAULT_ROWS = 5_000
MAX_WORKERS = 16
DEFAULT_PORT = 8000

EXAMPLES = """examples:
  python -m local up                          run everything here with 5,000 products; Ctrl-C stops it
  python -m local up --detach                 the same in the background; returns once all rows are searchable
  python -m local up --emus 2 --pelicans 2 --port 8080 --data-dir /tmp/second
  python -m local status                      processes, rows, vectors, queues
  eval "$(python -m local env)"               then `python -m pelican reindex status` and the like reach this stack
  python -m local load shop.csv --map name=Title --map sku="Item no."
  python -m local down                        stop what runs in the background; the data stays
  python -m local reset                       stop it and delete its data
"""


@ending_quietly()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: 0 done, 1 not done (with a sentence that says why), 2 for a wrong option."""
    parser = argparse.ArgumentParser(
        prog="python -m local",
        description="The whole system on this machine: Postgres, SQS and SNS, Pinecone, Pelican, Emu and the frontend.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="up|down|status|env|load|reset")
    for add in (_add_up, _add_down, _add_status, _add_env, _add_load, _add_reset):
        add(commands)
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except FolderError as error:
        print(f"{parser.prog}: {error}")
        return 1


def _add_up(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(commands, "up", "start everything; fill the products table the first time", _up)
    parser.add_argument("--detach", action="store_true", help="go on in the background; return once all is searchable")
    parser.add_argument("--pelicans", type=_number(1, MAX_WORKERS), default=1, metavar="N", help="Pelicans (default 1)")
    parser.add_argument("--emus", type=_number(1, MAX_WORKERS), default=1, metavar="N", help="Emus (default 1)")
    parser.add_argument(
        "--port", type=_number(1, 65_535), default=DEFAULT_PORT, metavar="N", help="the frontend's (default 8000)"
    )
    parser.add_argument(
        "--rows",
        type=_number(0, 1_000_000),
        default=DEFAULT_ROWS,
        metavar="N",
        help=f"products to make at the first start (default {DEFAULT_ROWS:,})",
    )
    parser.add_argument(
        "--model",
        action="append",
        type=_model,
        default=[],
        metavar="NAME=DIR",
        help="a further embedding model that a source may be reindexed with (may be given again)",
    )
    parser.add_argument("--no-catalogue", action="store_true", help="leave the products table empty")
    parser.add_argument("--events-fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--began", type=float, default=psutil.Process().create_time(), help=argparse.SUPPRESS)


def _add_down(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    _command(commands, "down", "stop everything; the data stays", _down)


def _add_status(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(commands, "status", "what runs, and how far behind it is", _status)
    parser.add_argument("--json", action="store_true", help="for programs")


def _add_env(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    _command(commands, "env", "the settings by which commands of the services reach what runs, for a shell", _env)


def _add_load(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(commands, "load", "load a CSV file into a watched table, all or nothing", _load)
    parser.add_argument("file", type=Path, metavar="FILE.csv", help="UTF-8; its first row names the columns")
    parser.add_argument(
        "--map",
        type=_mapping,
        action="append",
        default=[],
        metavar="COLUMN=HEADER",
        help="which header is which column, where the names differ (case, spaces and punctuation do not matter)",
    )
    parser.add_argument("--source", default="products", metavar="NAME", help="the watched table (default products)")
    parser.add_argument("--no-wait", action="store_true", help="do not wait until the rows are searchable")


def _add_reset(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(commands, "reset", "stop everything and delete the data", _reset)
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    summary: str,
    run: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=Path(".local"),
        metavar="D",
        help="where all data and logs are (default .local)",
    )
    parser.set_defaults(run=run)
    return parser


# What a command needs is imported when it is asked for: none should wait for the others' libraries.


def _up(options: argparse.Namespace) -> int:
    from local import up_command  # noqa: PLC0415

    folder = Folder(options.data_dir)
    if options.detach:
        return up_command.start_in_background(folder, _again(options, folder))
    from local.stack import Plan  # noqa: PLC0415
    from local.up import Options  # noqa: PLC0415

    wanted = Options(
        folder=folder,
        plan=Plan(options.pelicans, options.emus, options.port, tuple(options.model)),
        rows=options.rows,
        catalogue=not options.no_catalogue,
        began=options.began,
    )
    if options.events_fd is not None:
        return up_command.in_background(wanted, options.events_fd)
    return up_command.in_terminal(wanted)


def _again(options: argparse.Namespace, folder: Folder) -> list[str]:
    """The same `up`, written out in full."""
    values = {"--data-dir": folder.path, "--pelicans": options.pelicans, "--emus": options.emus, "--port": options.port}
    values |= {"--rows": options.rows, "--began": options.began}
    flags = ["--no-catalogue"] if options.no_catalogue else []
    models = [f"--model={model}" for model in options.model]
    return flags + models + [f"{name}={value}" for name, value in values.items()]


def _down(options: argparse.Namespace) -> int:
    from local.down import down  # noqa: PLC0415

    return down(Folder(options.data_dir))


def _status(options: argparse.Namespace) -> int:
    from local.status import status  # noqa: PLC0415

    return status(Folder(options.data_dir), as_json=options.json)


def _env(options: argparse.Namespace) -> int:
    from local.status import environment  # noqa: PLC0415

    return environment(Folder(options.data_dir))


def _load(options: argparse.Namespace) -> int:
    from local.load_command import load_file  # noqa: PLC0415

    return load_file(
        Folder(options.data_dir), options.file, dict(options.map), options.source, wait=not options.no_wait
    )


def _reset(options: argparse.Namespace) -> int:
    from local.down import reset  # noqa: PLC0415

    return reset(Folder(options.data_dir), sure=options.yes)


def _number(low: int, high: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low:,} to {high:,}")
        return int(text)

    return number


def _model(text: str) -> str:
    name, equals, folder = text.partition("=")
    if not equals or not name or not (Path(folder) / "model.safetensors").is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=DIR with a model.safetensors in the folder DIR")
    return f"{name}={Path(folder).resolve()}"


def _mapping(text: str) -> tuple[str, str]:
    column, equals, header = text.partition("=")
    if not equals or not column.strip() or not header.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form COLUMN=HEADER, such as name=Title")
    return column.strip(), header.strip()
