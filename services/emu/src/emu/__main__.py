"""`python -m emu`: receive changes, embed them, write them to Pinecone, until SIGTERM. `python -m emu dlq`: dead letters."""

import ctypes
import gc
import logging
import os
import sys
from contextlib import ExitStack

from aviary.aws import sns_client, sqs_client
from aviary.embedder import Embedder
from aviary.embedder_pool import Pool
from aviary.health import HealthServer
from aviary.index import PineconeIndex
from aviary.logs import configure, log
from aviary.pipes import ending_quietly
from aviary.settings import from_environment
from aviary.signals import on_end
from emu.dlq import cli
from emu.queue import SqsQueue
from emu.settings import EmuSettings
from emu.worker import Emu

LOGGER = logging.getLogger("emu")
M_ARENA_MAX = -8  # malloc.h
PURPOSE = """\
Embeds changes and writes them to Pinecone, until SIGTERM.
`python -m emu dlq --help`: what was set aside, and how to send it again."""


def main() -> None:
    """Run until SIGTERM or SIGINT; exit code 0 when drained."""
    if sys.argv[1:2] == ["dlq"]:
        sys.exit(cli.main(sys.argv[2:]))
    use_few_arenas()
    settings = from_environment(EmuSettings, "emu", PURPOSE, "AVIARY_HEALTH_PORT=0 ")
    configure("emu", settings.log_level)

    pool = Pool(settings.embed_threads)

    def load_embedder(model: str) -> Embedder:
        folder = settings.models.get(model)
        embedder = Embedder(settings.embed_precision, name=model, folder=folder, pool=pool)
        log(LOGGER, logging.INFO, "model_loaded", model=model)
        return embedder

    embedder = load_embedder(settings.model)
    queue = SqsQueue(
        sqs_client(settings, long_poll_seconds=settings.receive_wait_seconds), settings.queue_url, settings.dlq_url
    )
    with ExitStack() as opened:

        def open_index(host: str) -> PineconeIndex:
            key = settings.pinecone_api_key.get_secret_value()
            # A retry of the SDK's own would be a write that nobody has checked the lease for.
            index = PineconeIndex(key, host, settings.pinecone_timeout_seconds, sdk_retries=False)
            return opened.enter_context(index)

        emu = Emu(
            settings,
            queue=queue,
            index=open_index(settings.index_host),
            embedder=embedder,
            sns=sns_client(settings) if settings.topic_arn else None,
            open_index=open_index,
            load_embedder=load_embedder,
        )
        on_end(lambda _: emu.stop())
        # What is loaded by now stays: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        with HealthServer(
            settings.health_host, settings.health_port, alive=emu.alive, ready=emu.ready, stats=emu.snapshot
        ) as health:
            log(LOGGER, logging.INFO, "started", health_port=health.port, precision=embedder.precision)
            drained = emu.run()
    log(LOGGER, logging.INFO, "stopped", drained=drained)
    if not drained:
        # A thread that is inferring must not be there any more when the interpreter takes its modules apart.
        os._exit(0)


def use_few_arenas() -> None:
    """Tell glibc, where that is the C library, before any thread starts. By default each thread gets an arena of its
    own, and what a large unit freed in one is of no use to the others: 60 MB more, measured."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_ARENA_MAX, 2)


if __name__ == "__main__":
    with ending_quietly():
        main()
