"""Several processes that train together learn what one learns, killed or not, and say in one line what ended them."""

from __future__ import annotations

import asyncio
import fcntl
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from headrace_trainer.data.rows import TokenRow
from headrace_trainer.job.process import JobFailed, probe_hardware
from headrace_trainer.job.run import run
from headrace_trainer.model import lora
from headrace_trainer.model.base import load_base
from headrace_trainer.model.sharding import Ranks
from headrace_trainer.objectives.loss import passes_of, split_by_tokens
from headrace_trainer.spec import JobSpec
from support import architectures, training_data
from support.training import in_process

TRAIN = [training_data.recorded(number, weight=0.5 + number % 3) for number in range(20)]
WATCH = [training_data.recorded(number, "validation") for number in range(30, 33)]
TESTS = [training_data.recorded(number, "test") for number in range(40, 44)]
BATCH = training_data.batch([made.member for made in (*TRAIN, *WATCH)], [made.member for made in TESTS])
VALUES = training_data.values(*TRAIN, *WATCH, *TESTS)
# No dropout, whose masks are drawn by each process for itself; short micro-batches, so that each step has several, and in the
# last one a process has none; a small norm, so that clipping plays a part.
HYPER = training_data.HYPER.model_copy(
    update={"dropout": 0.0, "steps": 6, "batch_tokens": 100, "rows_per_step": 7, "max_grad_norm": 0.05, "validations_per_run": 3}
)


def spec_of(base: Path, folder: Path, **changed: Any) -> JobSpec:
    start = training_data.start(BATCH, hyperparameters=HYPER.model_copy(update=changed).to_wire())
    return JobSpec(start, BATCH, str(base), VALUES, folder, threads=1, checkpoint_seconds=0.0)


@pytest.mark.slow(seconds=20)
@pytest.mark.parametrize("name", ["qwen2", "qwen3_moe"])
def test_two_processes_learn_what_one_learns(name: str, tmp_path: Path) -> None:
    base = architectures.build(name, tmp_path / "base")
    alone = run(spec_of(base, tmp_path / "alone"))
    two, steps = in_process(replace(spec_of(base, tmp_path / "two"), processes=2))
    assert two is not None
    ours, theirs = lora.tensors_in(alone.folder), lora.tensors_in(two.folder)
    fresh = lora.tensors_of(lora.attach(load_base(str(base)).model, HYPER, alone_seed())[0])
    moved = max(float((ours[key] - fresh[key]).abs().max()) for key in ours)
    apart = max(float((ours[key] - theirs[key]).abs().max()) for key in ours)
    assert moved > 0.05
    assert apart < 1e-3 * moved, (apart, moved)
    assert alone.training is not None
    assert two.training is not None
    assert two.training.loss == pytest.approx(alone.training.loss, rel=1e-5)
    assert two.training.validation_loss == pytest.approx(alone.training.validation_loss, rel=1e-5)
    assert (two.rows, two.training.steps, two.training.tokens) == (alone.rows, alone.training.steps, alone.training.tokens)
    assert {progress.phase for progress in steps} >= {"training", "validation", "evaluation"}
    assert two.surroundings is not None
    assert two.surroundings.processes == 2


def alone_seed() -> int:
    return training_data.start(BATCH).seed


@pytest.mark.slow(seconds=20)
def test_processes_that_are_killed_go_on_to_the_same_bytes(tiny_base: Path, tmp_path: Path) -> None:
    whole = in_process(replace(spec_of(tiny_base, tmp_path / "whole", dropout=0.1), processes=2))[0]
    killed = replace(spec_of(tiny_base, tmp_path / "killed", dropout=0.1), processes=2)
    assert in_process(killed, kill_at=3)[0] is None
    deadline = time.monotonic() + 60
    for rank in (0, 1):  # each holds its lock as long as it lives
        with (killed.folder / f"lock.{rank}").open() as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    assert time.monotonic() < deadline, "a rank outlived its job"
                    time.sleep(0.02)
    resumed, steps = in_process(killed)
    assert steps[0].step > 1, "it went on"
    assert whole is not None
    assert resumed is not None
    ours, theirs = lora.tensors_in(whole.folder), lora.tensors_in(resumed.folder)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.slow(seconds=20)
def test_what_ends_one_process_is_told_as_that_of_one(tiny_base: Path, tmp_path: Path) -> None:
    name = (TRAIN[3].member.example_id, 1)
    wrong = replace(spec_of(tiny_base, tmp_path / "wrong"), values={**VALUES, name: TRAIN[4].value}, processes=2)
    with pytest.raises(JobFailed, match=f"^MemberRefused: member {name[0]}") as failed:
        in_process(wrong)
    assert failed.value.cause == "batch"


def test_more_processes_than_gpus_are_refused_at_the_start() -> None:
    with pytest.raises(JobFailed, match=r"device cuda:1: ValueError: processes = 2: each needs a GPU of its own, and there is 1"):
        asyncio.run(probe_hardware("cuda:1", None, 2))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("budget", [1, 40, 10**6])
def test_every_row_is_one_process_s_and_all_go_through_as_often(size: int, budget: int) -> None:
    rows = [TokenRow(str(index), (1,), (2,) * (1 + index * 7 % 23), 1.0 + index) for index in range(7)]
    for count in range(1, len(rows) + 1):
        passes = [passes_of(rows[:count], budget, Ranks(rank, size)) for rank in range(size)]
        assert len({len(own) for own in passes}) == 1
        real = [row for own in passes for micro in own for row in micro if row.weight]
        assert sorted(real) == sorted(rows[:count])
        assert all(len(micro) == 1 or sum(row.length for row in micro) <= budget for own in passes for micro in own)
    assert passes_of(rows, budget, Ranks()) == split_by_tokens(rows, budget)
