"""A whole training job: members in, adapter folder and evaluation out. A function of its spec; knows no Kafka and no process.

Everything that decides the adapter's bytes is in `JobSpec.start` (what `TrainingStarted` pins) and the members it names.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import torch

from headrace_schemas.canonical import digest
from headrace_schemas.derived import Member
from headrace_schemas.selection import run_members
from headrace_streams.file_lock import locked
from headrace_trainer.data.rows import TokenisedExample, tokenise_members
from headrace_trainer.evaluation.evaluate import INCUMBENT, evaluate
from headrace_trainer.evaluation.grader import Grader
from headrace_trainer.learning.loop import OnProgress, train
from headrace_trainer.model import lora
from headrace_trainer.model.base import Base, load_base
from headrace_trainer.model.precision import Precision, precision_for, surroundings_of
from headrace_trainer.policy import Hyperparameters
from headrace_trainer.spec import EvaluationReport, JobProgress, JobResult, JobSpec, TrainingResult


def run(spec: JobSpec, on_progress: OnProgress = lambda progress: None) -> JobResult:
    """Trains, saves and evaluates. Raises MemberRefused, BaseMissing, AdapterInvalid, GraderMissing, ArithmeticError (a
    diverged loss), or what torch raises."""
    began = time.monotonic()
    _prepare(spec)
    hyper = Hyperparameters.from_wire(spec.start.hyperparameters)
    precision = precision_for(hyper.precision, spec.device)
    spec.folder.mkdir(parents=True, exist_ok=True)
    with locked(spec.folder / "lock"):  # the job of a trainer that was just killed may have a moment left
        folder, rows, warm_started, training = spec.candidate, 0, False, None
        if folder is None:
            base = _base(spec, precision)
            members = run_members(spec.batch, spec.start)
            learnt = _tokenised(base, [*members.training, *members.rehearsal], spec, hyper)
            validated = _tokenised(base, members.validation, spec, hyper)
            model, warm_started = lora.attach(base.model, hyper, spec.start.seed, spec.parent)
            training = train(
                model, base, [example.row for example in learnt], [example.row for example in validated], hyper,
                seed=spec.start.seed, precision=precision, folder=spec.folder, run=_checkpoint_key(spec),
                checkpoint_seconds=spec.checkpoint_seconds, on_progress=on_progress,
            )  # fmt: skip
            shutil.rmtree(spec.folder / "adapter", ignore_errors=True)  # left of a kill: the store takes no half files
            rows, folder = len(learnt), lora.save(model, spec.folder / "adapter", _public_name(spec))
            del model, base  # before they are loaded once more
        # What is judged is what was saved, read back into a fresh base as an agent will.
        base = _base(spec, precision)
        report = _evaluate(lora.load(base.model, folder), base, spec, hyper, precision, on_progress, training)
    surroundings = surroundings_of(spec.device)
    return JobResult(folder, rows, warm_started, time.monotonic() - began, report, training, surroundings)


def _base(spec: JobSpec, precision: Precision) -> Base:
    return load_base(
        spec.weights, device=spec.device, precision=precision, attn_implementation=spec.attn_implementation,
        trust_remote_code=spec.trust_remote_code,
    )  # fmt: skip


def _evaluate(
    model: Any,
    base: Base,
    spec: JobSpec,
    hyper: Hyperparameters,
    precision: Precision,
    on_progress: OnProgress,
    training: TrainingResult | None,
) -> EvaluationReport:
    steps, loss = (training.steps, training.loss) if training else (0, 0.0)
    on_progress(JobProgress(steps, steps, loss, 0.0, "evaluation"))
    if spec.parent is not None:
        lora.add(model, spec.parent, INCUMBENT)
    tests = _tokenised(base, run_members(spec.batch, spec.start).test, spec, hyper)
    options = {
        "policy": spec.evaluation, "requirements": spec.requirements, "precision": precision,
        "batch_tokens": hyper.batch_tokens, "seed": spec.start.seed,
    }  # fmt: skip
    if spec.grader is None:
        return evaluate(model, base, tests, **options)  # type: ignore[arg-type]
    with Grader(spec.grader) as grader:
        return evaluate(model, base, tests, grader=grader, **options)  # type: ignore[arg-type]


def _tokenised(base: Base, members: Sequence[Member], spec: JobSpec, hyper: Hyperparameters) -> list[TokenisedExample]:
    limit = min(hyper.max_sequence_tokens, base.positions or hyper.max_sequence_tokens)
    return tokenise_members(base.tokenizer, members, spec.values, limit)


def _public_name(spec: JobSpec) -> str:
    """What others find the base by: its hub name, or its name in the policy where the weights are a folder of this machine."""
    return spec.hub_name or spec.batch.base


def _checkpoint_key(spec: JobSpec) -> str:
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
