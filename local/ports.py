"""Ports on the loopback interface: is one free, who has it, and which may we have."""

import random
import socket

import psutil

# Below the range that Linux and macOS hand out to outgoing connections, so that a port stays ours between two runs.
FIRST, LAST = 18_000, 29_999


def is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return not is_open(port)


def is_open(port: int) -> bool:
    """Whether something answers at 127.0.0.1:port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port(taken: set[int] | frozenset[int] = frozenset()) -> int:
    """A port that nothing listens on and that is not in `taken`."""
    for _ in range(1_000):
        port = random.randint(FIRST, LAST)  # noqa: S311 - not a secret
        if port not in taken and is_free(port):
            return port
    raise RuntimeError(f"no free port between {FIRST} and {LAST}")


def holder(port: int) -> str:
    """Who listens on the port, as `name (pid 123)`; `another program` where the system does not tell."""
    try:
        for connection in psutil.net_connections("inet"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
                if connection.pid is None:
                    break
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        pass
    return "another program"
