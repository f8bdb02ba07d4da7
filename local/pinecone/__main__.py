"""`python -m local.pinecone`: serve until SIGTERM or SIGINT."""

import argparse
import gc
import logging
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from aviary.logs import configure, log
from local.pinecone.app import Application
from local.pinecone.store import Store, StoreError

logger = logging.getLogger("local.pinecone")

BACKLOG = 512
KEEP_ALIVE_SECONDS = 75
SHUTDOWN_SECONDS = 3
# Python's own 700 are reached every few requests, whose objects are nearly all freed by themselves.
COLLECT_AFTER_OBJECTS = 10_000


class _Protocol(HttpToolsProtocol):
    """uvicorn's in C, so that a query costs no more than it must, with the connection at hand for the faults that reset it."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.app_state: dict[str, Any] = {**self.app_state, "transport": transport}


def main() -> int:
    """The exit status: 0 after a signal, 1 with one sentence on stderr when it cannot start."""
    parser = argparse.ArgumentParser(
        prog="python -m local.pinecone",
        description="Pinecone's control and data plane for the unchanged SDK, until SIGTERM.",
        epilog="example: python -m local.pinecone --port 5080 --data-dir .local/pinecone",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, required=True, help="0 picks a free one and says so in the log")
    parser.add_argument("--data-dir", type=Path, required=True, help="where the indexes are kept")
    parser.add_argument("--visibility-delay-ms", type=float, default=0.0, help="reads see a write after this long")
    parser.add_argument("--api-key", help="the only key accepted; without it any key is")
    parser.add_argument("--fsync", action="store_true", help="answer writes once they are on the disk, not before")
    parser.add_argument("--allow-faults", action="store_true", help="serve /_faults, for tests")
    options = parser.parse_args()
    configure("pinecone")
    try:
        listener = _listen(options.host, options.port)
        store = Store(
            options.data_dir, visibility_delay_seconds=options.visibility_delay_ms / 1000, fsync=options.fsync
        )
    except (OSError, StoreError) as error:
        print(f"pinecone stand-in: {error}", file=sys.stderr)
        return 1
    application = Application(store, api_key=options.api_key, allow_faults=options.allow_faults)
    # What was loaded stays: the collector need not walk it again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER_OBJECTS)
    server = uvicorn.Server(
        uvicorn.Config(
            application.asgi,
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
    )
    # For a signal before uvicorn looks for them, and for the one that it raises again once it has shut down, which is
    # not to end us before the files are closed.
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: setattr(server, "should_exit", True))
    host, port = listener.getsockname()[:2]
    log(logger, logging.INFO, "listening", url=f"http://{host}:{port}", indexes=len(store.indexes))
    try:
        server.run(sockets=[listener])
    finally:
        store.close()
    return 0


def _listen(host: str, port: int) -> socket.socket:
    # asyncio turns Nagle's algorithm off only where the protocol is named; with it, every answer waits 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise OSError(f"{host}:{port} cannot be used ({error.strerror}); name another --port") from None
    return listener


if __name__ == "__main__":
    sys.exit(main())
