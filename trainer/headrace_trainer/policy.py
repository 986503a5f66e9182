"""What a person decides about training: bases, hyperparameters, graders, requirements. Knows no torch and no Kafka.

Everything here is frozen and hashed; what a run needs of it is pinned in its `TrainingStarted`, so that a later change of the
policy cannot change a run that has begun.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from headrace_schemas.derived import Requirement
from headrace_streams.policy import Policy, PolicyError, parse_policy, read_policy_file
from headrace_streams.settings import first_fault

Share = Annotated[float, Field(ge=0, lt=1)]


class Hyperparameters(Policy):
    """How an adapter is trained. Lengths are in tokens; `epochs` counts passes over all rows unless `steps` is given."""

    method: Literal["lora"] = "lora"
    r: Annotated[int, Field(ge=1)] = 8
    alpha: Annotated[int, Field(ge=1)] = 32
    dropout: Share = 0.1
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    beta2: Share = 0.98
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip: Annotated[float, Field(gt=0)] = 1.0
    epochs: Annotated[float, Field(gt=0)] = 3.0
    steps: Annotated[int, Field(ge=1)] | None = None  # optimiser steps; given, it wins over epochs
    warmup: Share = 0.1  # share of the steps with a rising rate; the rest falls to zero
    batch_rows: Annotated[int, Field(ge=1)] = 16  # rows of an optimiser step
    batch_tokens: Annotated[int, Field(ge=1)] = 8192  # padded tokens of one forward pass; longer steps accumulate
    max_tokens: Annotated[int, Field(ge=8)] = 2048  # of one row; the head of a longer prompt is dropped
    rehearsal: Share = 0.25  # share of the training rows that comes from earlier batches
    warm_start: bool = True  # go on from the adapter that is served, if its shape is this one
    evaluations: Annotated[int, Field(ge=1)] = 8  # looks at the validation split during a run
    patience: Annotated[int, Field(ge=0)] = 3  # looks without a better loss before it stops; 0: never stops early
    validation_rows: Annotated[int, Field(ge=1)] = 8  # with fewer rows the split is too small to steer by
    precision: Literal["auto", "bf16", "fp32"] = "auto"


class BasePolicy(Policy):
    """Where the weights of a base are: a local folder or a hub name, as `from_pretrained` takes it."""

    weights: str


class GraderPolicy(Policy):
    """Who decides whether an output is right: an entry point of `headrace.graders`, or `module:function`."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)  # keyword arguments of every call
    seconds: Annotated[float, Field(gt=0)] = 5.0  # wall time of one call
    memory_mb: Annotated[int, Field(ge=16)] = 2048  # address space above what the empty grader process has
    pass_mark: Annotated[float, Field(ge=0, le=100)] = 50.0  # a grade from here on is a success


class EvaluationPolicy(Policy):
    resamples: Annotated[int, Field(ge=100)] = 2000  # of the paired bootstrap
    generate: Literal["passable", "always", "never"] = "passable"  # passable: only if the loss interval is above zero
    max_new_tokens: Annotated[int, Field(ge=1)] = 512
    batch_rows: Annotated[int, Field(ge=1)] = 32


class RequirementPolicy(Policy):
    """A target for a metric of the candidate: loss, perplexity, success, score, loss_gain."""

    name: str
    metric: str
    target: float
    direction: Literal["at_least", "at_most"] = "at_least"
    bucket: str = "*"  # glob over bucket names

    def check(self, current: float | None) -> Requirement:
        """The requirement with its current value. A metric that was not measured is not satisfied."""
        met = current is not None and (current >= self.target if self.direction == "at_least" else current <= self.target)
        return Requirement(
            name=self.name, metric=self.metric, target=self.target, direction=self.direction, satisfied=met, current=current
        )


class TrainerPolicy(Policy):
    """The `[train]` table. Hyperparameters of a bucket: `defaults`, overridden field by field in `buckets`."""

    bases: dict[str, BasePolicy] = Field(default_factory=dict)
    defaults: Hyperparameters = Hyperparameters()
    buckets: dict[str, dict[str, Any]] = Field(default_factory=dict)
    graders: dict[str, GraderPolicy] = Field(default_factory=dict)  # by artifact type
    evaluation: EvaluationPolicy = EvaluationPolicy()
    requirements: tuple[RequirementPolicy, ...] = ()
    attempts: Annotated[int, Field(ge=1)] = 3
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 30.0
    threads: Annotated[int, Field(ge=1)] | None = None  # of torch in a job; absent: torch decides
    seed: int = 0

    def hyperparameters(self, bucket: str) -> Hyperparameters:
        """pydantic's ValidationError when an override names no hyperparameter or a wrong value."""
        return Hyperparameters.model_validate({**self.defaults.model_dump(), **self.buckets.get(bucket, {})})

    def requirements_of(self, bucket: str) -> list[RequirementPolicy]:
        return [requirement for requirement in self.requirements if fnmatchcase(bucket, requirement.bucket)]


def load(path: Path | None) -> TrainerPolicy:
    """The policy in the `[train]` table of a TOML file; defaults without a file. Relative folders of weights are relative to
    the file. PolicyError names file, field and value."""
    if path is None:
        return TrainerPolicy()
    policy = parse_policy(TrainerPolicy, read_policy_file(path).get("train", {}), f"policy file {path}", "train.")
    for bucket in policy.buckets:
        try:
            policy.hyperparameters(bucket)
        except ValidationError as error:
            raise PolicyError(f"policy file {path}: train.buckets.{bucket}.{first_fault(error)}") from error
    bases = {name: BasePolicy(weights=_absolute(base.weights, path.parent)) for name, base in policy.bases.items()}
    return policy.model_copy(update={"bases": bases})


def _absolute(weights: str, folder: Path) -> str:
    """A folder beside the policy wins over a hub name of the same spelling."""
    candidate = (folder / Path(weights).expanduser()).resolve()
    return str(candidate) if candidate.is_dir() else weights
