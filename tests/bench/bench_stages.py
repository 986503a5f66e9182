"""CPU per event of intake, reward and curate on a real broker, one process, beside a bare aiokafka loop over the same records.

The bare loop is what any stage on aiokafka pays: getmany, create_batch, send_batch, wait. `rusage` of this process only, so the
broker's share is left out. Figures are microseconds of CPU per input record; ratios are what lasts.
"""

from __future__ import annotations

import asyncio
import random
import resource
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))

from aiokafka import TopicPartition
from headrace_processors.stages import STAGES

from bench import common, events
from headrace_processors import policy_file
from headrace_streams import admin, clients
from headrace_streams.broker import LocalKafka
from headrace_streams.settings import Settings
from headrace_streams.task import PartitionTask

COUNT = 10_000
MEASURED = (("intake", "interactions"), ("intake", "feedback"), ("link", "refs"), ("reward", "signals"), ("curate", "examples"))


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def fill(settings: Settings) -> None:
    draw = random.Random(1)
    async with clients.connected(clients.producer(settings)) as producer:
        for topic, make in (("interactions", events.interaction), ("feedback", events.feedback)):
            name, sent = clients.full_name(settings, topic), []
            batch = producer.create_batch()
            for number in range(COUNT):
                value = make(draw, number)
                if batch.append(key=None, value=value, timestamp=None) is None:
                    sent.append(await producer.send_batch(batch, name, partition=0))
                    batch = producer.create_batch()
                    batch.append(key=None, value=value, timestamp=None)
            sent.append(await producer.send_batch(batch, name, partition=0))
            await asyncio.gather(*sent)


async def bare(settings: Settings, topic: str, out: str) -> float:
    """Microseconds of CPU per record of a loop that passes records on and does nothing else."""
    place = TopicPartition(clients.full_name(settings, topic), 0)
    async with (
        clients.connected(clients.consumer(settings)) as consumer,
        clients.connected(clients.producer(settings)) as producer,
    ):
        consumer.assign([place])
        consumer.seek(place, 0)
        end, done = (await consumer.end_offsets([place]))[place], 0
        began = cpu()
        while await consumer.position(place) < end:
            for records in (await consumer.getmany(place, timeout_ms=500, max_records=2000)).values():
                batch, sent = producer.create_batch(), []
                for record in records:
                    if batch.append(key=record.key, value=record.value, timestamp=None) is None:
                        sent.append(await producer.send_batch(batch, clients.full_name(settings, out), partition=0))
                        batch = producer.create_batch()
                        batch.append(key=record.key, value=record.value, timestamp=None)
                sent.append(await producer.send_batch(batch, clients.full_name(settings, out), partition=0))
                await asyncio.gather(*sent)
                done += len(records)
        return (cpu() - began) / done * 1e6


async def staged(settings: Settings, stage_name: str, topic: str) -> float:
    """Microseconds of CPU per record of a stage's own task, start and restore included."""
    stage = next(stage for stage in STAGES if stage.name == stage_name)
    body = policy_file.load(None).bodies()[stage_name]
    spans = await clients.offsets(settings, [topic])
    task = PartitionTask(stage, body, topic, 0, settings)
    began = cpu()
    running = asyncio.create_task(task.run())
    while not running.done():
        await asyncio.sleep(0.05)
        shown = task.describe()
        if shown["phase"] == "running" and shown["next_offset"] >= spans[topic, 0].end - 1:
            break
    used = cpu() - began
    records = task.describe()["counters"]["in"]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return used / records * 1e6


async def once(bootstrap: str, number: int) -> dict[str, float]:
    settings = Settings(bootstrap=bootstrap, deployment=f"bench{number}", partitions=1)
    await admin.declare(settings)
    await fill(settings)
    found = {"bare aiokafka loop": await bare(settings, "interactions", "runs")}
    for stage, topic in MEASURED:
        if stage == "link":
            continue  # no foreign ids in this load
        found[f"{stage} over {topic}"] = await staged(settings, stage, topic)
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, LocalKafka(Path(folder)) as kafka:
        runs = [asyncio.run(once(kafka.bootstrap, number)) for number in range(common.RUNS)]
    baseline = ("the bare loop", [run["bare aiokafka loop"] for run in runs])
    print(f"CPU per event, {COUNT} events a topic, median of {common.RUNS} runs")
    for name in runs[0]:
        common.line(name, [run[name] for run in runs], "us/event", baseline)


if __name__ == "__main__":
    main()
