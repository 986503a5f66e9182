"""Commands as people start them, in a process of their own, and the web pages that they serve."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from headrace_streams.settings import Settings


@contextmanager
def command(settings: Settings, folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """`headrace ARGUMENTS` under `settings`, and the file that all its output goes to. Killed at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{arguments[0]}.log"
    start = "from headrace_cli.main import main; main()"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", start, *arguments],
            stdout=output,
            stderr=output,
            env={
                **os.environ,
                "HEADRACE_BOOTSTRAP": settings.bootstrap,
                "HEADRACE_DEPLOYMENT": settings.deployment,
                "HEADRACE_DATA_DIR": str(settings.data_dir),
            },
        )
    try:
        yield process, log
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def free_port(count: int = 1) -> int:
    """The first of `count` ports in a row that nobody listens on."""
    while True:
        with ExitStack() as probes:
            first = 0
            for number in range(count):
                probe = probes.enter_context(socket.socket())
                try:
                    probe.bind(("127.0.0.1", first and first + number))
                except OSError:
                    break
                first = first or int(probe.getsockname()[1])
            else:
                return first


def page(port: int, path: str) -> tuple[int, str]:
    """Status and text of a page of a web port of this machine; (0, reason) while nobody listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError as error:  # a URLError is one
        return 0, str(error)
