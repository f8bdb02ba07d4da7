"""`python -m pelican`: the worker, and the commands that set it up."""

import sys

from pelican.cli import main

sys.exit(main(sys.argv[1:]))
