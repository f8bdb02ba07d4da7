"""`local.sqs` as it is, with one line for each request to it: what AWS would bill. Started by benchmarks.rig."""

import sys
import threading
from pathlib import Path

from local import sqs


def main() -> None:
    """`--calls FILE` first, then what `local.sqs` takes."""
    path = Path(sys.argv[sys.argv.index("--calls") + 1])
    del sys.argv[sys.argv.index("--calls") : sys.argv.index("--calls") + 2]
    lines, lock = path.open("a", buffering=1), threading.Lock()

    class Counted(sqs.Handler):
        def run_wsgi(self) -> None:
            target = self.headers.get("X-Amz-Target", "").rpartition(".")[2]
            size = int(self.headers.get("Content-Length", 0))
            with lock:
                lines.write(f'{{"target": "{target}", "bytes": {size}}}\n')
            super().run_wsgi()

    vars(sqs)["Handler"] = Counted
    sqs.main()


if __name__ == "__main__":
    main()
