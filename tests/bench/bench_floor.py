"""Each stage beside the least that its work can cost in Python (floor.py), over the same records, in the same run, on a real
broker; and the sums of the three, with near-duplicates and without.

The floor has no transaction, no durable state, no provenance: a ratio of 1 is not there to be reached. CPU of this process only.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.append(str(Path(__file__).parent.parent))

from aiokafka import TopicPartition

from bench import common, floor, load
from bench.bench_stages import load_average, staged
from headrace_processors.worker import spare_collector
from headrace_streams.kafka import admin, clients
from headrace_streams.local_kafka.process import LocalKafka
from headrace_streams.runtime.journal import BATCH_BYTES
from headrace_streams.settings import Settings

OUT = "runs"  # where the bare loops write: nothing here reads it
NEAR, PLAIN = "curate over examples", "curate, no near-duplicates"


class Case(NamedTuple):
    """A stage, the policy keys that differ, and what makes its bare loop."""

    stage: str
    topic: str
    policy: dict[str, Any]
    loop: Callable[[], floor.Loop]


CASES = {
    "intake over interactions": Case("intake", "interactions", {}, floor.Intake),
    "intake over feedback": Case("intake", "feedback", {}, floor.Intake),
    "reward over signals": Case("reward", "signals", {}, floor.Reward),
    NEAR: Case("curate", "examples", {}, lambda: floor.Curate(near=True)),
    PLAIN: Case("curate", "examples", {"near_duplicate": None}, lambda: floor.Curate(near=False)),
}
# Records of each that one record of all stages is, and that one pair of an interaction and its feedback is.
SUMS = {
    "the three stages": {"intake over interactions": 1, "reward over signals": 1},
    "for a pair": {"intake over interactions": 1, "intake over feedback": 1, "reward over signals": 2},
}


async def copy(settings: Settings, other: Settings, topic: str) -> None:
    """All records of a topic as another deployment's, headers too."""
    place = TopicPartition(clients.full_name(settings, topic), 0)
    async with (
        clients.connected(clients.consumer(settings)) as consumer,
        clients.connected(clients.producer(other, max_batch_size=BATCH_BYTES)) as producer,
    ):
        consumer.assign([place])
        consumer.seek(place, 0)
        end = (await consumer.end_offsets([place]))[place]
        while await consumer.position(place) < end:
            for records in (await consumer.getmany(place, timeout_ms=500, max_records=2000)).values():
                batch, sent = producer.create_batch(), []
                for record in records:
                    fields = {"key": record.key, "value": record.value, "timestamp": None, "headers": list(record.headers)}
                    if batch.append(**fields) is None:
                        sent.append(await producer.send_batch(batch, clients.full_name(other, topic), partition=0))
                        batch = producer.create_batch()
                        batch.append(**fields)
                sent.append(await producer.send_batch(batch, clients.full_name(other, topic), partition=0))
                await asyncio.gather(*sent)


async def once(bootstrap: str, number: int, count: int) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Microseconds a record of each stage, and of the parts of its bare loop."""
    settings = Settings(bootstrap=bootstrap, deployment=f"floor{number}", partitions=1)
    other = settings.model_copy(update={"deployment": f"floor{number}-plain"})
    for one in (settings, other):
        await admin.declare(one)
    await load.fill(settings, count)
    found: dict[str, float] = {}
    parts: dict[str, dict[str, float]] = {}
    for name, case in CASES.items():
        where = settings
        if name == PLAIN:
            where = other
            await copy(settings, other, "examples")
        parts[name], records = await floor.run(where, case.topic, OUT, case.loop())
        found[name] = (await staged(where, case.stage, case.topic, records, **case.policy)).per_record
    for one in (settings, other):
        await admin.delete(one)
    return found, parts


def main() -> None:
    runs, count = common.arguments(__doc__, count=10_000)
    spare_collector()  # as a worker does, and so for the bare loops too
    with tempfile.TemporaryDirectory() as folder, LocalKafka(Path(folder)) as kafka:
        done = [asyncio.run(once(kafka.bootstrap, number, count)) for number in range(runs)]
    print(f"CPU per record: {count} interactions, {count} feedback; median [least .. most] of {runs} runs; {load_average()}")
    stages = {name: [found[name] for found, _ in done] for name in CASES}
    floors = {name: [sum(parts[name].values()) for _, parts in done] for name in CASES}
    for name in CASES:
        for part in done[0][1][name]:
            common.line(f"    {part}", [parts[name][part] for _, parts in done], "us/record")
        common.line(f"  floor of {name}", floors[name], "us/record")
        common.line(name, stages[name], "us/record", ("its floor", floors[name]))
    for title, weights in SUMS.items():
        for curate, what in ((NEAR, "with near-duplicates"), (PLAIN, "without them")):
            ours, least = (
                [sum(weight * values[name][run] for name, weight in {**weights, curate: 1}.items()) for run in range(runs)]
                for values in (stages, floors)
            )
            common.line(f"  floor of {title}, {what}", least, "us")
            common.line(f"{title}, {what}", ours, "us", ("the floor", least))


if __name__ == "__main__":
    main()
