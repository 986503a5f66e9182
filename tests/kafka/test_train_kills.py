"""`headrace trainer` killed at any moment, checkpoint writes included: one result, with the bytes of an undisturbed run."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from headrace_schemas.events import (
    EvaluationCompleted,
    ModelVersionCreated,
    TrainingCompleted,
    TrainingProgressed,
    TrainingStarted,
)
from headrace_streams.settings import Settings
from headrace_trainer.stage.by_hand import train_batch
from support import tiny, training_data
from support.train_log import TrainLog, policy_of

pytestmark = pytest.mark.kafka
WRITING = "*.tmp*"  # the library writes to a hidden file of this kind, we to checkpoint.safetensors.tmp
HYPER = training_data.HYPER.model_copy(update={"steps": 200, "patience": 0})
KILLS = 4


def start(settings: Settings, policy: Path, log: Path, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ, "HEADRACE_BOOTSTRAP": settings.bootstrap, "HEADRACE_DEPLOYMENT": settings.deployment,
        "HEADRACE_DATA_DIR": str(settings.data_dir), "HEADRACE_POLICY": str(policy), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, "-c", "from headrace_cli.main import main; main()", "trainer", *arguments]
    with log.open("ab") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    torch.set_num_threads(1)
    base = tiny.build(tmp_path / "base")
    body = policy_of(base, HYPER).model_dump(mode="json", exclude_none=True)
    lines = ["[train]", "threads = 1", "checkpoint_seconds = 0.0", "[train.bases.tiny]", f"weights = {json.dumps(str(base))}"]
    lines += ["[train.defaults]", *(f"{name} = {json.dumps(value)}" for name, value in body["defaults"].items())]
    (tmp_path / "policy.toml").write_text("\n".join(lines))
    return tmp_path / "policy.toml"


@pytest.mark.slow(seconds=40)
def test_a_killed_trainer_ends_with_one_result(settings: Settings, policy: Path, tmp_path: Path) -> None:
    train_log = TrainLog(settings)
    draw = random.Random(7)
    log = tmp_path / "trainer.log"

    def checkpoint(pattern: str) -> bool:
        try:
            return any((settings.data_dir / "trainer").rglob(pattern))
        except FileNotFoundError:  # a folder that went while it was being looked through
            return False

    def strike(child: subprocess.Popen[bytes]) -> None:
        """Kills it, with its job, while a checkpoint is being written, or after ten seconds in which none was."""
        watched = time.monotonic() + 10
        while not checkpoint(WRITING) and time.monotonic() < watched:
            pass  # a write takes about a millisecond
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()

    async def scenario() -> None:
        batch = await train_log.publish_batch("b1", range(24))
        writes = 0
        child = start(settings, policy, log)
        for kill in range(KILLS):
            # Kill 0 as soon as the pins are in the log, the others while a checkpoint is being written, some steps further on.
            if kill == 0:
                await train_log.wait_for(TrainingStarted, "runs")
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            else:
                deadline = time.monotonic() + 90
                while not checkpoint("checkpoint.safetensors"):
                    assert time.monotonic() < deadline, log.read_text()
                    await asyncio.sleep(0.02)
                await asyncio.sleep(draw.uniform(0.0, 0.2))
                await asyncio.to_thread(strike, child)
            writes += checkpoint(WRITING)
            child = start(settings, policy, log)
        try:
            await train_log.wait_for(EvaluationCompleted, "outcomes")
        finally:
            child.terminate()
            assert child.wait(30) == 0, log.read_text()
        (begun,) = await train_log.events(TrainingStarted, "runs")
        (version,) = await train_log.events(ModelVersionCreated, "versions")
        (evaluation,) = await train_log.events(EvaluationCompleted, "outcomes")
        assert len(await train_log.events(TrainingCompleted, "runs")) == 1
        assert begun.batch_id == version.batch_id == batch.batch_id
        assert evaluation.version_id == version.version_id
        assert (
            max(step.attempt for step in await train_log.events(TrainingProgressed, "runs")) == 1
        )  # a kill is no failed attempt
        assert writes >= 1
        ours = settings.model_copy(update={"policy": policy})
        assert (await train_batch(ours, batch.batch_id, "cpu", lambda line: None)).adapter == version.adapter.digest

    asyncio.run(scenario())


@pytest.mark.slow(seconds=15)
def test_once_trains_what_waits_and_ends(settings: Settings, policy: Path, tmp_path: Path) -> None:
    train_log = TrainLog(settings)

    async def scenario() -> None:
        await train_log.publish_batch("b1", range(24))
        other = next(f"sums{n}/tiny" for n in range(99) if _elsewhere(settings, f"sums{n}/tiny"))
        await train_log.publish_batch("b2", range(100, 124), bucket=other)
        child = start(settings, policy, tmp_path / "log", "--once", "--device", "cpu")
        assert await asyncio.to_thread(child.wait, 120) == 0, (tmp_path / "log").read_text()
        assert len(await train_log.events(EvaluationCompleted, "outcomes")) == 2

    asyncio.run(scenario())


def _elsewhere(settings: Settings, bucket: str) -> bool:
    from headrace_streams.kafka.partitioner import partition_for

    count = settings.partitions
    return partition_for(bucket.encode(), count) != partition_for(training_data.BUCKET.encode(), count)


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("[train]\nattempts = 0", "train.attempts = 0"),
        ("[train.graders.sql]\nname = 'nobody'", "grader 'nobody' is not installed"),
        ("[train.buckets.'a/b']\nrr = 4", "rr"),
    ],
)
def test_a_wrong_policy_is_refused_at_the_start(settings: Settings, tmp_path: Path, body: str, fault: str) -> None:
    (tmp_path / "p.toml").write_text(body)
    child = start(settings, tmp_path / "p.toml", tmp_path / "log")
    assert child.wait(60) == 2
    assert fault in (tmp_path / "log").read_text().splitlines()[-1]
