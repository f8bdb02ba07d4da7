"""`python -m chaos`."""

import sys

from aviary.pipes import ending_quietly
from chaos.cli import main

if __name__ == "__main__":
    with ending_quietly():
        sys.exit(main(sys.argv[1:]))
