"""What verify costs a record, and whether its memory grows with the log: a log of `count` folded records on a real broker beside
one of a tenth, each verified by a process of its own.

A pair of an interaction and its feedback is five folded records (two of intake, two of reward, one of curate). The state of the
largest task is in memory while it is verified, and grows with what is open; `rss` is what the process grew by in all, `state` the
changelog form of that task's state, and the rest is what verify itself holds.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent))

from bench import common, load
from bench.bench_stages import load_average
from headrace_lake.kafka_log import KafkaLog
from headrace_lake.log import changelog_of
from headrace_lake.recorded_outputs import DERIVED
from headrace_lake.verify import verify
from headrace_processors import policy_file
from headrace_processors.stages import STAGES
from headrace_streams.kafka import admin, compat
from headrace_streams.local_kafka.process import LocalKafka
from headrace_streams.runtime.fold_task import FoldTask
from headrace_streams.settings import Settings

FOLDED = 5  # records that a pair is
PARTITIONS = 4
DEADLINE = 900.0


async def record(settings: Settings, pairs: int) -> None:
    """A log as live tasks write it: all of a deployment's, in this process, one stage after the other."""
    await admin.declare(settings)
    await load.fill(settings, pairs)
    bodies = policy_file.load(None).bodies()
    for stage in STAGES:
        for topic in stage.inputs:
            tasks = [FoldTask(stage, bodies[stage.name], topic, number, settings) for number in range(settings.partitions)]
            await _through(tasks)


async def _through(tasks: list[FoldTask]) -> None:
    """Runs tasks until none has anything left to read."""
    running = [asyncio.create_task(task.run()) for task in tasks]
    try:
        async with asyncio.timeout(DEADLINE):
            while any(task.describe().lag != 0 for task in tasks):
                for one in running:
                    if one.done():
                        await one  # raises what ended it
                await asyncio.sleep(0.1)
    finally:
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def states(settings: Settings) -> int:
    """Bytes of the largest task's state in changelog form."""
    log, largest = KafkaLog(settings), 0
    for stage in STAGES:
        for topic in stage.inputs:
            for partition in range(await log.partitions(topic)):
                state = await changelog_of(log, stage.name, topic, partition)
                largest = max(largest, sum(len(key) + len(value) for key, value in state.items()))
    return largest


def check(bootstrap: str, deployment: str) -> None:
    """Prints records, seconds, bytes that the process grew by at most, and differences."""
    settings = Settings(bootstrap=bootstrap, deployment=deployment, partitions=PARTITIONS)
    compat.install()
    before, began = common.memory("VmRSS"), time.monotonic()
    report: Mapping[str, Any] = asyncio.run(verify(KafkaLog(settings), STAGES, topics=DERIVED))
    seconds = time.monotonic() - began
    grown = common.memory("VmHWM") - before
    records = sum(part.records for part in report.values())
    differences = sum(len(part.differences) + len(part.not_comparable) for part in report.values())
    print(records, seconds, grown, differences)


async def verified(settings: Settings) -> list[float]:
    command = [sys.executable, __file__, "--check", settings.bootstrap, settings.deployment]
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await child.communicate()
    return [float(word) for word in out.split()]


def main() -> None:
    if sys.argv[1:2] == ["--check"]:
        return check(sys.argv[2], sys.argv[3])
    runs, count = common.arguments(__doc__, count=20_000)
    with tempfile.TemporaryDirectory() as folder, LocalKafka(Path(folder)) as kafka:
        for records in (count // 10, count):
            settings = Settings(bootstrap=kafka.bootstrap, deployment=f"verify{records}", partitions=PARTITIONS)
            asyncio.run(record(settings, records // FOLDED))
            state = asyncio.run(states(settings))
            done = [asyncio.run(verified(settings)) for _ in range(runs)]
            print(f"verify of {done[0][0]:.0f} folded records, {done[0][3]:.0f} differences; {load_average()}")
            common.line("  rate", [records / seconds for records, seconds, _, _ in done], "records/s")
            common.line("  rss", [grown / 2**20 for _, _, grown, _ in done], "MiB")
            common.line("  of it state of the largest task", [state / 2**20], "MiB")
            common.line("  rss without it, a record", [(grown - state) / records for records, _, grown, _ in done], "B")
    return None


if __name__ == "__main__":
    main()
