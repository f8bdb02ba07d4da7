"""`python -m local`: the whole system on one machine. See README.md beside this file."""

import sys

INTERRUPTED = 130


def start() -> int:
    """Import and run the command line; one sentence when a library is missing, nothing when Ctrl-C comes early."""
    try:
        from local.cli import main  # noqa: PLC0415 - so that what it imports can be missing

        return main()
    except ImportError as error:
        print(
            f"{error.name or error} cannot be imported by {sys.executable}; "
            "run `make install`, then use .venv/bin/python -m local",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(start())
