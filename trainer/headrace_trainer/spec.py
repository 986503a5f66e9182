"""What goes into a job and what comes out: plain values that travel between processes. Knows no torch, so that who starts jobs
does not load it either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from msgspec import Struct

from headrace_schemas.derived import (
    Batch,
    Comparison,
    GroupResult,
    HeadResult,
    Measure,
    Member,
    Requirement,
    Surroundings,
    TrainingStart,
)
from headrace_streams.evaluation_samples import EvaluationSample
from headrace_trainer.data.members import RecordValues
from headrace_trainer.policy import EvaluationPolicy, GraderPolicy, RequirementPolicy
from headrace_trainer.suites import Suite

Counts = dict[str, dict[str, int]]  # of rows, by side (training, rehearsal, validation, test) and reason
ExampleIds = dict[str, dict[str, list[str]]]  # the same rows, by name


class JobProgress(NamedTuple):
    """Where a job stands. `loss` in nats per completion token; `tokens_per_second` are real ones, not padding. Of the latest step
    `learning_rate` and `gradient_norm`, before it was scaled down; `validation_loss` in the phase validation: the one of now."""

    step: int
    steps: int
    loss: float
    tokens_per_second: float
    phase: str = "training"
    validation_loss: float | None = None
    learning_rate: float | None = None
    gradient_norm: float | None = None


class MemoryPlan(NamedTuple):
    """How a run is to stay within its memory, in bytes. `peak` 0: nobody knows, for the reason in `unknown`."""

    batch_tokens: int
    activation_checkpointing: Literal["on", "off"] = "off"
    peak: int = 0
    weights: int = 0
    available: int = 0
    fits: bool = True
    unknown: str | None = None


class TrainingResult(NamedTuple):
    """`loss` of the last step; `validation_loss` the best one (None: too few rows to measure); `best_step` the step whose weights
    were kept; `batch_tokens`: of the last micro-batches, fewer than asked for when memory ran out."""

    steps: int
    loss: float
    validation_loss: float | None
    best_step: int
    tokens: int
    seconds: float
    batch_tokens: int = 0


class TrainingOutcome(NamedTuple):
    """What training came to, before the evaluation; the fields are those of `JobResult`."""

    rows: int
    warm_started: bool
    training: TrainingResult
    left_out: Counts
    shortened: Counts
    notes: Sequence[str]
    left_out_examples: ExampleIds


class EvaluationReport(Struct, frozen=True):
    """What an evaluation measured: the fields of the same names of `EvaluationCompleted`. The candidate itself,
    whose version has no name yet, stands last among `heads` under an empty one. `samples`: row by row; a job writes them to a
    file."""

    candidate: dict[str, Measure]
    incumbent: dict[str, Measure]
    comparison: Comparison
    requirements: list[Requirement]
    measure: Literal["success", "margin", "loss"] = "loss"
    heads: tuple[HeadResult, ...] = ()
    watched: tuple[GroupResult, ...] | None = None
    ungraded: dict[str, int] | None = None
    samples: tuple[EvaluationSample, ...] = ()


class TeacherSpec(NamedTuple):
    """Another base, as policy says it is loaded."""

    weights: str
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    quantisation: str | None = None


@dataclass(frozen=True)
class JobSpec:
    """`values`: record values by (example id, revision) of every member the job uses; `parent`: folder of the adapter that is
    served, None for the base; `folder`: this run's own, kept between attempts. `candidate`: evaluate this adapter, train none.
    `learnt`: what the candidate was trained on, where that was another run.
    `weights`: the folder of the base's files; `hub_name`: what others find it by; `halvings`: how often the
    system killed a job of this run, which then tries with half of the tokens at a time.
    `learner`: folder of the adapter that training goes on from, None for `parent`; `heads`: folders of earlier heads that are
    compared too, by version; `watched`: that of what was served before (None for the base), if `start` has it compared.
    `window`: rows of the batch that no earlier head can know; `suites`: asked of all of them beside the test rows; `processes`:
    how many train together; `optimiser`: folder of the optimiser's state that training goes on with; `teacher`: the base that
    teaches."""

    start: TrainingStart
    batch: Batch
    weights: str
    values: RecordValues
    folder: Path
    parent: Path | None = None
    candidate: Path | None = None
    learnt: Sequence[Member] | None = None
    learner: Path | None = None
    heads: Mapping[str, Path] = field(default_factory=dict)
    watched: Path | None = None
    evaluation: EvaluationPolicy = field(default_factory=EvaluationPolicy)
    requirements: Sequence[RequirementPolicy] = ()
    grader: GraderPolicy | None = None
    suites: Sequence[Suite] = ()
    window: Sequence[Member] = ()
    device: str = "cpu"
    threads: int | None = None
    checkpoint_seconds: float = 30.0
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    hub_name: str | None = None
    halvings: int = 0
    processes: int = 1
    quantisation: str | None = None
    optimiser: Path | None = None
    teacher: TeacherSpec | None = None


class SamplesFile(NamedTuple):
    """Samples of an evaluation as a job left them."""

    path: Path
    rows: int


class JobResult(NamedTuple):
    """`folder` holds the adapter; `rows` were trained on; `warm_started`: it went on from the parent; `training` is
    None when the job only evaluated. `left_out` and `shortened` count rows, `left_out_examples` names the former; `notes`: what
    stands in the way of learning; `samples`: those of its evaluation, if the policy keeps any; `optimiser`: folder of the
    optimiser's state, if one is kept."""

    folder: Path
    rows: int
    warm_started: bool
    seconds: float
    report: EvaluationReport
    training: TrainingResult | None
    surroundings: Surroundings | None = None
    left_out: Counts | None = None
    shortened: Counts | None = None
    notes: Sequence[str] = ()
    samples: SamplesFile | None = None
    optimiser: Path | None = None
    left_out_examples: ExampleIds | None = None
