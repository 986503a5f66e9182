"""One real Kafka for all workers of a test run: starts when the first worker asks for it, ends with the run. Knows no test.

The process that hands the tests out holds it; workers ask for its address over a Unix socket.
"""

from __future__ import annotations

import socket
import socketserver
import tempfile
import threading
from pathlib import Path

from headrace_streams.local_kafka.process import LocalKafka


class SharedKafka:
    """Answers at `door` with the broker's host:port. The broker lives no longer than this process, however that ends."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="headrace-tests-")
        self._kafka = LocalKafka(Path(self._folder.name) / "kafka")
        self.door = str(Path(self._folder.name) / "door")
        shared = self

        class Answer(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(shared._address().encode())

        self._server = socketserver.UnixStreamServer(self.door, Answer)  # one at a time: the second waits for the first's start
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def _address(self) -> str:
        if not self._kafka.alive():
            self._kafka.start()
        return self._kafka.bootstrap

    def stop(self) -> None:
        """Waits for a start that is under way, then ends the broker and removes its data."""
        self._server.shutdown()
        self._server.server_close()
        self._kafka.stop()
        self._folder.cleanup()


def address(door: str) -> str:
    """host:port of the broker behind `door`. OSError when nobody is there; RuntimeError when it could not be started."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(door)
        with connection.makefile("rb") as answer:
            bootstrap = answer.read().decode()
    if not bootstrap:
        raise RuntimeError("the broker that all workers share did not start: see what the run printed")
    return bootstrap
