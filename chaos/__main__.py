"""`python -m chaos`."""

import signal
import sys

from chaos.cli import main

if __name__ == "__main__":
    if "--list" in sys.argv:
        # Whoever reads may have had enough (`| head`). A run must go on by itself when a connection breaks.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main(sys.argv[1:]))
