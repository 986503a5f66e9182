"""A whole training job: members in, adapter folder and evaluation out. A function of its spec; knows no Kafka and no process.

Everything that decides the adapter's bytes is in `JobSpec.start` (what `TrainingStarted` pins) and the members it names.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import torch

from headrace_schemas.canonical import digest
from headrace_schemas.derived import Member
from headrace_trainer.data.rows import Lesson, lessons, to_learn, to_watch
from headrace_trainer.evaluation.evaluate import INCUMBENT, evaluate
from headrace_trainer.evaluation.grader import Grader
from headrace_trainer.learning.loop import Progress, train
from headrace_trainer.model import lora as adapters
from headrace_trainer.model.base import Base, Precision, load_base, precision_for
from headrace_trainer.policy import Hyperparameters
from headrace_trainer.spec import JobResult, JobSpec, Moment, Report, Trained


def run(spec: JobSpec, progress: Progress = lambda moment: None) -> JobResult:
    """Trains, saves and evaluates. Raises MemberRefused, BaseMissing, AdapterInvalid, GraderMissing, ArithmeticError (a
    diverged loss), or what torch raises."""
    began = time.monotonic()
    _prepare(spec)
    hyper = Hyperparameters.model_validate(spec.start.hyperparameters)
    precision = precision_for(hyper.precision, spec.device)
    spec.folder.mkdir(parents=True, exist_ok=True)
    with _alone(spec.folder):
        base = load_base(spec.weights, device=spec.device, precision=precision)
        if spec.candidate is not None:
            model, rows, warm, trained = adapters.load(base.model, spec.candidate), 0, False, None
            folder = spec.candidate
        else:
            learning = _lessons(base, [*to_learn(spec.batch.members), *spec.start.rehearsal], spec, hyper)
            watching = _lessons(base, to_watch(spec.batch.members), spec, hyper)
            model, warm = adapters.attach(base.model, hyper, spec.start.seed, spec.parent)
            trained = train(
                model, base, [lesson.row for lesson in learning], [lesson.row for lesson in watching], hyper,
                seed=spec.start.seed, precision=precision, folder=spec.folder, run=_pinned(spec),
                checkpoint_seconds=spec.checkpoint_seconds, progress=progress,
            )  # fmt: skip
            shutil.rmtree(spec.folder / "adapter", ignore_errors=True)  # left of a kill: the store takes no half files
            rows, folder = len(learning), adapters.save(model, spec.folder / "adapter")
        report = _evaluate(model, base, spec, hyper, precision, progress, trained)
    return JobResult(folder, rows, warm, time.monotonic() - began, report, trained)


def _evaluate(
    model: object,
    base: Base,
    spec: JobSpec,
    hyper: Hyperparameters,
    precision: Precision,
    progress: Progress,
    trained: Trained | None,
) -> Report:
    steps, loss = (trained.steps, trained.loss) if trained else (0, 0.0)
    progress(Moment(steps, steps, loss, 0.0, "evaluation"))
    if spec.parent is not None:
        adapters.add(model, spec.parent, INCUMBENT)
    tests = _lessons(base, spec.batch.test_pool, spec, hyper)
    named = {
        "policy": spec.evaluation, "requirements": spec.requirements, "precision": precision,
        "batch_tokens": hyper.batch_tokens, "seed": spec.start.seed,
    }  # fmt: skip
    if spec.grader is None:
        return evaluate(model, base, tests, **named)  # type: ignore[arg-type]
    with Grader(spec.grader) as grader:
        return evaluate(model, base, tests, grader=grader, **named)  # type: ignore[arg-type]


def _lessons(base: Base, members: Sequence[Member], spec: JobSpec, hyper: Hyperparameters) -> list[Lesson]:
    return lessons(base.tokenizer, members, spec.values, min(hyper.max_tokens, base.positions or hyper.max_tokens))


def _pinned(spec: JobSpec) -> str:
    """Names what a checkpoint belongs to. A run's id follows from its batch alone: with other pins (a log that was begun anew, a
    job by hand under another policy) or weights it must begin at the beginning."""
    return digest([msgspec.to_builtins(spec.start), spec.weights])


def _prepare(spec: JobSpec) -> None:
    """Process-wide settings of torch, the same for every run of these pins."""
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    if spec.device.startswith("cuda"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time in a run's folder: the job of a trainer that was just killed may have a moment left."""
    with open(folder / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
