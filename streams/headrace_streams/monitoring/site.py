"""The small web site of a worker or trainer: /healthz, /readyz, /status, /metrics. Knows HTTP and whom to ask, not what is said.

It answers from a thread of its own and asks the event loop, so it is there before anything else and can say that the loop does
not turn. Whatever it says is in memory: no request reaches the broker.
"""

from __future__ import annotations

import asyncio
import socket
import socketserver
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec

from headrace_schemas.root_error import USAGE, HeadraceError
from headrace_streams.monitoring.readiness import reasons_not_ready
from headrace_streams.runtime import meters
from headrace_streams.runtime.meters import StageMeter
from headrace_streams.runtime.status import WorkerReport

PATIENCE_SECONDS = 3.0  # for the event loop to turn
REQUEST_SECONDS = 10.0  # for a client to say what it wants, and to take the answer
CONNECTIONS = 16  # at one time; those beyond are closed unheard
_TEXT, _JSON = "text/plain; charset=utf-8", "application/json"

Asked = tuple[WorkerReport, dict[tuple[str, str], StageMeter]]


class PortTaken(HeadraceError, OSError):
    """A web port that can't be listened on; one line that names it."""

    exit_code = USAGE


class Site:
    """Listens from the start (PortTaken), answers from `serve` to `close`. `describe` is called in the event loop."""

    def __init__(self, host: str, port: int, deployment: str) -> None:
        self._deployment = deployment
        self._describe: Callable[[], WorkerReport] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        try:
            self._server = _Server(host, port, self._answer)
        except OSError as error:
            reason = error.strerror or str(error)
            raise PortTaken(
                f"--web-port {port}: {host} can't be listened on: {reason}: choose another port or --web-host"
            ) from None

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def serve(self, describe: Callable[[], WorkerReport]) -> None:
        """Begins to answer, asking the loop that this is called in."""
        self._describe, self._loop = describe, asyncio.get_running_loop()
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="web site", daemon=True).start()

    def close(self) -> None:
        if self._loop is not None:
            self._server.shutdown()
        self._server.server_close()

    def _answer(self, path: str, accept: str) -> tuple[int, str, bytes]:
        """Status, content type and body for a path."""
        if path not in ("/healthz", "/readyz", "/status", "/metrics"):
            return 404, _TEXT, b"there are /healthz, /readyz, /status and /metrics\n"
        try:
            report, meters_now = self._ask()
        except TimeoutError:
            return 503, _TEXT, f"the event loop has not turned for {PATIENCE_SECONDS:g} s\n".encode()
        except Exception as error:  # a bug of ours is told to who asks, and must not look like a process that is gone
            return 500, _TEXT, f"{type(error).__name__}: {error}\n".encode()
        if path == "/healthz":
            return 200, _TEXT, b"ok\n"
        if path == "/metrics":
            from headrace_streams.monitoring.metrics import exposition_of

            body, content_type = exposition_of(report, meters_now, self._deployment, accept)
            return 200, content_type, body
        if path == "/readyz":
            reasons = reasons_not_ready(report)
            return (503, _TEXT, "".join(f"{line}\n" for line in reasons).encode()) if reasons else (200, _TEXT, b"ready\n")
        return 200, _JSON, msgspec.json.encode(report)

    def _ask(self) -> Asked:
        describe, loop = self._describe, self._loop
        assert describe is not None
        assert loop is not None

        async def ask() -> Asked:
            return describe(), meters.snapshot()

        asking = ask()
        try:
            answer = asyncio.run_coroutine_threadsafe(asking, loop)
        except RuntimeError:
            asking.close()
            raise
        return answer.result(PATIENCE_SECONDS)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, host: str, port: int, answer: Callable[[str, str], tuple[int, str, bytes]]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.answer = answer
        self._free = threading.BoundedSemaphore(CONNECTIONS)
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's own asks the name service for our name, which may take minutes
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is nothing to print a traceback for."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = REQUEST_SECONDS
    server_version, sys_version = "headrace", ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        status, content_type, body = self.server.answer(path, self.headers.get("Accept") or "")
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Probes come every few seconds: they are not logged."""
