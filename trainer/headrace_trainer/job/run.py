"""A whole training job: members in, adapter folder and evaluation out. A function of its spec; knows no Kafka and no process.

Everything that decides the adapter's bytes is in `JobSpec.start` (what `TrainingStarted` pins) and the members it names.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch

from headrace_schemas.canonical import digest
from headrace_schemas.derived import Example
from headrace_schemas.selection import run_members
from headrace_streams.evaluation_samples import SampleBounds, bounded, write
from headrace_streams.file_lock import locked
from headrace_trainer.data.members import key_of, verify
from headrace_trainer.evaluation.asked import AskedRows
from headrace_trainer.evaluation.checks import CHECKS
from headrace_trainer.evaluation.evaluate import INCUMBENT, WATCHED, AskedHeads, evaluate, without_loss_gains
from headrace_trainer.evaluation.grader import Grader, ungraded
from headrace_trainer.evaluation.raters import self_graded
from headrace_trainer.job.parts import train_parts
from headrace_trainer.job.ranks import learn_in_ranks
from headrace_trainer.job.rows import JobRows
from headrace_trainer.learning.loop import OnProgress
from headrace_trainer.model import lora
from headrace_trainer.model.base import Base, load_base
from headrace_trainer.model.methods import METHODS
from headrace_trainer.model.precision import Precision, precision_for, surroundings_of
from headrace_trainer.model.sharding import ALONE, Ranks, shard
from headrace_trainer.objectives.table import OBJECTIVES
from headrace_trainer.policy import Hyperparameters
from headrace_trainer.spec import (
    EvaluationReport,
    JobProgress,
    JobResult,
    JobSpec,
    SamplesFile,
    TeacherSpec,
    TrainingOutcome,
    TrainingResult,
)


def run(spec: JobSpec, on_progress: OnProgress = lambda progress: None) -> JobResult:
    """Trains, saves and evaluates. Raises MemberRefused, RowsMissing, BaseMissing, AdapterInvalid, GraderMissing, ArithmeticError
    (a diverged loss), or what torch raises."""
    began = time.monotonic()
    prepare(spec)
    hyper, precision = settled(spec)
    spec.folder.mkdir(parents=True, exist_ok=True)
    with locked(spec.folder / "lock"):  # the job of a trainer that was just killed may have a moment left
        learnt, lessons = None, JobRows(spec, hyper)
        if spec.candidate is None:
            learnt = learn(spec, on_progress) if spec.processes == 1 else learn_in_ranks(spec, on_progress)
            lessons.add(learnt)
        folder = spec.candidate or adapter_folder(spec)
        # What is judged is what was saved, read back into a fresh base as an agent will.
        base = load(spec, spec.device, precision)
        pool = lessons.pool(base)
        training = learnt.training if learnt else None
        report = _evaluate(lora.load(base.model, folder), base, pool, spec, hyper, precision, on_progress, training, lessons)
        samples = _samples_file(spec, report)
    seconds = time.monotonic() - began
    return JobResult(
        folder, learnt.rows if learnt else 0, learnt is not None and learnt.warm_started, seconds,
        msgspec.structs.replace(report, samples=()), training, surroundings_of(spec.device, processes=spec.processes),
        lessons.left_out or None, lessons.shortened or None, lessons.notes, samples,
        optimiser_folder(spec) if learnt and _carries(hyper) else None, lessons.left_out_examples or None,
    )  # fmt: skip


def learn(spec: JobSpec, on_progress: OnProgress, ranks: Ranks = ALONE) -> TrainingOutcome:
    """Trains, and saves into `adapter_folder`; of several `ranks` each calls this."""
    hyper, precision = settled(spec)
    lessons = JobRows(spec, hyper)
    base = load(spec, spec.device, precision) if ranks.size == 1 else load(spec, "cpu", precision, spec.device)
    members = run_members(spec.batch, spec.start)
    named = (("training", members.training), ("rehearsal", members.rehearsal), ("validation", members.validation))
    parts = lessons.parts(base, **{side: lessons.tokenised(side, base, listed) for side, listed in named})
    model, warm_started = lora.attach(base.model, hyper, spec.start.seed, spec.learner or spec.parent)
    _check_beside(model, spec)
    if ranks.size > 1:
        shard(model, ranks, spec.device)
        base = replace(base, device=spec.device)
    carries = _carries(hyper)
    training = train_parts(
        model, base, parts, hyper, seed=spec.start.seed, precision=precision, folder=spec.folder, run=_checkpoint_key(spec),
        checkpoint_seconds=spec.checkpoint_seconds, optimiser_from=spec.optimiser if warm_started and carries else None,
        optimiser_to=optimiser_folder(spec) if carries else None, on_progress=on_progress, ranks=ranks,
        teacher=None if spec.teacher is None else partial(load, spec.teacher, spec.device, precision),
    )  # fmt: skip
    if ranks.first:
        shutil.rmtree(adapter_folder(spec), ignore_errors=True)  # left of a kill: the store takes no half files
    lora.save(model, adapter_folder(spec), _public_name(spec), writes=ranks.first)
    if hyper.dora or METHODS[hyper.method].whole:
        lessons.notes.append(f"{'dora' if hyper.dora else hyper.method}: what serves this has to merge it into the base")
    return TrainingOutcome(
        lessons.learnt,
        warm_started,
        training,
        lessons.left_out,
        lessons.shortened,
        tuple(lessons.notes),
        lessons.left_out_examples,
    )


def _check_beside(model: Any, spec: JobSpec) -> None:
    """AdapterInvalid, before anything is trained, where what is to be compared can't be in one model: the library puts no adapter
    on a layer that another one has whole."""
    for folder in (spec.parent, spec.watched, *spec.heads.values()):
        if folder is not None and (layer := lora.whole_in_one(model, folder)) is not None:
            bucket = spec.batch.bucket
            raise lora.AdapterInvalid(
                f"method, modules_to_save: of this run and what {bucket} serves or compares one has {layer} whole, the other an "
                f"adapter on it: first have the base served (`headrace rollback {bucket} --to base`), then `headrace batches "
                f"retry {spec.batch.batch_id}`"
            )


def _carries(hyper: Hyperparameters) -> bool:
    """Whether runs go on with the optimiser of the one before: of an objective in parts each begins with its own."""
    return hyper.carry_optimiser and not OBJECTIVES[hyper.objective].parts


def settled(spec: JobSpec) -> tuple[Hyperparameters, Precision]:
    """What a job's pins leave open, as this attempt has it."""
    hyper = Hyperparameters.from_wire(spec.start.hyperparameters)
    if spec.halvings:
        hyper = hyper.model_copy(update={"batch_tokens": max(1, hyper.batch_tokens >> spec.halvings)})
    return hyper, precision_for(hyper.precision, spec.device)


def adapter_folder(spec: JobSpec) -> Path:
    return spec.folder / "adapter"


def optimiser_folder(spec: JobSpec) -> Path:
    return spec.folder / "optimiser"


def load(spec: JobSpec | TeacherSpec, device: str, precision: Precision, computes_on: str | None = None) -> Base:
    """The base that `spec` names, on `device`; `computes_on`: in the format of another, where its parts go later."""
    return load_base(
        spec.weights, device=device, precision=precision, attn_implementation=spec.attn_implementation,
        trust_remote_code=spec.trust_remote_code, computes_on=computes_on, quantisation=spec.quantisation,
    )  # fmt: skip


def _evaluate(
    model: Any,
    base: Base,
    pool: AskedRows,
    spec: JobSpec,
    hyper: Hyperparameters,
    precision: Precision,
    on_progress: OnProgress,
    training: TrainingResult | None,
    lessons: JobRows,
) -> EvaluationReport:
    steps, loss = (training.steps, training.loss) if training else (0, 0.0)
    on_progress(JobProgress(steps, steps, loss, 0.0, "evaluation"))
    if spec.parent is not None:
        lora.add(model, spec.parent, INCUMBENT)
    earlier = {version: f"head_{number}" for number, version in enumerate(spec.heads)}
    for version, name in earlier.items():
        lora.add(model, spec.heads[version], name)
    if spec.watched is not None:
        lora.add(model, spec.watched, WATCHED)
    watched = None if spec.start.watched is None else WATCHED if spec.watched is not None else ""
    heads = AskedHeads(spec.batch.base, spec.start.parent_adapter, earlier, watched)
    grades: AbstractContextManager[Grader | None] = nullcontext() if spec.grader is None else Grader(spec.grader)
    checked = any(suite.has_checks for suite in spec.suites)
    checks: AbstractContextManager[Grader | None] = Grader(CHECKS) if checked else nullcontext()
    by_loss = "loss" in OBJECTIVES[hyper.objective].judged_by
    policy = spec.evaluation if by_loss else spec.evaluation.model_copy(update={"without_grader": "margin"})
    with grades as grader, checks as checker:
        report = evaluate(
            model, base, pool, policy=policy, heads=heads, requirements=spec.requirements, grader=grader,
            checker=checker, precision=precision, batch_tokens=hyper.batch_tokens, seed=spec.start.seed,
            suites=lessons.suites(base), window=lessons.window(base),
            self_graded=None if spec.grader is None else self_graded(spec.grader, _learnt(spec)),
        )  # fmt: skip
        report = report if by_loss else without_loss_gains(report)
        return msgspec.structs.replace(report, ungraded=ungraded(grader, checker))


def _learnt(spec: JobSpec) -> Iterator[Example]:
    """What the candidate has learnt, as far as its records are there: evaluating needs none of them."""
    members = run_members(spec.batch, spec.start)
    for member in [*members.training, *members.rehearsal] if spec.learnt is None else spec.learnt:
        if (value := spec.values.get(key_of(member))) is not None:
            yield verify(member, value)


def _samples_file(spec: JobSpec, report: EvaluationReport) -> SamplesFile | None:
    """The samples in the run's folder; None when there are none to keep."""
    policy = spec.evaluation
    if not policy.samples_mb or not report.samples:
        return None
    kept = bounded(report.samples, SampleBounds(policy.samples_characters, int(policy.samples_mb * 1e6)))
    path = spec.folder / "samples.parquet"
    write(path, kept, spec.start.run_id)
    return SamplesFile(path, len(kept))


def _public_name(spec: JobSpec) -> str:
    """What others find the base by: its hub name, or its name in the policy where the weights are a folder of this machine."""
    return spec.hub_name or spec.batch.base


def _checkpoint_key(spec: JobSpec) -> str:
    """Names what a checkpoint belongs to. A run's id follows from its batch alone: with other pins (a log that was begun anew, a
    job by hand under another policy) or weights it must begin at the beginning."""
    return digest([msgspec.to_builtins(spec.start), spec.weights])


def prepare(spec: JobSpec) -> None:
    """Process-wide settings of torch, the same for every run of these pins."""
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    if spec.device.startswith("cuda"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
