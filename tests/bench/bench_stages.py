"""CPU per event of intake, reward and curate on a real broker, one process, beside a bare aiokafka loop over the same records,
and what they write for each pair of an interaction and its feedback, topic by topic.

The bare loop is what any stage on aiokafka pays: getmany, create_batch, send_batch, wait, with batches as large as a stage's
(aiokafka's own 16 KiB cost ten times as much a record and made every stage look good). `rusage` of this process only, so the
broker's share is left out; a stage's start and restore have lines of their own. Microseconds of CPU per input record; ratios are
what lasts. Bytes are those of the batches as they are sent. A stage reads as it does in a worker, within limits; the bare loop as
aiokafka does.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

sys.path.append(str(Path(__file__).parent.parent))

from aiokafka import TopicPartition
from aiokafka.consumer import fetcher

from bench import common, load
from headrace_processors import policy_file
from headrace_processors.stages import STAGES
from headrace_processors.worker import spare_collector
from headrace_streams.kafka import admin, clients, compat
from headrace_streams.kafka.direct_transaction import DirectTransaction
from headrace_streams.local_kafka.process import LocalKafka
from headrace_streams.runtime.fold_task import FoldTask
from headrace_streams.runtime.journal import BATCH_BYTES
from headrace_streams.settings import Settings

MEASURED = (("intake", "interactions"), ("intake", "feedback"), ("reward", "signals"), ("curate", "examples"))
DEADLINE = 120.0  # seconds for one stage over one topic


class Staged(NamedTuple):
    """Microseconds of CPU per record, milliseconds of it for start and restore, counters, bytes written by short topic name."""

    per_record: float
    start: float
    counters: Mapping[str, int]
    written: Mapping[str, int]


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


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
                await load.send(producer, clients.full_name(settings, out), ((record.key, record.value) for record in records))
                done += len(records)
        return (cpu() - began) / done * 1e6, done


async def staged(settings: Settings, stage_name: str, topic: str, records: int, **policy: Any) -> Staged:
    """A stage's own task over all `records`; `policy` has values to put in place of the default's."""
    stage = next(stage for stage in STAGES if stage.name == stage_name)
    task = FoldTask(stage, {**policy_file.load(None).bodies()[stage_name], **policy}, topic, 0, settings)
    began = cpu()
    with counted(settings) as written, within_limits():
        running = asyncio.create_task(task.run())
        try:
            async with asyncio.timeout(DEADLINE):
                while task.describe().phase != "running":
                    await _turn(running, 0.001)
                started = cpu()
                while task.describe().counters.get("in", 0) < records:
                    await _turn(running, 0.02)
            ended = cpu()
            return Staged((ended - started) / records * 1e6, (started - began) * 1e3, task.describe().counters, written)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def _turn(running: asyncio.Task[None], seconds: float) -> None:
    if running.done():
        await running  # raises what ended it
    await asyncio.sleep(seconds)


@contextmanager
def within_limits() -> Iterator[None]:
    """Consumers read as a worker's do, and afterwards as the library's."""
    before = fetcher.MemoryRecords, fetcher.FetchResult
    compat.install()
    try:
        yield
    finally:
        fetcher.MemoryRecords, fetcher.FetchResult = before


@contextmanager
def counted(settings: Settings) -> Iterator[Counter[str]]:
    """Bytes of all batches that are sent meanwhile, as packed as they are, by short topic name. What the broker keeps of them is
    less: it compacts."""
    written: Counter[str] = Counter()
    sent: list[tuple[str, Any]] = []  # a batch is packed when it is sent
    write = DirectTransaction.write

    async def counting(self: DirectTransaction, batches: Mapping[TopicPartition, Any]) -> Any:
        sent.extend((clients.short_name(settings, tp.topic), batch) for tp, batch in batches.items())
        return await write(self, batches)

    DirectTransaction.write = counting  # type: ignore[method-assign]
    try:
        yield written
    finally:
        DirectTransaction.write = write  # type: ignore[method-assign]
        for topic, batch in sent:
            written[topic] += batch.size()


async def once(bootstrap: str, number: int, count: int) -> tuple[dict[str, Staged], dict[str, float]]:
    """Figures of the stages, and of the bare loop over the same records, by name of the measurement."""
    settings = Settings(bootstrap=bootstrap, deployment=f"bench{number}", partitions=1)
    await admin.declare(settings)
    await load.fill(settings, count)
    found, loops = {}, {}
    for stage, topic in MEASURED:
        name = f"{stage} over {topic}"
        loops[name], records = await bare(settings, topic, "runs")
        found[name] = await staged(settings, stage, topic, records)
    await admin.delete(settings)
    return found, loops


def main() -> None:
    runs, count = common.arguments(__doc__, count=10_000)
    spare_collector()  # as a worker does, and so for the bare loops too
    with tempfile.TemporaryDirectory() as folder, LocalKafka(Path(folder)) as kafka:
        done = [asyncio.run(once(kafka.bootstrap, number, count)) for number in range(runs)]
    print(f"CPU per event: {count} interactions, {count} feedback; median [least .. most] of {runs} runs; {load_average()}")
    for name in done[0][0]:
        loop = [loops[name] for _, loops in done]
        common.line(f"{name}, bare loop", loop, "us/event")
        common.line(name, [found[name].per_record for found, _ in done], "us/event", ("the bare loop", loop))
        common.line(f"{name}, start", [found[name].start for found, _ in done], "ms")
    print_written([found for found, _ in done], count)
    for name, one in done[0][0].items():
        print(f"  {name}: {', '.join(f'{counter} {number}' for counter, number in sorted(one.counters.items()))}")


def print_written(done: list[dict[str, Staged]], count: int) -> None:
    """Bytes a pair by topic."""
    totals: list[Counter[str]] = []
    for found in done:
        total: Counter[str] = Counter()
        for one in found.values():
            total.update(one.written)
        totals.append(total)
    for topic in sorted(totals[0], key=lambda topic: -totals[0][topic]):
        common.line(f"written to {topic}", [total[topic] / count for total in totals], "B/pair")
    common.line("written in all", [sum(total.values()) / count for total in totals], "B/pair")


def load_average() -> str:
    return f"load average {os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    main()
