"""Feedback-to-example latency of a real `headrace worker` at shares of what it can do, beside two bare hops over the same topics.

Capacity first: pairs published as fast as they go, over the time until the last example is there. Then pairs at shares of it;
latency = append time of the example minus append time of its feedback, both the broker's. The bare hops are a process that passes
`feedback` on to `signals` and `signals` on to `examples`, acknowledged but without transactions, at the same rate. All pairs are
made before they are published; how much of a core the load took, and how late it was at worst, is printed, so that nobody
takes the load for the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

sys.path.append(str(Path(__file__).parent.parent))

import numpy as np
import orjson

from bench import common, load
from headrace_streams.kafka import admin, clients
from headrace_streams.kafka.reader import Reader
from headrace_streams.local_kafka.process import LocalKafka
from headrace_streams.settings import Settings
from support.ring import Ring

SECONDS = 5.0  # of publishing in one run
BEHIND = 50  # pairs that an interaction is ahead of its feedback
# Of what a worker gets through a backlog in large batches, which is more than it keeps up with record by record.
SHARES = (0.1, 0.25, 0.5)
RUN = 1_000_000  # numbers between the pairs of two runs
DEADLINE = 180.0


async def relay(settings: Settings, source: str, target: str) -> None:
    """Passes every record on, for ever."""
    name = clients.full_name(settings, target)
    async with (
        clients.connected(clients.consumer(settings, source, group=f"{settings.deployment}.{source}")) as consumer,
        clients.connected(clients.producer(settings)) as producer,
    ):
        while True:
            for place, records in (await consumer.getmany(timeout_ms=500)).items():
                sent = [await producer.send(name, value=r.value, key=r.key, partition=place.partition) for r in records]
                await asyncio.gather(*sent)


def hops(settings: Settings) -> None:
    async def both() -> None:
        await asyncio.gather(relay(settings, "feedback", "signals"), relay(settings, "signals", "examples"))

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(both())


@contextmanager
def bare(settings: Settings) -> Iterator[None]:
    process = multiprocessing.get_context("spawn").Process(target=hops, args=(settings,), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


class Paced(NamedTuple):
    """What publishing at a rate took of a core (0 to 1), and the longest that a record was late, in ms."""

    busy: float
    late: float


async def paced(settings: Settings, made: Sequence[load.Pair], rate: float) -> Paced:
    """Publishes `rate` pairs a second, an interaction BEHIND pairs ahead of its feedback."""
    waiting: set[Any] = set()
    late = 0.0
    async with clients.connected(clients.producer(settings)) as producer:

        async def send(topic: str, value: bytes) -> None:
            partition = random.randrange(settings.partitions)
            sent = await producer.send(clients.full_name(settings, topic), value=value, partition=partition)
            waiting.add(sent)
            sent.add_done_callback(waiting.discard)

        began, used = time.monotonic(), time.process_time()
        for done in range(len(made) + BEHIND):
            ahead = began + done / rate - time.monotonic()
            if ahead > 0.002:
                await asyncio.sleep(ahead)
            late = max(late, -ahead)
            if done < len(made):
                await send("interactions", made[done].interaction)
            if done >= BEHIND:
                await send("feedback", made[done - BEHIND].feedback)
        await asyncio.gather(*waiting)
        return Paced((time.process_time() - used) / (time.monotonic() - began), late * 1000)


async def appended(settings: Settings, topic: str, since: dict[int, int]) -> dict[int, int]:
    """Append time in ms by number of the pair, of the first record in `topic` from offsets `since` (by partition) on."""
    found: dict[int, int] = {}
    for partition in range(settings.partitions):
        async for record in Reader(settings).read_partition(topic, partition, since[partition]):
            number = int(orjson.loads(record.value)["data"]["interaction_id"][1:])
            found.setdefault(number, record.timestamp)
    return found


async def through(
    settings: Settings, made: Sequence[load.Pair], publishing: Callable[[], Awaitable[Any]]
) -> tuple[Any, Any, Any]:
    """Publishes, waits until every pair has an example; what publishing returned, append times of feedback and examples by
    number."""
    begin = {topic: await _ends(settings, topic) for topic in ("feedback", "examples")}
    told = await publishing()
    numbers = {pair.number for pair in made}
    deadline = time.monotonic() + DEADLINE
    while True:
        ends = await _ends(settings, "examples")
        grown = sum(ends.values()) - sum(begin["examples"].values())
        if grown >= len(made):  # reading it all before would slow down what is measured
            examples = await appended(settings, "examples", begin["examples"])
            if numbers <= examples.keys():
                return told, await appended(settings, "feedback", begin["feedback"]), examples
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(made)} pairs do not all have an example after {DEADLINE:g} s")
        await asyncio.sleep(0.5)


async def _ends(settings: Settings, topic: str) -> dict[int, int]:
    return {partition: span.end for (_, partition), span in (await Reader(settings).offsets([topic])).items()}


async def capacity(settings: Settings, pairs: int, first: int) -> float:
    """Pairs a second, from the first feedback to the last example."""
    made = load.pairs(pairs, first)
    _, feedback, examples = await through(settings, made, lambda: load.publish(settings, made))
    seconds: float = (max(examples.values()) - min(feedback.values())) / 1000
    return pairs / max(0.001, seconds)


async def latencies(settings: Settings, rate: float, first: int) -> tuple[Paced, Any]:
    """What the load was, and milliseconds of every pair published in one run at `rate`."""
    made = load.pairs(max(BEHIND * 2, round(rate * SECONDS)), first)
    told, feedback, examples = await through(settings, made, lambda: paced(settings, made, rate))
    return told, np.array([examples[number] - feedback[number] for number in feedback])


def measured(settings: Settings, rate: float, runs: int, first: int) -> tuple[list[Paced], list[tuple[float, float]]]:
    """The load, p50 and p99 of each run, after one that is not counted."""
    loads, found = [], []
    for run in range(runs + 1):
        told, taken = asyncio.run(latencies(settings, rate, first + run * RUN))
        loads.append(told)
        found.append((float(np.percentile(taken, 50)), float(np.percentile(taken, 99))))
    return loads[1:], found[1:]


def main() -> None:
    runs, count = common.arguments(__doc__, count=6_000)
    with tempfile.TemporaryDirectory() as folder, LocalKafka(Path(folder) / "kafka") as kafka:
        settings = Settings(bootstrap=kafka.bootstrap, deployment="bench", partitions=2, data_dir=Path(folder) / "data")
        plain = settings.model_copy(update={"deployment": "bare"})
        for one in (settings, plain):
            asyncio.run(admin.declare(one))
        with Ring(settings, Path(folder) / "ring") as ring:
            ring.start("worker")
            asyncio.run(capacity(settings, 1000, 0))  # everything started, everything loaded
            pace = [asyncio.run(capacity(settings, count, run * RUN)) for run in range(1, runs + 1)]
            rates = [statistics.median(pace) * share for share in SHARES]
            ours = [measured(settings, rate, runs, (number + 1) * 100 * RUN) for number, rate in enumerate(rates)]
        with bare(plain):
            theirs = [measured(plain, rate, runs, number * 100 * RUN) for number, rate in enumerate(rates)]
    print(f"Feedback to example, {runs} runs of {SECONDS:g} s at each rate; load average {os.getloadavg()[0]:.1f}")
    common.line("a worker process through a backlog", pace, "pairs/s")
    for share, rate, (loads, own), (_, hops_) in zip(SHARES, rates, ours, theirs, strict=True):
        print(f"{share:g} of that, {rate:.0f} interactions and {rate:.0f} feedback a second")
        common.line("  the load's own CPU", [paced.busy * 100 for paced in loads], "% of one")
        common.line("  the load's latest record", [paced.late for paced in loads], "ms late")
        for place, name in enumerate(("p50", "p99")):
            loop = [run[place] for run in hops_]
            common.line(f"  two bare hops, {name}", loop, "ms")
            common.line(f"  feedback to example, {name}", [run[place] for run in own], "ms", ("two bare hops", loop))


if __name__ == "__main__":
    main()
