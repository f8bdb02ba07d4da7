"""A network between Pelican and the queue that a test can slow down and cut."""

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

CHUNK_BYTES = 65_536


class Link:
    """Forwards TCP from `endpoint` (an http URL on loopback) to a target. While `held`, what was sent stays on the way
    until the link is released, even if the sender is gone by then; while `cut`, connections are closed at once."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._passes = threading.Event()
        self._passes.set()
        self.is_cut = False
        self.kept_bytes = 0
        self._ended = False
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def hold(self) -> None:
        self._passes.clear()

    def release(self) -> None:
        self._passes.set()

    def cut(self) -> None:
        self.is_cut = True
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self.is_cut = False

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def close(self) -> None:
        """End the link once all that was under way has been answered."""
        self._ended = True
        self._passes.set()
        for thread in self._threads[1:]:
            thread.join(2)
        self.cut()
        # Closing alone does not wake a thread that accepts.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._ended:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self.is_cut:
                near.close()
                continue
            far = socket.create_connection(self._target)
            self._open |= {near, far}
            for source, sink, waits in ((near, far, True), (far, near, False)):
                thread = threading.Thread(target=self._forward, args=(source, sink, waits), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _forward(self, source: socket.socket, sink: socket.socket, waits: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK_BYTES):
                if waits:
                    self.kept_bytes += len(data)
                    self._passes.wait()
                sink.sendall(data)
                if waits:
                    self.kept_bytes -= len(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
        if not waits:
            for one in (source, sink):
                self._open.discard(one)
                one.close()
