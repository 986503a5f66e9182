"""A console over a lake, for tests: served by a thread of its own, asked by plain HTTP or by a real Chromium. Knows no page."""

from __future__ import annotations

import asyncio
import html
import re
import shutil
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from email.message import Message
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from aiohttp import web

from headrace_console.access import ConsoleAccess, TokenAccess
from headrace_console.key_watch import KeyWatch
from headrace_console.reading import LakeReader
from headrace_console.server import ConsoleSite
from headrace_console.status_watch import StatusWatch
from headrace_lake.manifest import LakeFolder
from headrace_schemas.codec import encode
from headrace_schemas.derived import Silence, SilenceEnd, SilenceMute, SwitchRequest, TrafficSnapshot
from headrace_schemas.events import (
    PauseRequested,
    ResumeRequested,
    SilenceEnded,
    SilenceMuted,
    SilenceRaised,
    TrafficObserved,
    make,
)
from headrace_schemas.times import rfc3339
from headrace_streams.settings import Settings
from support.memory_ring import BUCKET, MemoryRing, lake_of
from support.signals import event

TOKEN = "a-token-of-tests-0123456789"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip

# What somebody publishes who hopes that a page runs it, or that people read something else than what is there.
MARKUP = (
    "<script>document.title='run'</script>",
    "<img src=x onerror=\"document.title='run'\">",
    "\"'><svg onload=document.title='run'>",
    "</textarea></title></pre><iframe srcdoc='<script>parent.document.title=1</script>'>",
    "javascript:document.title='run'",
    "{{ 7*191 }}{% raw %}${7*191}#{7*191}",
    "&lt;b&gt; &amp; &#60;script&#62;",
    "<a href='https://evil.example/' onclick='document.title=1'>here</a>",
)
TURNED = "safe\u202egnp.exe\u2066x\u200b\u0007"  # turns what follows around, hides, and rings
HOSTILE = (*MARKUP, TURNED)


class Response(NamedTuple):
    """What an address answers."""

    status: int
    headers: Message
    text: str


class ServedConsole:
    """`address` without a slash at its end. `report` is what the status says: set it to another."""

    def __init__(self, folder: LakeFolder, settings: Settings, access: ConsoleAccess | None = None, port: int = 0) -> None:
        self.folder, self.settings = folder, settings
        self.access = access or TokenAccess(TOKEN, "headrace-test", "tester")
        self.report: Mapping[str, Any] | None = None
        self.keys: KeyWatch | None = None
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()
        assert self._started.wait(20)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", self._port))
        self._port = listening.getsockname()[1]
        self.address = f"http://127.0.0.1:{self._port}"
        reader, status = LakeReader(self.folder), StatusWatch(self._status, every=0.1)
        hosts = [f"{name}:{self._port}" for name in ("127.0.0.1", "localhost")]
        site = ConsoleSite(self.settings, reader, self.access, hosts, status, keys=self.keys)
        runner = web.AppRunner(site.app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.SockSite(runner, listening).start()
        watching = asyncio.create_task(status.run())
        self._started.set()
        await self._stop.wait()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await runner.cleanup()
        reader.close()

    def _status(self) -> tuple[Mapping[str, Any], dict[str, int]]:
        if self.report is None:
            raise ConnectionError("127.0.0.1:9092 does not answer")
        return self.report, dict(self.folder.load().cut)

    @cached_property
    def cookie(self) -> str:
        assert isinstance(self.access, TokenAccess)
        return f"{self.access.cookie}={self.access.session(TOKEN)}"

    def ask(
        self,
        path: str,
        *,
        form: Mapping[str, str] | None = None,
        body: bytes | None = None,
        cookie: str | None = "",
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """GET, or POST of a form or a `body`, of somebody signed in (unless `cookie` says otherwise), as a browser does."""
        sent = {
            "Cookie": self.cookie if cookie == "" else cookie or "",
            **({"Origin": self.address} if (form, body) != (None, None) else {}),
        }
        return asked(self.address + path, body if form is None else urlencode(form).encode(), {**sent, **(headers or {})})


def asked(address: str, body: bytes | None, headers: Mapping[str, str], seconds: float = 30) -> Response:
    """What an address answers to a GET, or to a POST of `body`, whatever its status; no redirection is followed."""
    request = urllib.request.Request(address, data=body, headers=dict(headers))
    try:
        with _OPENER.open(request, timeout=seconds) as found:
            return Response(found.status, found.headers, found.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            return Response(error.code, error.headers, error.read().decode())


def form_of(page: str) -> dict[str, str]:
    """The hidden fields of a page's dialog."""
    (found,) = re.findall(r'<form method="post" class="dialog".*?</form>', page, re.DOTALL)
    return {
        html.unescape(name): html.unescape(value)
        for name, value in re.findall(r'type="hidden" name="([^"]*)" value="([^"]*)"', found)
    }


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_Stay, urllib.request.ProxyHandler({}))


@contextmanager
def served(
    folder: LakeFolder, settings: Settings, access: ConsoleAccess | None = None, port: int = 0, keys: KeyWatch | None = None
) -> Iterator[ServedConsole]:
    """A console that answers within."""
    console = ServedConsole(folder, settings, access, port)
    console.keys = keys
    console.start()
    try:
        yield console
    finally:
        console.stop()


def hostile_ring(seed: int = 3) -> MemoryRing:
    """A ring in which ordinary work goes on, and somebody puts `HOSTILE` into every text that can be published."""
    ring = MemoryRing(seed)
    ring.round(25)
    for number, text in enumerate(HOSTILE):
        _publish(ring, number, text)
        _ask(ring, number, text)
        _miss(ring, number, text)
    for _ in range(3):
        ring.round(20)
    return ring


def _ask(ring: MemoryRing, number: int, text: str) -> None:
    """Somebody pauses the bucket and lets it go on, with the text as reason and name."""
    kinds: tuple[type[PauseRequested | ResumeRequested], ...] = (PauseRequested, ResumeRequested)
    for kind in kinds:
        data = SwitchRequest(bucket=BUCKET, reason=text, requested_by=text.replace("\u0007", "")[:60])
        asked: PauseRequested | ResumeRequested = make(
            kind, data, id=f"ask-{kind.__name__}-{number}", writer="command", time_ms=ring.log.time
        )
        ring.log.append("outcomes", 0, BUCKET.encode(), encode(asked))


def _miss(ring: MemoryRing, number: int, text: str) -> None:
    """Somebody is missed whose name it is; every second is muted because of it, every third speaks again; a letter came back."""
    name, at = f"human:{text.replace(chr(7), '')[:60]}", rfc3339(ring.log.time)
    said: list[Any] = [
        make(
            SilenceRaised,
            Silence(
                kind="rater_stopped", subject=name, since=at, expected=text, seen=text, policy_key="stopped_hours", bucket=BUCKET,
                interaction_id=f"hostile-{number}",
            ),
            id=f"missed-{number}", writer="observer", time_ms=ring.log.time,
        )
    ]  # fmt: skip
    if number % 2:
        until = rfc3339(ring.log.time + 10**12)
        mute = SilenceMute(kind="rater_stopped", subject=name, until=until, reason=text, requested_by=name)
        said.append(make(SilenceMuted, mute, id=f"muted-{number}", writer="command", time_ms=ring.log.time))
    if number % 3 == 2:
        said.append(
            make(
                SilenceEnded,
                SilenceEnd(kind="rater_stopped", subject=name, since=at),
                id=f"ended-{number}",
                writer="observer",
                time_ms=ring.log.time,
            )
        )
    body = {"raters": {name: {"last_ms": ring.log.time, "times": 9, "pause_ms": 5}}, "agents": {text: 5}, "buckets": {}}
    table = TrafficSnapshot(subject="traffic", offsets={}, body=body)
    said.append(make(TrafficObserved, table, id=f"table-{number}", writer="observer", time_ms=ring.log.time))
    for each in said:
        ring.log.append("assessments", 0, each.data.subject.encode(), encode(each))


def _publish(ring: MemoryRing, number: int, text: str) -> None:
    name = f"hostile-{number}"
    plain = text.replace("\u0007", "")
    data: dict[str, Any] = {
        "interaction_id": name, "agent": {"name": plain[:60], "role": plain[:60], "version": plain[:60]}, "artifact_type": "sql",
        "model": "tiny", "prompt": f"{text} how many?", "context": text, "output": f"select {number} -- {text}",
        "session_id": plain[:60], "data_subject": plain[:60], "attributes": {plain[:40]: text}, "finish_reason": "stop",
        "prompt_group": f"hostile-{number}", "error": {"type": plain[:60], "message": text},
    }  # fmt: skip
    ring.publish("interactions", event("interaction.recorded", data, id=f"event-{number}"))
    said: dict[str, Any] = {
        "feedback_id": f"hf-{number}", "kind": "user_correction", "score": 10 + number, "interaction_id": name,
        "name": plain[:60], "comment": text, "corrected_output": f"select 2 -- {text}",
        "principal": {"id": plain[:60], "kind": "human"},
    }  # fmt: skip
    ring.publish("feedback", event("feedback.recorded", said, id=f"said-{number}"))
    ring.publish("feedback", text.encode())
    ring.publish("interactions", event("interaction.recorded", {**data, "interaction_id": {"x": text}}, id=f"bad-{number}"))


def hostile_lake(path: Path) -> LakeFolder:
    return lake_apart(hostile_ring(), path)


def lake_apart(ring: MemoryRing, path: Path) -> LakeFolder:
    """As `lake_of`, in another thread: playwright leaves an event loop in the one that it is used in."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lake_of, ring.log, path).result()


__all__ = [
    "BUCKET",
    "CHROMIUM",
    "FLAGS",
    "HOSTILE",
    "MARKUP",
    "TOKEN",
    "TURNED",
    "ServedConsole",
    "asked",
    "form_of",
    "hostile_lake",
    "hostile_ring",
    "lake_apart",
    "served",
]
