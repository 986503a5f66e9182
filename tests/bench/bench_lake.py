"""What the lake costs: events a second from a real broker into Parquet beside confluent-kafka, which decodes with orjson, each a
process of its own, in turns; memory at most, size on disk; and seconds of what is asked of it.

The log is made up, in the form that stages write: pairs of an interaction and its feedback, the examples of both, and a batch, a
run, a version and a release for every 64 examples. A part of time on a shared machine is others': CPU seconds stand beside.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

sys.path.append(str(Path(__file__).parent.parent))

from bench import common, load
from bench.bench_stages import load_average
from headrace_lake.manifest import LAKE_TOPICS
from headrace_schemas.canonical import sha256
from headrace_streams.kafka import admin, clients, compat
from headrace_streams.kafka.partitioner import partition_for
from headrace_streams.kafka.reader import Reader
from headrace_streams.local_kafka.process import LocalKafka
from headrace_streams.runtime.provenance import Provenance, origin
from headrace_streams.settings import Settings
from headrace_streams.testing import event

PARTITIONS, BATCH, CHUNK = 4, 64, 20_000
TIME = "2026-01-01T00:00:00Z"
PER_PAIR = 3  # records: interaction, feedback, example
MEMORY = "BENCH_MEMORY"  # names the file where a child leaves the most that it had: what wait4 says is its parent's, too
MAIN = f"import atexit, os, sys; sys.path.append({str(Path(__file__).parents[1])!r}); from bench import bench_lake; "
MAIN += "atexit.register(bench_lake.leave_memory); from headrace_cli.main import main; main()"
HEADRACE = [sys.executable, "-c", MAIN]


def _event(kind: str, name: str, data: dict[str, Any]) -> bytes:
    return event(f"headrace.{kind}.v1", data, id=name, source="headrace:bench", time=TIME)


class MadeLog:
    """Records as stages would have written them, with offsets counted here: nobody else writes. `there`: how many a partition
    of the log has already, which are not published again. `buckets`: of each batch."""

    def __init__(self, there: Mapping[tuple[str, int], int] = MappingProxyType({})) -> None:
        self.offsets = {(topic, partition): 0 for topic in LAKE_TOPICS for partition in range(PARTITIONS)}
        self.there = there
        self.waiting: dict[tuple[str, int], list[tuple[bytes, bytes, Any]]] = {}
        self.members: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self.buckets: list[str] = []

    def put(self, topic: str, key: str, value: bytes, source: Provenance) -> tuple[int, int]:
        partition = partition_for(key.encode(), PARTITIONS)
        offset = self.offsets[topic, partition]
        self.offsets[topic, partition] += 1
        if offset >= self.there.get((topic, partition), 0):
            self.waiting.setdefault((topic, partition), []).append((key.encode(), value, origin(source)))
        return partition, offset

    def pair(self, pair: load.Pair) -> None:
        name, asked = f"i{pair.number}", json.loads(pair.interaction)["data"]
        bucket = f"{asked['artifact_type']}/small"
        at = Provenance("intake", "interactions", pair.number % PARTITIONS, pair.number // PARTITIONS, 0)
        self.put("signals", name, pair.interaction, at)
        partition, offset = self.put("signals", name, pair.feedback, at._replace(topic="feedback"))
        data = {
            "example_id": f"e{pair.number:031}", "revision": 1, "interaction_id": name, "bucket": bucket,
            "artifact_type": bucket.partition("/")[0], "model": "small", "agent": asked["agent"], "prompt_group": name,
            "content": {**{name: asked.get(name) for name in ("prompt", "output", "context")}, "target": asked["output"]},
            "quality": 0.5, "reward": 0.5,
            "components": {"validation": 0.1, "feedback": 0.1, "difficulty": 0.1, "multiplier": 1.0},
            "weights": {"balance": 1.0}, "contradicted": False, "voices": 1, "event_time": TIME, "train": True,
        }  # fmt: skip
        value = _event("example.rewarded", name, data)
        lies = self.put("examples", bucket, value, Provenance("reward", "signals", partition, offset, 0))
        self.members[bucket].append(
            {"example_id": data["example_id"], "revision": 1, "sha256": sha256(value), "role": "train", "weight": 1.0,
             "difficulty": 0.1, "split": "train", "locator": {"topic": "examples", "partition": lies[0], "offset": lies[1]}}
        )  # fmt: skip
        if len(self.members[bucket]) == BATCH:
            self._batch(bucket)

    def _batch(self, bucket: str) -> None:
        members, self.members[bucket] = self.members[bucket], []
        self.buckets.append(bucket)
        kind, _, base = bucket.partition("/")
        number = f"{len(self.buckets):032}"
        common_fields = {"bucket": bucket, "artifact_type": kind, "base": base, "batch_id": f"b{number}", "policy_digests": {}}
        statistics = {"examples": BATCH, "negatives": 0, "effective_size": float(BATCH), "mean_reward": 0.5}
        batch = {
            **common_fields,
            "cause": "target",
            "target": float(BATCH),
            "members": members,
            "test_pool": [],
            "statistics": statistics,
        }
        at = self.put("batches", bucket, _event("batch.ready", number, batch), Provenance("curate", "examples", 0, 0, 0))
        source = Provenance("train", "batches", *at, 0)
        start = {**common_fields, "run_id": f"r{number}", "seed": 1, "method": "lora", "hyperparameters": {}, "rehearsal": []}
        self.put("runs", bucket, _event("training.started", number, start), source)
        adapter = {"digest": sha256(number.encode()), "uri": "file:///x", "format": "peft", "size_bytes": 1, "files": []}
        version = {**common_fields, "version_id": f"v{number}", "run_id": f"r{number}", "adapter": adapter, "method": "lora",
                   "hyperparameters": {}, "rows": BATCH, "tokens": 1, "seconds": 1.0}  # fmt: skip
        self.put("versions", bucket, _event("model_version.created", number, version), source)
        answer = {**common_fields, "release_id": f"x{number}", "sequence": len(self.buckets), "batch_ids": [f"b{number}"],
                  "reason": "gate", "request_id": "q", "version_id": f"v{number}", "adapter": adapter}  # fmt: skip
        self.put(
            "releases.history", bucket, _event("release.promoted", number, answer), Provenance("release", "outcomes", 0, 0, 0)
        )

    async def publish(self, settings: Settings) -> None:
        waiting, self.waiting = self.waiting, {}
        async with clients.connected(clients.producer(settings, max_batch_size=512 * 1024, linger_ms=5)) as producer:
            for (topic, partition), records in waiting.items():
                name = clients.full_name(settings, topic)
                sent = [
                    await producer.send(name, key=key, value=value, partition=partition, headers=list(headers))
                    for key, value, headers in records
                ]
                await asyncio.gather(*sent)


async def fill(settings: Settings, records: int, pairs: Callable[[int, int], Iterable[load.Pair]] = load.pairs) -> MadeLog:
    """A log of `records` records or some more, or the rest of one that was begun. `pairs`: so many, from a number on."""
    await admin.declare(settings)
    made = MadeLog({place: span.end for place, span in (await Reader(settings).offsets(LAKE_TOPICS)).items()})
    for first in range(0, records // PER_PAIR, CHUNK):
        for pair in pairs(min(CHUNK, records // PER_PAIR - first), first):
            made.pair(pair)
        await made.publish(settings)
    return made


def consume(bootstrap: str, deployment: str) -> None:
    """The baseline, in a process of its own: every record of the same topics, decoded; prints how many."""
    import orjson
    from confluent_kafka import Consumer, TopicPartition

    settings = {"group.id": "bench", "enable.auto.commit": False, "isolation.level": "read_committed"}
    consumer = Consumer({"bootstrap.servers": bootstrap, "auto.offset.reset": "earliest", **settings})
    places = [TopicPartition(f"{deployment}.{topic}", partition, 0) for topic in LAKE_TOPICS for partition in _numbers(topic)]
    left = sum(consumer.get_watermark_offsets(place, timeout=30)[1] for place in places)
    consumer.assign(places)
    count = 0
    while count < left:
        for message in consumer.consume(10_000, 1.0):
            value = message.value()
            assert value is not None
            orjson.loads(value)
            count += 1
    consumer.close()
    print(count)


def _numbers(topic: str) -> range:
    return range(1 if topic == "rules" else PARTITIONS)


def timed(*command: str) -> tuple[float, float, float, str]:
    """Seconds, CPU seconds, MiB at most (0: it does not say), and what it printed, of a process of its own."""
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as out, tempfile.NamedTemporaryFile("r") as memory:
        surroundings = {**os.environ, "HEADRACE_DEBUG": "1", MEMORY: memory.name}
        child = subprocess.Popen(command, stdout=out, env=surroundings, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        out.seek(0)
        text, most = out.read(), memory.read()
    assert status == 0, (command, text)
    return time.monotonic() - began, usage.ru_utime + usage.ru_stime, int(most or 0) / 2**20, text


def leave_memory() -> None:
    """In a child, at its end: bytes that it had at most."""
    Path(os.environ[MEMORY]).write_text(str(common.memory()))


def baseline_of(bootstrap: str) -> list[str]:
    """The command that consumes all of it."""
    return [sys.executable, __file__, "--consume", bootstrap, "lake"]


def log_size(kafka: Path) -> float:
    """MiB that the log takes on the broker's disk."""
    return sum(size_of(folder) for topic in LAKE_TOPICS for folder in kafka.rglob(f"lake.{topic}-*"))


def size_of(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.suffix in (".log", ".parquet", ".json")) / 2**20


def asked(made: MadeLog, out: str) -> dict[str, list[str]]:
    """What is asked of a lake, by what it is called: arguments of the command."""
    middle = sum(made.offsets.values()) // PER_PAIR // 2
    release = f"x{1:032}"
    return {
        "lake status": ["lake", "status"],
        "sql: count of all records": ["sql", "SELECT count(*) FROM records"],
        "sql: rewards by bucket": ["sql", "SELECT bucket, avg(reward) FROM examples GROUP BY bucket"],
        "explain a release": ["explain", "--json", release],
        "explain an interaction": ["explain", "--json", f"i{middle}"],
        "impact of a published record": ["impact", "--json", f"interactions/{middle % PARTITIONS}/{middle // PARTITIONS}"],
        "dataset of a release": ["dataset", made.buckets[0], "--release", release, "--from", "lake", "--out", out],
    }


def main() -> None:
    if sys.argv[1:2] == ["--consume"]:
        return consume(sys.argv[2], sys.argv[3])
    runs, count = common.arguments(__doc__, count=1_000_000)
    compat.install()
    with tempfile.TemporaryDirectory() as scratch, LocalKafka(Path(scratch) / "kafka") as kafka:
        settings = Settings(bootstrap=kafka.bootstrap, deployment="lake", partitions=PARTITIONS)
        made = asyncio.run(fill(settings, count))
        records = sum(made.offsets.values())
        lake = Path(scratch) / "lake"
        where = ["--lake", str(lake), "--bootstrap", kafka.bootstrap, "--deployment", "lake"]
        baseline, follow = [], []
        for _ in range(runs):
            baseline.append(timed(*baseline_of(kafka.bootstrap)))
            shutil.rmtree(lake, ignore_errors=True)
            follow.append(timed(*HEADRACE, "lake", "follow", "--once", "--json", *where))
        assert json.loads(follow[-1][3])["records"] == int(baseline[-1][3]) == records
        print(f"{records} records; {load_average()}")
        rates = [records / seconds for seconds, *_ in baseline]
        common.line("confluent-kafka and orjson", rates, "records/s")
        common.line("lake follow", [records / seconds for seconds, *_ in follow], "records/s", ("confluent-kafka", rates))
        cpu = [seconds / records * 1e6 for _, seconds, *_ in baseline]
        common.line("confluent-kafka and orjson, CPU", cpu, "us")
        common.line("lake follow, CPU", [seconds / records * 1e6 for _, seconds, *_ in follow], "us", ("confluent-kafka", cpu))
        common.line("lake follow, memory at most", [memory for _, _, memory, _ in follow], "MiB")
        common.line("lake on disk", [size_of(lake)], "MiB", ("the log's", [log_size(Path(scratch) / "kafka")]))
        for name, command in asked(made, f"{scratch}/out").items():
            done = [timed(*HEADRACE, *command, *where) for _ in range(runs)]
            common.line(name, [seconds for seconds, *_ in done], "s")
            common.line(f"  {name}, CPU", [seconds for _, seconds, *_ in done], "s")
            common.line(f"  {name}, memory at most", [memory for _, _, memory, _ in done], "MiB")
    return None


if __name__ == "__main__":
    main()
