"""What a second worker process brings: pairs a second through a backlog by a real `headrace worker` and by one with
`--processes 2`, and their CPU.

The backlog is published before, four partitions; time runs from the first append of an example to the last. On as many cores as
there are processes, broker included, two workers do up to twice as much; where they share cores with it, CPU per pair is what
tells whether the work is only spread.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))

import psutil

from bench import common, load
from bench.bench_latency import appended
from bench.bench_stages import load_average
from bench.peers.compare import cpu
from headrace_streams.kafka import admin
from headrace_streams.kafka.reader import Reader
from headrace_streams.local_kafka.process import LocalKafka
from headrace_streams.settings import Settings
from support.ring import Ring

PARTITIONS = 4
WARM = 200  # pairs: until they are through, tasks are being started and shared out
DEADLINE = 180.0


async def _examples(settings: Settings) -> int:
    return len(await appended(settings, "examples", dict.fromkeys(range(PARTITIONS), 0)))


async def _until(settings: Settings, wanted: int, ring: Ring) -> None:
    """Until there are that many examples; their number is asked only when there may be as many."""
    deadline = time.monotonic() + DEADLINE
    while True:
        spans = await Reader(settings).offsets(["examples"])
        if sum(span.end - span.begin for span in spans.values()) >= wanted and await _examples(settings) >= wanted:
            return
        ring.check_alive()
        if time.monotonic() > deadline:
            raise TimeoutError(f"{wanted} pairs do not all have an example after {DEADLINE:g} s")
        await asyncio.sleep(0.3)


def _cpu(ring: Ring) -> float:
    """Seconds of CPU of the workers and of what started them."""
    return sum(cpu(psutil.Process(child.pid)) for child in ring.children.values())


def once(bootstrap: str, folder: Path, name: str, workers: int, count: int) -> tuple[float, float]:
    """(pairs a second, microseconds of the workers' CPU per pair)."""
    settings = Settings(bootstrap=bootstrap, deployment=name, partitions=PARTITIONS, data_dir=folder / name)
    asyncio.run(admin.declare(settings))
    with Ring(settings, folder / f"{name}.ring") as ring:
        ring.start(f"worker --processes {workers}")
        asyncio.run(load.publish(settings, load.pairs(WARM)))
        asyncio.run(_until(settings, WARM, ring))
        ends = {place: span.end for (_, place), span in asyncio.run(Reader(settings).offsets(["examples"])).items()}
        made, before = load.pairs(count, WARM), _cpu(ring)
        asyncio.run(load.publish(settings, made))
        asyncio.run(_until(settings, WARM + count, ring))
        used = _cpu(ring) - before
        times = asyncio.run(appended(settings, "examples", ends)).values()
    asyncio.run(admin.delete(settings))
    return count / max(0.001, (max(times) - min(times)) / 1000), used / count * 1e6


def main() -> None:
    runs, count = common.arguments(__doc__, count=10_000)
    with tempfile.TemporaryDirectory() as name, LocalKafka(Path(name) / "kafka") as kafka:
        found: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
        for run in range(runs):
            for workers, done in found.items():
                done.append(once(kafka.bootstrap, Path(name), f"workers{workers}-{run}", workers, count))
    print(
        f"A backlog of {count} pairs, {PARTITIONS} partitions, {os.cpu_count()} cores with the broker on them; {load_average()}"
    )
    for place, (what, unit) in enumerate((("pairs", "pairs/s"), ("CPU of the workers", "us/pair"))):
        one = [figures[place] for figures in found[1]]
        common.line(f"{what}, one worker", one, unit)
        common.line(f"{what}, two workers", [figures[place] for figures in found[2]], unit, ("one", one))


if __name__ == "__main__":
    main()
