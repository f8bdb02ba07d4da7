"""`python -m local`: the whole system on one machine. See README.md beside this file."""

import sys

INTERRUPTED = 130


def start() -> int:
    """Import and run the command line; one sentence when a library is missing, nothing when Ctrl-C comes early."""
    try:
        # Here, so that what they import can be missing.
        from aviary.pipes import ending_quietly  # noqa: PLC0415
        from local.cli import main  # noqa: PLC0415

        with ending_quietly():
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
