"""`headrace console` as a process beside a real broker: it feeds the lake, says what `status` says, asks what people ask,
and ends with all that it started.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psutil
import pytest

from headrace_processors.stages import STAGES
from headrace_schemas.codec import decode
from headrace_schemas.events import PauseRequested
from headrace_streams.background import Background
from headrace_streams.kafka.publisher import publish
from headrace_streams.runtime.fold_task import FoldTask
from headrace_streams.settings import Settings
from support.console import Response, asked, form_of
from support.memory_ring import MemoryRing, lake_of
from support.recording import consume
from support.released import BUCKET
from support.signals import feedback, interaction

pytestmark = pytest.mark.kafka

Run = Callable[..., tuple[int, str, str]]
DEADLINE = 60.0


@pytest.fixture
def stages(settings: Settings) -> Iterator[None]:
    """Intake, reward, curate and release, running."""
    running = [stage for stage in STAGES if stage.name in ("intake", "reward", "curate", "release")]

    async def work() -> None:
        tasks = [
            FoldTask(stage, stage.policy().body(), topic, number, settings).run()
            for stage in running
            for topic in stage.inputs
            for number in (0, 1)
        ]
        await asyncio.gather(*tasks)

    background = Background("stages", work)
    yield
    assert background.stop(30)


class Process:
    """A console in a process of its own, asked over HTTP."""

    def __init__(self, settings: Settings, *arguments: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
        self.popen = subprocess.Popen(
            [
                sys.executable, "-c", "from headrace_cli.main import main; main()", "console", "--port", "0", "--json",
                "--bootstrap", settings.bootstrap, "--deployment", settings.deployment, *arguments,
            ],
            env={**environment, "HEADRACE_DATA_DIR": str(settings.data_dir)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        if not line:
            raise AssertionError(self.popen.communicate()[1].decode())
        self.address, _, token = json.loads(line)["address"].partition("/#token=")
        self.token = token
        self.cookie = ""
        _, headers, _ = self.ask("/session", {"token": token})
        self.cookie = headers["Set-Cookie"].partition(";")[0]

    def ask(self, path: str, form: dict[str, str] | None = None) -> Response:
        body = None if form is None else urlencode(form).encode()
        return asked(self.address + path, body, {"Cookie": self.cookie, "Origin": self.address}, DEADLINE)

    def data(self, path: str) -> Any:
        return json.loads(self.ask(path)[2])

    def until(self, path: str, wanted: Callable[[Any], bool]) -> Any:
        deadline = time.monotonic() + DEADLINE
        while True:
            found = self.data(path)
            if wanted(found):
                return found
            assert time.monotonic() < deadline, found
            time.sleep(0.2)

    def children(self) -> list[psutil.Process]:
        return list(psutil.Process(self.popen.pid).children(recursive=True))

    def end_and_say(self) -> str:
        """Ends it well; what it has said on standard error."""
        self.popen.send_signal(signal.SIGTERM)
        _, said = self.popen.communicate(timeout=DEADLINE)
        assert self.popen.returncode == 0
        return said.decode()

    def end(self, number: int = signal.SIGTERM) -> int:
        self.popen.send_signal(number)
        code = self.popen.wait(DEADLINE)
        for stream in (self.popen.stdout, self.popen.stderr):
            assert stream is not None
            stream.close()
        return code


@pytest.fixture
def console(settings: Settings) -> Iterator[Process]:
    process = Process(settings)
    yield process
    if process.popen.poll() is None:
        process.end(signal.SIGKILL)


def _figures(report: Any) -> Any:
    """What must be equal, by stage; what moves with the clock is left out."""
    kept = ("stage", "lag", "records", "counters", "accounted")
    return [{name: stage[name] for name in kept} for stage in report["stages"]], report["buckets"], report["served"]


def test_the_flow_says_what_status_says_and_the_lake_follows(
    settings: Settings, headrace: Run, stages: None, console: Process
) -> None:
    for number in range(12):
        asyncio.run(publish(settings, decode(interaction(f"i{number}", output=f"select {number}"))))
        asyncio.run(publish(settings, decode(feedback(f"f{number}", f"i{number}"))))
    deadline = time.monotonic() + DEADLINE
    while True:
        status = json.loads(headrace("status", "--json")[1])
        if all(stage["lag"] == 0 for stage in status["stages"]) and sum(s["records"] for s in status["stages"]) >= 60:
            break
        assert time.monotonic() < deadline, status["stages"]
        time.sleep(0.2)
    found = console.until("/?format=json", lambda flow: _figures(flow) == _figures(status) if flow.get("stages") else False)
    assert _figures(found)[1][0]["bucket"] == BUCKET.partition("/")[0] + "/tiny"
    listed = console.until(
        "/records/examples?format=json", lambda page: len(page["records"]) >= 12 if "records" in page else False
    )
    assert {each["kind"] for each in listed["records"]} == {"example.rewarded"}
    state = console.data("/find?what=i3&format=json")["state"]
    assert state["state"] == "in an open bucket"
    status_code, _, text = console.ask("/")
    assert status_code == 200
    assert "at the end of the log" in text or "behind the log" in text


def test_an_action_is_one_request_with_reason_and_identity_however_often_it_is_sent(
    settings: Settings, stages: None, console: Process
) -> None:
    asyncio.run(publish(settings, decode(interaction("i1"))))
    asyncio.run(publish(settings, decode(feedback("f1", "i1"))))
    console.until("/records/examples?format=json", lambda page: bool(page.get("records")))
    bucket = console.data("/records/examples?format=json")["records"][0]["bucket"]
    status, _, page = console.ask(f"/do/pause?subject={bucket}")
    assert status == 200
    form = form_of(page) | {"reason": "<b>audit</b> of June"}
    first, second = console.ask("/do/pause", form), console.ask("/do/pause", form)
    assert (first[0], second[0]) == (200, 200)
    for _, _, text in (first, second):
        assert "paused: &lt;b&gt;audit&lt;/b&gt; of June" in text
    asked = [
        event
        for _, event in consume(settings.bootstrap, f"{settings.deployment}.outcomes")
        if event["type"].startswith("headrace.pause")
    ]
    [event] = asked
    assert event["id"] == form["request_id"]
    assert event["data"] == {"bucket": bucket, "reason": "<b>audit</b> of June", "requested_by": event["data"]["requested_by"]}
    assert event["data"]["requested_by"]
    assert isinstance(decode(json.dumps(event).encode()), PauseRequested)
    found = console.until("/system?format=json", lambda system: bool(system.get("requests")))
    assert [(each["kind"], each["about"], each["reason"]) for each in found["requests"]] == [
        ("pause.requested", bucket, "<b>audit</b> of June")
    ]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_it_ends_with_all_that_it_started(settings: Settings, console: Process, number: int, code: int) -> None:
    console.until("/pages?format=json", lambda found: "pages" in found)
    children = console.children()
    assert any("follow" in " ".join(child.cmdline()) for child in children)
    assert console.end(number) == code
    gone, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []
    assert gone


def test_beside_another_feeder_it_reads_and_says_so(settings: Settings, headrace: Run, console: Process) -> None:
    found = console.until("/system?format=json", lambda system: system.get("lake", {}).get("feeder", "").startswith("feeding"))
    assert found["lake"]["records"] == 0
    second = Process(settings)
    try:
        said = second.until("/system?format=json", lambda system: "another" in system.get("lake", {}).get("feeder", ""))
        assert said["lake"]["feeder"] == "another process feeds this lake"
    finally:
        said_by_it = second.end_and_say()
    assert said_by_it == ""  # --json says no line beside its address
    assert second.token == console.token  # made once


def test_without_a_broker_the_lake_is_shown_and_the_page_says_what_is_missing(tmp_path: Path) -> None:
    ring = MemoryRing(1)
    ring.round(10)
    lake = lake_of(ring.log, tmp_path / "lake")
    settings = Settings(bootstrap="127.0.0.1:9", deployment=lake.load().deployment, data_dir=tmp_path)
    process = Process(settings, "--lake", str(lake.path), "--no-follow")
    try:
        found = process.until("/?format=json", lambda flow: flow["seen_error"] is not None)
        assert found["stages"] == []
        assert process.ask("/")[2].count("The log was not reached") == 1
        assert process.data("/records/signals?format=json")["records"]
    finally:
        assert process.end() == 0


def test_where_there_is_no_lake_yet_the_page_says_so_and_comes_back(tmp_path: Path) -> None:
    process = Process(Settings(bootstrap="127.0.0.1:9", data_dir=tmp_path), "--no-follow")
    try:
        status, headers, text = process.ask("/")
        assert (status, headers["Retry-After"]) == (503, "2")
        assert "there is no lake" in text
        assert "data-retry" in text
    finally:
        assert process.end() == 0
