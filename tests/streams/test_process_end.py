"""Processes of ours that are told to end: in time, or hard and with a word. Each is a real one, since its end is what counts."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from headrace_schemas.root_error import STUCK

PROGRAM = """
import asyncio, contextlib, logging, signal, sys, threading, time
from headrace_streams import process_end, stacks
process_end.SAY_SECONDS, process_end.HARD_SECONDS, process_end.LAST_SECONDS = {seconds}
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
stacks.dump_on_signal()

@contextlib.asynccontextmanager
async def held():
    try:
        yield
    finally:
        await never_closes()

async def never_closes():
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

async def never_ends():
    async with held():
        await asyncio.sleep(3600)

async def works():
    await asyncio.sleep(3600)

def spins():
    while True:
        pass

async def main(kind):
    done = asyncio.get_running_loop().create_future()
    with process_end.when_told({{signal.SIGTERM: lambda: done.done() or done.set_result(0)}}):
        task = asyncio.create_task(works() if kind == "well" else never_ends(), name="counting/3")
        if kind == "thread":
            asyncio.get_running_loop().run_in_executor(None, spins)
        await asyncio.sleep(0)
        print("ready", flush=True)
        if kind == "spins":
            spins()
        await done
        if kind != "thread":
            task.cancel()
            await asyncio.wait({{task}})
    return 0

sys.exit(asyncio.run(main(sys.argv[1])))
"""


class Program:
    """PROGRAM as a process that is ready."""

    def __init__(self, kind: str, log: Path, seconds: tuple[float, float, float]) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._log = log
        with log.open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM.format(seconds=seconds), kind],
                stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment,
            )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    @property
    def said(self) -> str:
        return self._log.read_text()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def test_what_ends_in_time_says_nothing(tmp_path: Path) -> None:
    with Program("well", tmp_path / "log", (30.0, 60.0, 1.0)) as program:
        assert program.end() == 0
        assert program.said == ""


def test_a_task_that_never_ends_is_named_and_the_process_ended(tmp_path: Path) -> None:
    with Program("never", tmp_path / "log", (0.2, 0.6, 30.0)) as program:
        assert program.end() == STUCK
        first, second = [line for line in program.said.splitlines() if line.startswith(("WARNING", "ERROR"))]
        assert re.fullmatch(
            r"WARNING told to end \S+ s ago, and still waits for counting/3 \(never_closes, <string>:\d+\).*", first
        )
        assert re.match(r"ERROR told to end \S+ s ago, .*counting/3 .*ended hard, exit code 5", second)
        assert "Thread" in program.said  # and all stacks, for whoever looks for why


@pytest.mark.parametrize("kind", ["spins", "thread"])
def test_a_loop_that_does_not_turn_and_a_thread_that_goes_on_hold_no_process(tmp_path: Path, kind: str) -> None:
    with Program(kind, tmp_path / "log", (0.2, 0.6, 30.0)) as program:
        assert program.end() == STUCK
        assert re.search(r"WARNING told to end .* waits for .*\(spins, <string>:\d+\)", program.said)


def test_a_log_that_nobody_reads_holds_no_process(tmp_path: Path) -> None:
    """Its lines would be waited for, for ever."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    try:
        while True:
            try:
                os.write(writer, b"x" * 4096)
            except BlockingIOError:
                break
        with Program("never", fifo, (0.1, 0.2, 0.5)) as program:
            assert program.end() == STUCK
    finally:
        os.close(writer)
        os.close(reader)


def test_sigusr1_shows_where_threads_and_tasks_are_and_stops_nothing(tmp_path: Path) -> None:
    with Program("well", tmp_path / "log", (30.0, 60.0, 1.0)) as program:
        program.process.send_signal(signal.SIGUSR1)
        deadline = 200
        while "counting/3" not in program.said and deadline:
            deadline -= 1
            with pytest.raises(subprocess.TimeoutExpired):
                program.process.wait(0.1)
        assert re.search(r"task counting/3\n(  .*\n)*  works, <string>:\d+\n", program.said)
        assert re.search(r"Current thread 0x\w+ \(most recent call first\)", program.said)
        assert program.end() == 0
