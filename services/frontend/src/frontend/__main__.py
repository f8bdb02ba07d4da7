"""`python -m frontend`: serve until SIGTERM or SIGINT, then finish what was begun."""

import gc
import logging
import signal
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from aviary.embedder import Embedder
from aviary.index import PineconeIndex
from aviary.logs import configure, log
from aviary.settings import from_environment
from aviary.source import MODEL
from frontend.app import create_app
from frontend.connections import server_config
from frontend.services import Parts, Services
from frontend.settings import FrontendSettings

logger = logging.getLogger("frontend")

# Python's own 700 are reached with every search, whose objects are nearly all freed by themselves.
COLLECT_AFTER_OBJECTS = 10_000


class Server(uvicorn.Server):
    """Says where it listens, and ends long polls when asked to stop, so that draining waits for short requests only."""

    def __init__(self, config: uvicorn.Config, services: Services) -> None:
        super().__init__(config)
        self._services = services

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            port = self.servers[0].sockets[0].getsockname()[1]
            log(logger, logging.INFO, "listening", url=f"http://{self.config.host}:{port}")
            # What is loaded by now stays: the collector need not look at it again.
            gc.collect()
            gc.freeze()
            gc.set_threshold(COLLECT_AFTER_OBJECTS)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._services.watcher.stopping.set()
        super().handle_exit(sig, frame)


def main() -> None:
    """Run until SIGTERM or SIGINT; exit code 0 when drained."""
    purpose = "Serves the search page and the JSON API, until SIGTERM."
    settings = from_environment(FrontendSettings, "frontend", purpose, "AVIARY_HTTP_PORT=0 ")
    configure("frontend", settings.log_level)
    # The pool reports every attempt while the database is away; the store says once per request what came of it.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    key = settings.pinecone_api_key.get_secret_value()

    def open_index(host: str) -> PineconeIndex:
        return PineconeIndex(key, host, settings.pinecone_timeout_seconds)

    def load_model(name: str) -> Embedder:
        if name != MODEL and name not in settings.models:
            raise LookupError(f"the model {name!r} is not named in AVIARY_MODELS")
        return Embedder(
            settings.embed_precision,
            settings.embed_threads,
            name=name,
            folder=settings.models.get(name),
            queries=True,
        )

    parts = Parts(
        index=open_index(settings.index_host),
        load_embedder=lambda: load_model(settings.model),
        open_index=open_index,
        load_model=load_model,
    )
    app: FastAPI = create_app(settings, parts)
    # The server repeats the signal that stopped it, for whoever handled it before: a clean end needs someone there.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    Server(server_config(app, settings), app.state.services).run()
    log(logger, logging.INFO, "stopped")


if __name__ == "__main__":
    main()
