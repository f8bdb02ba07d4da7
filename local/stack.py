"""What runs on a laptop: every process with its environment, what it needs, and how to see that it is ready."""

import contextlib
import http.client
import os
import signal
import sqlite3
import subprocess
import sys
import urllib.request
import uuid
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

from local import ports
from local.folder import Folder
from local.postgres import PostgresServer
from local.supervisor import Spec, StartError, Step, last_line

REPOSITORY = Path(__file__).resolve().parents[1]
INDEX = "aviary"
DIMENSION = 384
API_KEY = "local"
REGION = "us-east-1"
ACCOUNT = "123456789012"
QUEUE = "aviary.fifo"
DEAD_LETTER_QUEUE = "aviary-dlq.fifo"
TOPIC = "aviary-alerts"
CHECK_SECONDS = 3.0
# Of our own environment the services see no settings of theirs, no account, no other database, no proxy.
NOT_INHERITED = ("AVIARY_", "AWS_", "PINECONE_", "PG", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
MIGRATE_SECONDS = 120
# Emu hears of SIGTERM between two polls of the queue.
RECEIVE_WAIT_SECONDS = 1
# What a killed Emu had in work is handed out again after this long, and so long the rest of its shards waits. Extending
# it once a second costs nothing here; on AWS each time is a request, and a minute is the default.
VISIBILITY_SECONDS = 3
# Stages, in the order of stopping: the last comes first.
STORES, READERS, WRITERS, FACES = range(4)

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Plan(NamedTuple):
    """How many of what, and where; and further embedding models, NAME=FOLDER."""

    pelicans: int
    emus: int
    port: int
    models: tuple[str, ...] = ()


class Stack:
    """The processes of one data folder. Making the object touches nothing but the folder's kept ports."""

    def __init__(self, folder: Folder, plan: Plan) -> None:
        self.folder = folder
        self.plan = plan
        self.pelicans = [f"pelican-{n}" for n in range(1, plan.pelicans + 1)]
        self.emus = [f"emu-{n}" for n in range(1, plan.emus + 1)]
        names = ["sqs", "pinecone", *self.pelicans, *self.emus]
        self.ports, self.notes = folder.ports(names, {"frontend": plan.port})
        self.postgres = PostgresServer(folder.postgres, folder.log("postgres"))
        self.is_new = not folder.postgres.exists()
        self._run = uuid.uuid4().hex
        self._created_index = False
        self._journal_lost = False

    @property
    def control_host(self) -> str:
        return f"http://127.0.0.1:{self.ports['pinecone']}"

    @property
    def sqs_endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports['sqs']}"

    @property
    def frontend_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['frontend']}"

    def state(self) -> dict[str, Any]:
        """Endpoints, as in state.json."""
        return {
            "postgres_dsn": self.postgres.dsn(),
            "sqs_endpoint": self.sqs_endpoint,
            "queue_url": f"{self.sqs_endpoint}/{ACCOUNT}/{QUEUE}",
            "dlq_url": f"{self.sqs_endpoint}/{ACCOUNT}/{DEAD_LETTER_QUEUE}",
            "topic_arn": f"arn:aws:sns:{REGION}:{ACCOUNT}:{TOPIC}",
            "pinecone_host": self.control_host,
            "pinecone_api_key": API_KEY,
            "index": INDEX,
            "index_host": f"{self.control_host}/_ix/{INDEX}",
            "models": ",".join(self.plan.models),
            "frontend_url": self.frontend_url,
            "health_urls": {name: f"http://127.0.0.1:{self.ports[name]}" for name in (*self.pelicans, *self.emus)},
        }

    def specs(self) -> list[Spec]:
        """Every process, slow starters first."""
        return [
            *(
                self._service(
                    name,
                    "emu",
                    READERS,
                    (),
                    AVIARY_RECEIVE_WAIT_SECONDS=str(RECEIVE_WAIT_SECONDS),
                    AVIARY_VISIBILITY_SECONDS=str(VISIBILITY_SECONDS),
                )
                for name in self.emus
            ),
            self._postgres(),
            self._sqs(),
            self._pinecone(),
            *(
                self._service(name, "pelican", WRITERS, ("migrate", "sqs"), role="aviary_pelican")
                for name in self.pelicans
            ),
            self._service(
                "frontend",
                "frontend",
                FACES,
                ("migrate", "index"),
                role="aviary_frontend",
                # Everybody here is one client: a limit for each would be one for all.
                AVIARY_CLIENT_READS_PER_SECOND="0",
                AVIARY_CLIENT_WRITES_PER_SECOND="0",
            ),
        ]

    def steps(self) -> list[Step]:
        """What is done once at every start."""
        return [
            Step(name="migrate", run=self._migrate, needs=("postgres",)),
            Step(name="index", run=self._create_index, needs=("pinecone",)),
        ]

    def pelican_command(self, *arguments: str) -> None:
        """Run `python -m pelican …` as the database's owner; StartError with its last words when it fails."""
        log = self.folder.log(f"pelican-{arguments[0]}")
        command = f"`python -m pelican {' '.join(arguments)}`"
        with log.open("ab") as output:
            try:
                done = subprocess.run(
                    _python("pelican", *arguments),
                    cwd=REPOSITORY,
                    env=self._environment("postgres"),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    timeout=MIGRATE_SECONDS,
                    check=False,
                    start_new_session=True,
                )
            except subprocess.TimeoutExpired:
                raise StartError(f"{command} did not end within {MIGRATE_SECONDS} s (log: {log})") from None
        if done.returncode:
            raise StartError(f"{command} failed: {last_line(log)} (log: {log})")

    def request_backfill(self) -> None:
        """Ask Pelican to send every row again."""
        import psycopg  # noqa: PLC0415 - see PostgresServer.answers

        with psycopg.connect(self.postgres.dsn(), autocommit=True) as connection:
            connection.execute("SELECT sync.request_backfill(id) FROM sync.source")

    def what_was_lost(self) -> str:
        """Why the index may lack something that no process will send by itself; "" when nothing is. Ask once, after
        start."""
        if self.is_new:
            return ""
        if self._created_index:
            return "the index was gone and is made anew"
        return "the queue's journal was lost" if self._journal_lost else ""

    def _migrate(self) -> None:
        self.pelican_command("migrate")

    def _create_index(self) -> None:
        # Here and not at the top: the SDK takes longer to import than a second process takes to start.
        from pinecone import Pinecone, ServerlessSpec  # noqa: PLC0415

        with Pinecone(api_key=API_KEY, host=self.control_host) as client:
            if not client.has_index(INDEX):
                spec = ServerlessSpec(cloud="aws", region=REGION)
                client.create_index(name=INDEX, dimension=DIMENSION, metric="cosine", spec=spec)
                self._created_index = True

    def _postgres(self) -> Spec:
        return Spec(
            name="postgres",
            command=self.postgres.command(),
            environment=self._environment(None),
            folder=REPOSITORY,
            log=self.postgres.log_path,
            prepare=self.postgres.prepare,
            tidy=self.postgres.tidy,
            ready=self.postgres.answers,
            user=self.postgres.run_as or "",
            stop_signal=signal.SIGINT,
            death_signal=signal.SIGINT,
            stop_seconds=30,
        )

    def _sqs(self) -> Spec:
        return Spec(
            name="sqs",
            command=_python(
                *("local.sqs", "--port", self.ports["sqs"], "--journal", self.folder.queue_journal, "--run", self._run)
            ),
            environment=self._environment(None),
            folder=REPOSITORY,
            log=self.folder.log("sqs"),
            prepare=self._check_journal,
            ready=lambda: ports.is_open(self.ports["sqs"]),
        )

    def _pinecone(self) -> Spec:
        return Spec(
            name="pinecone",
            command=_python(
                "local.pinecone", "--port", self.ports["pinecone"], "--data-dir", self.folder.pinecone, "--fsync"
            ),
            # numpy's threads wait for the next query on a core of their own, 20 ms each time.
            environment={**self._environment(None), "OPENBLAS_NUM_THREADS": "1"},
            folder=REPOSITORY,
            log=self.folder.log("pinecone"),
            ready=lambda: answers(f"{self.control_host}/_health"),
        )

    def _service(
        self, name: str, module: str, stage: int, needs: tuple[str, ...], role: str | None = None, **extra: str
    ) -> Spec:
        url = f"http://127.0.0.1:{self.ports[name]}"
        return Spec(
            name=name,
            command=_python(module),
            environment={
                **self._environment(role),
                "AVIARY_HEALTH_PORT": str(self.ports[name]),
                "AVIARY_HTTP_PORT": str(self.ports[name]),
                **extra,
            },
            folder=REPOSITORY,
            log=self.folder.log(name),
            ready=lambda: answers(f"{url}/readyz"),
            alive=lambda: answers(f"{url}/healthz"),
            needs=needs,
            stage=stage,
            # The services drain for 25 s at most.
            stop_seconds=30,
        )

    def _environment(self, role: str | None) -> dict[str, str]:
        """What a service gets in its task on AWS, with our endpoints: nothing of a person's own account."""
        inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith(NOT_INHERITED)}
        ours = endpoints(self.state())
        if role is not None:
            ours["AVIARY_POSTGRES_DSN"] = self.postgres.dsn(user=role)
        return {**inherited, **ours}

    def _check_journal(self) -> None:
        """A journal that SQLite cannot read is put aside, so that the queue can start; the rows are sent again."""
        journal = self.folder.queue_journal
        if not journal.exists():
            self._journal_lost = True
            return
        try:
            with contextlib.closing(sqlite3.connect(journal)) as file:
                sound = file.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
        except sqlite3.DatabaseError:
            sound = False
        if not sound:
            self._journal_lost = True
            journal.rename(journal.with_suffix(".broken"))
            for name in ("-wal", "-shm"):
                journal.with_name(journal.name + name).unlink(missing_ok=True)


def endpoints(state: dict[str, Any]) -> dict[str, str]:
    """The environment by which a program reaches the stack that state.json describes, but for Postgres."""
    return {
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_REGION": REGION,
        "AWS_ENDPOINT_URL_SQS": state["sqs_endpoint"],
        "AWS_ENDPOINT_URL_SNS": state["sqs_endpoint"],
        "PINECONE_API_KEY": API_KEY,
        "AVIARY_QUEUE_URL": state["queue_url"],
        "AVIARY_DLQ_URL": state["dlq_url"],
        "AVIARY_TOPIC_ARN": state["topic_arn"],
        "AVIARY_INDEX_HOST": state["index_host"],
        "AVIARY_MODELS": state["models"],
        "AVIARY_HEALTH_HOST": "127.0.0.1",
        "AVIARY_HTTP_HOST": "127.0.0.1",
    }


def answers(url: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        with _opener.open(url, timeout=CHECK_SECONDS) as answer:
            return bool(answer.status == HTTPStatus.OK)
    except (OSError, http.client.HTTPException):
        return False


def _python(module: object, *arguments: object) -> list[str]:
    return [sys.executable, "-m", *map(str, (module, *arguments))]
