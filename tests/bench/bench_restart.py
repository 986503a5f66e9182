"""How long the reward stage takes to go on after kill -9 with N open interactions, and its memory: from the changelog alone, with
a copy of the state on its machine, and while that copy is made.

Half of the interactions have one feedback. Their state is written into the changelog as a task writes it (of a few real ones,
copied under new ids). Each figure is of a process of its own: `restart` is from its fence to its first fetch, `memory` its
largest RSS until then. Before it is killed it folds some records, which the next one's copy may or may not have.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))

from bench import common, events
from headrace_lake.log import LogRecord
from headrace_processors.stages import STAGES
from headrace_processors.worker import spare_collector
from headrace_schemas.topics import TOPIC_NAMES
from headrace_streams.kafka import admin, clients
from headrace_streams.local_kafka.process import LocalKafka
from headrace_streams.runtime.fold_runner import FoldRunner
from headrace_streams.runtime.fold_task import FoldTask
from headrace_streams.runtime.journal import Journal, Position
from headrace_streams.settings import Settings
from headrace_streams.testing import written_headers

[REWARD] = [stage for stage in STAGES if stage.name == "reward"]
PATTERNS = 1000  # interactions that are really folded
PORTION = 4 * 1024 * 1024  # of state, in a transaction
TAIL = 500  # records that are folded before a kill


def state(count: int) -> Iterator[tuple[str, bytes]]:
    """The state of `count` open interactions in changelog form."""
    runner, draw, now = FoldRunner(REWARD, "signals", 0, dict.fromkeys(TOPIC_NAMES, 1)), random.Random(1), now_ms()
    runner.activate_newest(REWARD.policy().body())
    for number in range(PATTERNS):
        for value in [events.interaction(draw, number), *([events.feedback(draw, number)] if number % 2 else [])]:
            runner.run(LogRecord("signals", 0, 0, now, b"k", value, written_headers("signals")))
    patterns = [(key, value) for key, value in runner.dumped().items() if "/i" in key]
    for number in range(0, count, PATTERNS):
        for key, value in patterns:
            yield f"{key}x{number}", value
    yield from ((key, value) for key, value in runner.dumped().items() if "/i" not in key)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def fill(settings: Settings, count: int) -> int:
    """Writes the changelog; its bytes of state."""
    journal = Journal(settings, "reward", "signals", 0, REWARD.outputs)
    await journal.open()
    position = Position(partitions=1, now=now_ms(), state_version=REWARD.state_version)
    total, portion, size = 0, {}, 0
    for key, value in state(count):
        portion[key] = value
        size += len(key) + len(value)
        if size >= PORTION:
            await journal.commit([], portion, position)
            total, portion, size = total + size, {}, 0
    await journal.commit([], portion, position)
    await journal.close()
    return total + size


async def serve(settings: Settings) -> None:
    """The task in a process like a worker's, until it is killed. Prints what its start cost, then how many records it folded."""
    spare_collector()
    task = FoldTask(REWARD, REWARD.policy().body(), "signals", 0, settings)
    running = asyncio.create_task(task.run())
    while task.describe().phase != "running" and not running.done():  # noqa: ASYNC110 (nobody says so)
        await asyncio.sleep(0.02)
    if (report := task.describe().restore) is not None:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        say(report.seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024**2, report.records)
    while not running.done():
        await asyncio.sleep(0.1)
        say(task.describe().counters.get("in", 0))
    await running


def say(*values: float) -> None:
    print(json.dumps(values), flush=True)


async def publish(settings: Settings, start: int) -> None:
    draw, name = random.Random(start), clients.full_name(settings, "signals")
    async with clients.connected(clients.producer(settings)) as producer:
        sent = [
            await producer.send(name, value=events.interaction(draw, number), key=b"k", headers=[*written_headers("signals")])
            for number in range(start, start + TAIL)
        ]
        await asyncio.gather(*sent)


def restart(settings: Settings, number: int) -> list[float]:
    """Seconds, CPU seconds of the process, GiB, records read of the changelog. Killed after it has folded TAIL records."""
    child = subprocess.Popen([sys.executable, __file__, settings.model_dump_json()], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        figures: list[float] = json.loads(child.stdout.readline())
        before = json.loads(child.stdout.readline())[0]
        asyncio.run(publish(settings, number * TAIL))
        while json.loads(child.stdout.readline())[0] < before + TAIL:
            pass
        return figures
    finally:
        child.kill()
        child.wait()


def main() -> None:
    if sys.argv[1:] and sys.argv[1].startswith("{"):
        return asyncio.run(serve(Settings(**json.loads(sys.argv[1]))))
    runs, count = common.arguments(__doc__, count=100_000)
    with tempfile.TemporaryDirectory(prefix="headrace-restart-") as folder, LocalKafka(Path(folder) / "kafka") as broker:
        plain = Settings(bootstrap=broker.bootstrap, partitions=1)
        kept = plain.model_copy(update={"state_dir": Path(folder) / "state"})
        asyncio.run(admin.declare(plain))
        size = asyncio.run(fill(kept, count))
        cases = {"the changelog alone": plain, "making the copy": plain, "a copy on this machine": kept}
        restart(kept, runs * len(cases))  # a copy that a task has read once: nobody checks its values again
        found: dict[str, list[list[float]]] = {name: [] for name in cases}
        for run in range(runs):
            for number, (name, settings) in enumerate(cases.items(), run * len(cases)):
                if name == "making the copy":
                    settings = plain.model_copy(update={"state_dir": Path(folder) / f"new-{run}"})
                found[name].append(restart(settings, number))
    print(f"{count} open interactions, {size / 1024**2:.0f} MiB of changelog, {os.cpu_count()} cores")
    for index, (what, unit) in enumerate((("restart", "s"), ("CPU", "s"), ("memory", "GiB"), ("records read", ""))):
        baseline = [figures[index] for figures in found["the changelog alone"]]
        for name, all_figures in found.items():
            common.line(f"{what}: {name}", [figures[index] for figures in all_figures], unit, ("the changelog alone", baseline))


if __name__ == "__main__":
    main()
