"""kill -9 of worker and trainer under load: nothing is lost, nothing counts twice, replay agrees, one result a batch."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import TopicPartition

import headrace
from headrace_lake.kafka_log import KafkaLog
from headrace_lake.verify import verify
from headrace_processors.stages import STAGES
from headrace_schemas.codec import decode
from headrace_schemas.events import EvaluationCompleted, ModelVersionCreated
from headrace_schemas.topics import TOPIC_NAMES
from headrace_streams.kafka import clients
from headrace_streams.kafka.reader import Reader
from headrace_streams.settings import Settings
from support.ring import Ring, count
from support.tiny import build

pytestmark = [pytest.mark.kafka, pytest.mark.slow(seconds=90), pytest.mark.timeout(600)]

POLICY = """
[[reward.bases]]
base = "tiny"

[curate]
target_effective_size = 300.0
decay_per_day = 1.0
good_enough = 1.0

[release]
min_test_rows = 5

[train]
checkpoint_seconds = 0.0
threads = 1

[train.bases.tiny]
weights = "{weights}"

[train.defaults]
r = 16
steps = 24
learning_rate = 1e-3
rows_per_step = 8
patience = 0
"""
PAIRS = 1000
WORKER_KILLS = 4
TRAINER_KILLS = 2  # more, and of the broker: `make chaos`


@pytest.fixture
def ring(settings: Settings, tmp_path: Path) -> Iterator[Ring]:
    weights = build(tmp_path / "weights")
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY.format(weights=weights))
    with Ring(settings.model_copy(update={"policy": policy}), tmp_path / "ring", threads=1) as ring:
        yield ring


class Load(threading.Thread):
    """An agent and its judges: publishes pairs as fast as the outbox takes them, in slices, until told to stop."""

    def __init__(self, settings: Settings, outbox: Path) -> None:
        super().__init__(daemon=True)
        self.settings, self.outbox = settings, outbox
        self.published = 0
        self.enough = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        draw = random.Random(3)
        try:
            with headrace.Recorder(
                self.settings.bootstrap, deployment=self.settings.deployment, agent="bot", outbox=self.outbox
            ) as recorder:
                number = 0
                while number < PAIRS or not self.enough.is_set():
                    call = recorder.interaction(
                        artifact_type="sql",
                        model="m",
                        prompt=f"how many orders has customer {number}?",
                        output=f"select {number}",
                    )
                    good = draw.random() < 0.7
                    recorder.feedback(call, kind="success" if good else "validation_failure", score=100 if good else 0)
                    number += 1
                    self.published += 2
                    self.enough.wait(0.01)
                assert recorder.flush(120), recorder.trouble
        except BaseException as error:
            self.error = error


async def open_transactions(settings: Settings) -> int:
    """Partitions on which a transaction is open: committed readers see less than there is."""
    counts = await clients.partition_counts(settings, TOPIC_NAMES)
    places = [TopicPartition(clients.full_name(settings, topic), part) for topic, n in counts.items() for part in range(n)]
    async with (
        clients.connected(clients.consumer(settings)) as committed,
        clients.connected(clients.consumer(settings, isolation_level="read_uncommitted")) as everything,
    ):
        stable, high = await committed.end_offsets(places), await everything.end_offsets(places)
    return sum(stable[place] < high[place] for place in places)


def writing(folder: Path) -> bool:
    """Whether a checkpoint is being written, or was when its writer was killed."""
    try:
        return any(folder.rglob("*.safetensors.tmp"))
    except FileNotFoundError:  # a folder that went while it was being looked through
        return False


def wait_for_checkpoint_write(folder: Path, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not writing(folder):
        assert time.monotonic() < until, "no checkpoint was written"


def test_kills_under_load_change_nothing(ring: Ring, settings: Settings, tmp_path: Path) -> None:
    draw = random.Random(12)
    load = Load(settings, tmp_path / "outbox.db")
    ring.start("worker", "trainer")
    load.start()
    in_transaction = in_checkpoint = 0
    trainer_kills = 0
    for kill in range(WORKER_KILLS + TRAINER_KILLS):
        if kill % 3 == 2 and trainer_kills < TRAINER_KILLS:
            trainer_kills += 1
            wait_for_checkpoint_write(settings.data_dir)
            ring.kill("trainer")
            in_checkpoint += writing(settings.data_dir)
            ring.start("trainer")
            continue
        wait_for_position(settings, load)
        time.sleep(draw.uniform(0.05, 0.5))  # the seeded moment of the kill, not a wait for anything
        ring.kill("worker")
        in_transaction += asyncio.run(open_transactions(settings)) > 0
        ring.start("worker")
    load.enough.set()
    load.join(180)
    assert load.error is None
    counters = ring.wait(published=load.published, trained=True, deadline=240)
    print(f"{WORKER_KILLS + TRAINER_KILLS} kills, {in_transaction} in a transaction, {in_checkpoint} in a checkpoint write")

    assert counters["intake"]["in"] >= load.published  # at least once up to here
    assert counters["reward"]["applied"] == load.published
    assert counters["reward"]["in"] == counters["reward"]["applied"] + counters["reward"]["duplicate"]
    reports = asyncio.run(verify(KafkaLog(settings), STAGES))
    assert {name: report.differences for name, report in reports.items() if report.differences} == {}
    assert reports["reward"].records == counters["reward"]["in"]
    batches = asyncio.run(count(settings, "batches"))
    versions = asyncio.run(by_batch(settings, "versions"))
    assert batches >= 1
    assert set(versions.values()) == {1}
    assert len(versions) == batches
    assert asyncio.run(by_batch(settings, "outcomes")) == versions
    assert asyncio.run(count(settings, "releases.history")) == batches
    assert in_transaction >= 3
    assert in_checkpoint >= 1


async def by_batch(settings: Settings, topic: str) -> Counter[str]:
    found: Counter[str] = Counter()
    async for record in Reader(settings).read_topic(topic):
        event = decode(record.value, tuple(record.headers))
        if isinstance(event, ModelVersionCreated | EvaluationCompleted):
            found[event.data.batch_id] += 1
    return found


def wait_for_position(settings: Settings, load: Load, seconds: float = 60) -> None:
    """Until the worker has taken up its work: its group's tasks have written something since they started."""
    before = asyncio.run(ends(settings))
    until = time.monotonic() + seconds
    while asyncio.run(ends(settings)) == before:
        assert load.error is None, load.error
        assert time.monotonic() < until, "the worker does nothing"


async def ends(settings: Settings) -> int:
    return sum(span.end for span in (await Reader(settings).offsets(["signals", "examples"])).values())
