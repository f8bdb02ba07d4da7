"""`python -m local`: the whole system on one machine. See README.md beside this file."""

import sys

try:
    from local.cli import main
except ImportError as error:
    missing = error.name or str(error)
    sys.exit(
        f"{missing} cannot be imported by {sys.executable}; run `make install`, then use .venv/bin/python -m local"
    )

if __name__ == "__main__":
    sys.exit(main())
