"""CPU per event of intake, reward and curate on a real broker, one process, beside a bare aiokafka loop over the same records.

The bare loop is what any stage on aiokafka pays: getmany, create_batch, send_batch, wait, with batches as large as a stage's
(aiokafka's own 16 KiB cost ten times as much a record and made every stage look good). `rusage` of this process only, so the
broker's share is left out; a stage's start and restore are in. Microseconds of CPU per input record; ratios are what lasts.
"""

from __future__ import annotations

import asyncio
import random
import resource
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent))

from aiokafka import TopicPartition

from bench import common, events
from headrace_processors import policy_file
from headrace_processors.stages import STAGES
from headrace_streams.kafka import admin, clients
from headrace_streams.local_kafka.process import LocalKafka
from headrace_streams.runtime.fold_task import FoldTask
from headrace_streams.runtime.journal import BATCH_BYTES
from headrace_streams.settings import Settings

MEASURED = (("intake", "interactions"), ("intake", "feedback"), ("reward", "signals"), ("curate", "examples"))
DEADLINE = 300.0  # seconds for one stage over one topic


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def fill(settings: Settings, count: int) -> None:
    draw = random.Random(1)
    for topic, make in (("interactions", events.interaction), ("feedback", events.feedback)):
        async with clients.connected(clients.producer(settings, max_batch_size=BATCH_BYTES)) as producer:
            await send(producer, clients.full_name(settings, topic), [(None, make(draw, number)) for number in range(count)])


async def send(producer: Any, name: str, records: Iterable[tuple[bytes | None, bytes]]) -> None:
    """Keys and values to partition 0, in batches as large as they may be; returns when all are acknowledged."""
    batch, sent = producer.create_batch(), []
    for key, value in records:
        if batch.append(key=key, value=value, timestamp=None) is None:
            sent.append(await producer.send_batch(batch, name, partition=0))
            batch = producer.create_batch()
            batch.append(key=key, value=value, timestamp=None)
    sent.append(await producer.send_batch(batch, name, partition=0))
    await asyncio.gather(*sent)


async def bare(settings: Settings, topic: str, out: str) -> tuple[float, int]:
    """Microseconds of CPU per record of a loop that passes records on and does nothing else, and how many there were."""
    place = TopicPartition(clients.full_name(settings, topic), 0)
    async with (
        clients.connected(clients.consumer(settings)) as consumer,
        clients.connected(clients.producer(settings, max_batch_size=BATCH_BYTES)) as producer,
    ):
        consumer.assign([place])
        consumer.seek(place, 0)
        end, done = (await consumer.end_offsets([place]))[place], 0
        began = cpu()
        while await consumer.position(place) < end:
            for records in (await consumer.getmany(place, timeout_ms=500, max_records=2000)).values():
                await send(producer, clients.full_name(settings, out), ((record.key, record.value) for record in records))
                done += len(records)
        return (cpu() - began) / done * 1e6, done


async def staged(settings: Settings, stage_name: str, topic: str, records: int) -> tuple[float, dict[str, int]]:
    """Microseconds of CPU per record of a stage's own task over all `records`, and its counters."""
    stage = next(stage for stage in STAGES if stage.name == stage_name)
    task = FoldTask(stage, policy_file.load(None).bodies()[stage_name], topic, 0, settings)

    def counters() -> dict[str, int]:
        return dict(task.describe().counters)

    began = cpu()
    running = asyncio.create_task(task.run())
    try:
        async with asyncio.timeout(DEADLINE):
            while counters().get("in", 0) < records:
                if running.done():
                    await running  # raises what ended it
                await asyncio.sleep(0.02)
        return (cpu() - began) / records * 1e6, counters()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def once(bootstrap: str, number: int, count: int) -> tuple[dict[str, float], dict[str, float], dict[str, dict[str, int]]]:
    """Figures of the stages, of the bare loop over the same records, and the counters, by name of the measurement."""
    settings = Settings(bootstrap=bootstrap, deployment=f"bench{number}", partitions=1)
    await admin.declare(settings)
    await fill(settings, count)
    found, loops, counts = {}, {}, {}
    for stage, topic in MEASURED:
        name = f"{stage} over {topic}"
        loops[name], records = await bare(settings, topic, "runs")
        found[name], counts[name] = await staged(settings, stage, topic, records)
    await admin.delete(settings)
    return found, loops, counts


def main() -> None:
    runs, count = common.arguments(__doc__, count=10_000)
    with tempfile.TemporaryDirectory() as folder, LocalKafka(Path(folder)) as kafka:
        done = [asyncio.run(once(kafka.bootstrap, number, count)) for number in range(runs)]
    print(f"CPU per event: {count} interactions, {count} feedback; median [least .. most] of {runs} runs")
    for name in done[0][0]:
        loop = [loops[name] for _, loops, _ in done]
        common.line(f"{name}, bare loop", loop, "us/event")
        common.line(name, [found[name] for found, _, _ in done], "us/event", ("the bare loop", loop))
    for name, counters in done[0][2].items():
        print(f"  {name}: {', '.join(f'{counter} {number}' for counter, number in sorted(counters.items()))}")


if __name__ == "__main__":
    main()
