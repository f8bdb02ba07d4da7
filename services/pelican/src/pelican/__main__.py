"""`python -m pelican`: the worker, and the commands that set it up."""

import sys

from aviary.pipes import ending_quietly
from pelican.cli import main

with ending_quietly():
    sys.exit(main(sys.argv[1:]))
