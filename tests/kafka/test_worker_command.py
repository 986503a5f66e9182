"""`headrace worker` as people start it: all stages, several processes, choice of stages, signals, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import urllib.request
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import pytest

from headrace_streams.settings import Settings
from support.commands import command, free_port
from support.live import position_of, publish, until

pytestmark = pytest.mark.kafka


def worker(settings: Settings, folder: Path, *arguments: str) -> AbstractContextManager[tuple[subprocess.Popen[bytes], Path]]:
    return command(settings, folder, "worker", *arguments)


def test_all_stages_run_and_say_where_they_stand(settings: Settings, tmp_path: Path) -> None:
    port = free_port()

    def ask() -> dict[str, object]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=5) as reply:
            answer: dict[str, object] = json.loads(reply.read())
            return answer

    async def main(process: subprocess.Popen[bytes]) -> None:
        async def dead() -> bool:
            return (await position_of(settings, "intake", "interactions", 0)).counters == {"in": 1, "dead": 1}

        await publish(settings, "interactions", 0, [(None, b"not an event")])
        await until(dead)
        said = await asyncio.to_thread(ask)
        tasks = said["tasks"]
        assert isinstance(tasks, list)
        slots = sorted((slot["task"]["stage"], slot["topic"], slot["partition"]) for slot in tasks)
        expected = [("intake", "interactions"), ("intake", "feedback"), ("link", "refs"), ("reward", "signals")]
        expected += [("attribute", "sessions"), ("curate", "examples"), ("release", "outcomes")]
        assert slots == sorted((*source, partition) for source in expected for partition in (0, 1))
        assert {slot["error"] for slot in tasks} == {None}
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 30) == 0

    with worker(settings, tmp_path, "--web-port", str(port)) as (process, _):
        asyncio.run(main(process))


@pytest.mark.slow(seconds=10)
def test_several_processes_share_the_work_and_end_together(settings: Settings, tmp_path: Path) -> None:
    async def main(process: subprocess.Popen[bytes]) -> None:
        async def both_run() -> bool:
            return len(re.findall("INFO worker runs intake on", log.read_text())) >= 2

        await until(both_run)
        victim, other = (child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline()))
        victim.kill()

        async def replaced() -> bool:
            return len(re.findall("INFO worker runs intake on", log.read_text())) >= 3

        await until(replaced)
        await publish(settings, "feedback", 1, [(None, b"not an event")])

        async def dead() -> bool:
            return (await position_of(settings, "intake", "feedback", 1)).counters == {"in": 1, "dead": 1}

        await until(dead)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(process.wait, 30) == 130
        _, alive = await asyncio.to_thread(psutil.wait_procs, children, 60)
        assert not alive
        assert not other.is_running()

    with worker(settings, tmp_path, "--stages", "intake", "--processes", "2") as (process, log):
        asyncio.run(main(process))


@pytest.mark.slow(seconds=6)
def test_children_end_when_their_parent_is_killed(settings: Settings, tmp_path: Path) -> None:
    async def main(process: subprocess.Popen[bytes]) -> None:
        async def both_run() -> bool:
            return len(re.findall("INFO worker runs link on", log.read_text())) >= 2

        await until(both_run)
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        _, alive = await asyncio.to_thread(psutil.wait_procs, children, 60)
        assert not alive, log.read_text()

    with worker(settings, tmp_path, "--stages", "link", "--processes", "2") as (process, log):
        asyncio.run(main(process))


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--stages", "intake,polish"], 2, "--stages: there is no stage 'polish'; known: intake, link"),
        (["--processes", "0"], 2, "'--processes'"),
        (["--deployment", "nobody-made-its-topics"], 4, "`headrace topics create`"),
        (["--deployment", "nobody-made-its-topics", "--processes", "2"], 4, "`headrace topics create`"),
    ],
)
def test_refusals_are_one_line(settings: Settings, tmp_path: Path, arguments: list[str], code: int, says: str) -> None:
    with worker(settings, tmp_path, *arguments) as (process, log):
        assert process.wait(60) == code
        [line] = log.read_text().splitlines()
        assert says in line
