"""What goes into a job and what comes out: plain values that travel between processes. Knows no torch, so that who starts jobs
does not load it either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from headrace_schemas.derived import Batch, Comparison, Measure, Requirement, TrainingStart
from headrace_trainer.policy import EvaluationPolicy, GraderPolicy, RequirementPolicy

Name = tuple[str, int]  # example id and revision


class Row(NamedTuple):
    """One example as tokens; `weight` > 0 counts on each completion token's loss."""

    example_id: str
    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    weight: float = 1.0

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.completion)


class Moment(NamedTuple):
    """What a run tells while it goes. `loss` in nats per completion token; `tokens_per_second` are real ones, not padding."""

    step: int
    steps: int
    loss: float
    tokens_per_second: float
    phase: str = "training"


class Trained(NamedTuple):
    """`loss` of the last step; `validation` the best loss seen on that split (None: too few rows to look); `kept` its step."""

    steps: int
    loss: float
    validation: float | None
    kept: int
    tokens: int
    seconds: float


class Report(Struct, frozen=True):
    """What an evaluation says: the fields of the same names of `EvaluationCompleted`."""

    candidate: dict[str, Measure]
    incumbent: dict[str, Measure]
    comparison: Comparison
    requirements: list[Requirement]


@dataclass(frozen=True)
class JobSpec:
    """`values`: record values by (example id, revision) of every member the job uses; `parent`: folder of the adapter that is
    served, None for the base; `folder`: this run's own, kept between attempts. `candidate`: evaluate this adapter, train none."""

    start: TrainingStart
    batch: Batch
    weights: str
    values: Mapping[Name, bytes]
    folder: Path
    parent: Path | None = None
    candidate: Path | None = None
    evaluation: EvaluationPolicy = field(default_factory=EvaluationPolicy)
    requirements: Sequence[RequirementPolicy] = ()
    grader: GraderPolicy | None = None
    device: str = "cpu"
    threads: int | None = None
    checkpoint_seconds: float = 30.0


class JobResult(NamedTuple):
    """`folder` holds the adapter; `rows` were trained on; `warm` tells whether it went on from the parent; `trained` is None
    when the job only evaluated."""

    folder: Path
    rows: int
    warm: bool
    seconds: float
    report: Report
    trained: Trained | None
