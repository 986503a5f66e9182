"""What a person decides about training: bases, hyperparameters, graders, requirements. Knows no torch and no Kafka.

Everything here is frozen and hashed; what a run needs of it is pinned in its `TrainingStarted`, so that a later change of the
policy cannot change a run that has begun.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from headrace_schemas.derived import Requirement
from headrace_streams.policy import Policy, PolicyError, parse_policy, read_policy_file
from headrace_streams.settings import first_fault
from headrace_trainer.model.methods import METHODS
from headrace_trainer.objectives.table import OBJECTIVES

SHIPPED_SUITES = Path(__file__).parent / "suites"  # those that come with the package: `NAME.toml`

Share = Annotated[float, Field(ge=0, lt=1)]
LayerName = Annotated[str, Field(min_length=1, pattern=r"^[\w.]+$")]


# Names on the log that differ from those of the policy file; pins once written must always be readable.
_WIRE_NAMES = {
    "max_grad_norm": "clip",
    "rows_per_step": "batch_rows",
    "max_sequence_tokens": "max_tokens",
    "validations_per_run": "evaluations",
}
_OUR_NAMES = {wire: ours for ours, wire in _WIRE_NAMES.items()}


# What a run did whose pins are without these keys.
_ABSENT = {"min_steps": 1, "final_rate": 0.0, "carry_optimiser": False}


def _ours(recorded: Mapping[str, Any]) -> dict[str, Any]:
    return {_OUR_NAMES.get(name, name): value for name, value in recorded.items()}


class Hyperparameters(Policy):
    """How an adapter is trained. Lengths are in tokens."""

    method: str = Field("lora", description=f"what is trained: {', '.join(METHODS)}")
    objective: str = Field("sft", description=f"what is minimised: {', '.join(OBJECTIVES)}")
    beta: float = Field(0.1, gt=0, description="dpo, kto: how dear it is to move away from the model as the run begins")
    margin: float = Field(
        0.5, ge=0, description="dpo: by so much more a pair of 100 points between its answers is pushed apart than one of none"
    )
    least_gap: float = Field(
        10.0, ge=0, lt=100, description="dpo: points (0-100) that must be more than this between the answers of a pair"
    )
    pairs_per_group: int = Field(4, ge=1, description="dpo: most pairs of one prompt group, the widest")
    chosen_loss: float = Field(
        0.0, ge=0, description="dpo: how much the loss of the better answer counts beside the preference, in nats a token"
    )
    undesirable_weight: float | None = Field(
        None,
        gt=0,
        description="kto: by how much bad answers weigh more than good ones; absent: as much as makes both weigh the same in "
        "all, within 1/4 and 4",
    )
    teacher: str | None = Field(None, description="distillation: the base in [train.bases] that teaches, of the same vocabulary")
    teacher_share: float = Field(
        0.5, ge=0, le=1, description="distillation: how much counts what the teacher would have said, beside what is to be said"
    )
    temperature: float = Field(
        1.0, gt=0, description="distillation: by what teacher and model are softened when they are compared"
    )
    teacher_tokens: int = Field(
        64, ge=1, description="distillation: likeliest tokens that are kept of a teacher; the rest is one"
    )
    r: int = Field(8, ge=1, description="rank of the adapter")
    alpha: int = Field(32, ge=1, description="scale of the adapter; its output is multiplied by alpha / r")
    rslora: bool = Field(
        False, description="multiply the adapter's output by alpha / √r instead, so that a rank needs no other alpha"
    )
    dora: bool = Field(
        False,
        description="learn the length of each weight apart from its direction; what serves it has to merge it into the base",
    )
    init: Literal["default", "orthogonal"] = Field(
        "default", description="how an adapter begins; orthogonal: of even rank, with an orthonormal half each side"
    )
    lora_plus: float = Field(
        1.0,
        gt=0,
        description="by so much higher is the learning rate of the adapter's output side (B) than of its input side (A)",
    )
    dropout: Share = Field(
        0.1,
        description="share of the adapter's inputs that is dropped in training; none for objectives that compare with the model "
        "as the run begins",
    )
    target_modules: Literal["all-linear"] | tuple[LayerName, ...] = Field(
        "all-linear",
        description="layers that get an adapter: all linear ones but the output head and the experts of a mixture, or names such "
        "as `q_proj` (experts by `experts.gate_up_proj` and the like, with dropout 0)",
    )
    modules_to_save: tuple[LayerName, ...] = Field(
        (), description="layers that are trained whole and kept in the adapter, such as `lm_head` or `embed_tokens`"
    )
    learning_rate: float = Field(2e-4, gt=0, description="highest learning rate of AdamW")
    beta2: Share = Field(0.98, description="decay of AdamW's second moment")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay of AdamW")
    max_grad_norm: float = Field(1.0, gt=0, description="a longer gradient is scaled down to this norm")
    epochs: float = Field(1.0, gt=0, description="passes over all rows, those of rehearsal too, unless `steps` is given")
    min_steps: int = Field(16, ge=1, description="fewest optimiser steps of a run, unless `steps` is given")
    steps: int | None = Field(None, ge=1, description="optimiser steps; given, it wins over `epochs`")
    warmup: Share = Field(
        0.1,
        description="share of the steps with a rising learning rate, unless the optimiser is carried; over the rest it falls",
    )
    final_rate: float = Field(0.1, ge=0, le=1, description="share of the learning rate that it falls to")
    carry_optimiser: bool = Field(
        True, description="go on with the moments of the optimiser at the end of the run that it goes on from"
    )
    rows_per_step: int = Field(16, ge=1, description="rows of an optimiser step")
    batch_tokens: int = Field(
        8192, ge=1, description="most padded tokens of one forward pass, fewer where memory holds fewer; longer steps accumulate"
    )
    activation_checkpointing: Literal["auto", "on", "off"] = Field(
        "auto", description="drop a layer's activations and make them again for the gradient; auto: where memory needs it"
    )
    max_sequence_tokens: int = Field(2048, ge=8, description="tokens of one row; the head of a longer prompt is dropped")
    rehearsal: Share = Field(0.75, description="share of the training rows that comes from earlier batches")
    warm_start: bool = Field(
        True,
        description="go on from the bucket's newest version (after harm or a change by hand from what is served), unless it has"
        " layers that are not trained any more",
    )
    validations_per_run: int = Field(8, ge=1, description="how often the validation loss is measured during a run")
    patience: int = Field(3, ge=0, description="validations without a better loss before it stops; 0: never stops early")
    validation_rows: int = Field(8, ge=1, description="with fewer validation rows the loss is too uncertain to stop by")
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="number format; auto: bf16 where it is faster")

    @field_validator("objective", "method")
    @classmethod
    def _known(cls, value: str, info: ValidationInfo) -> str:
        known: Collection[str] = OBJECTIVES if info.field_name == "objective" else METHODS
        if value not in known:
            raise ValueError(f"there is no such {info.field_name}; there are {', '.join(known)}")
        return value

    def to_wire(self) -> dict[str, Any]:
        """As `TrainingStarted` and `ModelVersionCreated` carry them: by their names on the log."""
        return {_WIRE_NAMES.get(name, name): value for name, value in self.body().items()}

    @classmethod
    def from_wire(cls, pins: Mapping[str, Any]) -> Hyperparameters:
        """Out of the pins of a `TrainingStarted`. pydantic's ValidationError for what none of our versions wrote."""
        return cls.model_validate({**_ABSENT, **_ours(pins)})


class BasePolicy(Policy):
    """Where the weights of a base are, and how they are loaded."""

    weights: str = Field(description="a local folder (relative to the policy file) or a hub name")
    revision: str | None = Field(None, min_length=1, description="branch, tag or commit of a hub name; absent: its main branch")
    identity: str | None = Field(
        None,
        pattern=r"^sha256:[0-9a-f]{64}$",
        description="what the base must be, as `headrace trainer --check` says it; absent: what it was in the bucket's last run",
    )
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"] | None = Field(
        None, description="how attention is computed; absent: the library decides"
    )
    quantisation: Literal["nf4"] | None = Field(
        None,
        description="hold its linear layers in four bits, in training and evaluation (needs `headrace[nf4]`); what serves the"
        " adapters should do so too",
    )
    trust_remote_code: bool = Field(
        False, description="run Python files that come with the weights: whoever wrote them then has all that the trainer has"
    )


class GraderPolicy(Policy):
    """Who decides whether an output is right."""

    name: str = Field(description="an entry point of `headrace.graders`, or `module:function`")
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of every call")
    execution: bool = Field(
        False,
        description="it runs, parses or compares answers; false: it may ask a model, which must not judge what it alone taught",
    )
    raters: tuple[str, ...] = Field(
        (), description="principals beside `name` under which the same model gives feedback (ids, without their kind)"
    )
    needs_reference: bool = Field(
        True,
        description="it compares with a right answer (`example.content.target`); false: it can tell without one (the target is "
        "then empty), as tests can, and prompts are drawn from interactions for it",
    )
    seconds: float = Field(5.0, gt=0, description="wall time of one call")
    memory_mb: int = Field(2048, ge=16, description="address space of each of its processes above what the empty one has")
    disk_mb: int = Field(64, ge=1, description="what it may write, into a /tmp of its own that is new for every row")
    processes: int = Field(64, ge=1, description="processes and threads of a row together (where it is isolated)")
    isolation: Literal["preferred", "required", "off"] = Field(
        "preferred", description="namespaces of its own: where the machine allows them, else only limits; or no run; or never"
    )
    network: bool = Field(False, description="whether it may open connections, as one that asks a service must")
    environment: tuple[str, ...] = Field((), description="variables of the trainer that it gets; all others it has not")
    folders: tuple[str, ...] = Field((), description="files and folders that it may read beside Python and its libraries")
    pass_mark: float = Field(50.0, ge=0, le=100, description="a grade from here on is a success")


class EvaluationPolicy(Policy):
    """How candidate and incumbent are compared."""

    resamples: int = Field(2000, ge=100, description="of the paired bootstrap")
    generate: Literal["passable", "always", "never"] = Field(
        "always",
        description="whether answers are generated and graded; passable: only if the gain in loss is above zero, and then grades"
        " are no evidence",
    )
    without_grader: Literal["loss", "margin"] = Field(
        "loss",
        description="what counts where grades do not: loss, of good answers; margin, by how much likelier a group's good"
        " answers are than its bad ones",
    )
    max_new_tokens: int = Field(512, ge=1, description="most tokens of a generated answer; the same room for both sides")
    temperature: float = Field(0.0, ge=0, le=2, description="of sampling answers, by the run's seed; 0: the likeliest token")
    top_p: float = Field(1.0, gt=0, le=1, description="of sampling: the likeliest tokens that have this share together")
    repetition_penalty: float = Field(
        1.0, gt=0, description="above 1: said again is less likely. Nothing is taken from the base's own generation settings"
    )
    batch_rows: int = Field(32, ge=1, description="answers that are generated together, fewer where memory runs out")
    samples_mb: float = Field(
        16.0, ge=0, le=128, description="answers kept of one evaluation, in 10^6 bytes; beyond that figures alone; 0: keep none"
    )
    samples_characters: int = Field(8000, ge=1, description="characters of an answer that are kept")
    samples_days: float = Field(90.0, gt=0, description="days until they are removed from the store, of whatever deployment")


class RequirementPolicy(Policy):
    """A target for a metric of the candidate."""

    name: str = Field(description="what the requirement is called in evaluations")
    metric: str = Field(
        description="loss, perplexity, success, score, margin, ranked or loss_gain; of a suite `NAME.success` and the like"
    )
    target: float = Field(description="the value to reach")
    direction: Literal["at_least", "at_most"] = Field("at_least", description="on which side of the target it is met")
    bucket: str = Field("*", description="glob over the names of buckets that it holds for")

    def check(self, current: float | None) -> Requirement:
        """The requirement with its current value. A metric that was not measured is not satisfied."""
        met = current is not None and (current >= self.target if self.direction == "at_least" else current <= self.target)
        return Requirement(
            name=self.name, metric=self.metric, target=self.target, direction=self.direction, satisfied=met, current=current
        )


class SuitePolicy(Policy):
    """A suite of tasks that versions are asked beside the rows of feedback."""

    file: str = Field(
        min_length=1,
        description="a TOML file (relative to the policy file): its name, its tasks; or the name of one of the package's",
    )
    bucket: str = Field("*", description="glob over the names of buckets that are asked it")


class TrainerPolicy(Policy):
    """Bases, hyperparameters, graders, suites and requirements. Of a bucket hold `defaults`, overridden field by field in
    `buckets`."""

    bases: dict[str, BasePolicy] = Field(default_factory=dict, description="where the weights of each base are, by base")
    defaults: Hyperparameters = Field(Hyperparameters(), description="hyperparameters of every bucket")
    buckets: dict[str, dict[str, Any]] = Field(default_factory=dict, description="hyperparameters that differ, by bucket")
    graders: dict[str, GraderPolicy] = Field(default_factory=dict, description="who grades outputs, by artifact type")
    evaluation: EvaluationPolicy = Field(EvaluationPolicy(), description="how candidate and incumbent are compared")
    suites: tuple[SuitePolicy, ...] = Field((), description="tasks that every evaluation asks")
    requirements: tuple[RequirementPolicy, ...] = Field((), description="targets that a candidate is measured against")
    attempts: int = Field(3, ge=1, description="attempts on a batch before its run counts as failed")
    checkpoint_seconds: float = Field(30.0, ge=0, description="seconds between checkpoints of a run")
    memory_gb: float | None = Field(
        None, gt=0, description="memory that a job may take, in 10^9 bytes; absent: 0.8 of what is free, or 0.9 of a GPU's"
    )
    processes: int = Field(
        1,
        ge=1,
        description="processes that train a run together, each with a GPU (on a CPU they share it) and a share of the weights;"
        " one of them evaluates",
    )
    threads: int | None = Field(
        None, ge=1, description="threads of torch in a job, or in each of its processes; absent: torch decides"
    )
    seed: int = Field(0, description="a run's seed follows from its batch and this")
    retrain_taken_back: bool = Field(
        False,
        description="when `headrace forget` or `retract` takes back what a served release has learnt, its bucket is trained once"
        " more without it",
    )

    @classmethod
    def from_recorded(cls, body: Mapping[str, Any]) -> TrainerPolicy:
        """Out of the body of a `RulesActivated`, also of one from before some hyperparameters were renamed. pydantic's
        ValidationError for what none of our versions wrote."""
        buckets = {bucket: _ours(table) for bucket, table in body.get("buckets", {}).items()}
        defaults = {**_ABSENT, **_ours(body["defaults"])} if "defaults" in body else {}
        return cls.model_validate({**body, "defaults": defaults, "buckets": buckets})

    def hyperparameters(self, bucket: str) -> Hyperparameters:
        """pydantic's ValidationError when an override names no hyperparameter or a wrong value."""
        hyper = Hyperparameters.model_validate({**self.defaults.model_dump(), **self.buckets.get(bucket, {})})
        return hyper.model_copy(update={"dropout": 0.0}) if OBJECTIVES[hyper.objective].compares else hyper

    def requirements_of(self, bucket: str) -> list[RequirementPolicy]:
        return [requirement for requirement in self.requirements if fnmatchcase(bucket, requirement.bucket)]

    def suite_files_of(self, bucket: str) -> list[str]:
        return [suite.file for suite in self.suites if fnmatchcase(bucket, suite.bucket)]


def load(path: Path | None) -> TrainerPolicy:
    """The policy in the `[train]` table of a TOML file; defaults without a file. Relative paths, of weights, suites and for
    graders, are relative to the file. PolicyError names file, field and value."""
    if path is None:
        return TrainerPolicy()
    policy = parse_policy(TrainerPolicy, read_policy_file(path).get("train", {}), f"policy file {path}", "train.")
    for bucket in policy.buckets:
        try:
            hyper = policy.hyperparameters(bucket)
        except ValidationError as error:
            raise PolicyError(f"policy file {path}: train.buckets.{bucket}.{first_fault(error)}") from error
        _check_teacher(policy, hyper, f"policy file {path}: train.buckets.{bucket}")
        _check_method(policy, hyper, bucket.partition("/")[2], f"policy file {path}: train.buckets.{bucket}")
    _check_teacher(policy, policy.defaults, f"policy file {path}: train.defaults")
    teachers = {policy.defaults.teacher, *(table.get("teacher") for table in policy.buckets.values())}
    for mapped in (name for name in policy.bases if name not in teachers):
        _check_method(policy, policy.defaults, mapped, f"policy file {path}: train.defaults")
    bases = {
        name: base.model_copy(update={"weights": _absolute(base.weights, path.parent)}) for name, base in policy.bases.items()
    }
    for name, base in bases.items():
        if base.revision is not None and Path(base.weights).is_dir():
            where = f"policy file {path}: train.bases.{name}.revision = {base.revision!r}"
            raise PolicyError(f"{where}: only a hub name has revisions, and {base.weights} is a folder")
        if base.quantisation is not None and policy.processes > 1:
            where = f"policy file {path}: train.bases.{name}.quantisation = {base.quantisation!r}"
            raise PolicyError(f"{where}: train.processes = {policy.processes}, and a quantised base is trained by one; write 1")
    graders = {
        name: grader.model_copy(update={"folders": tuple(_beside(path.parent, folder) for folder in grader.folders)})
        for name, grader in policy.graders.items()
    }
    suites = tuple(suite.model_copy(update={"file": _suite_file(suite.file, path.parent)}) for suite in policy.suites)
    return policy.model_copy(update={"bases": bases, "graders": graders, "suites": suites})


def _check_teacher(policy: TrainerPolicy, hyper: Hyperparameters, where: str) -> None:
    if OBJECTIVES[hyper.objective].taught and hyper.teacher not in policy.bases:
        known = ", ".join(policy.bases) or "none"
        raise PolicyError(f"{where}.teacher = {hyper.teacher!r}: {hyper.objective} needs a base that teaches; there are {known}")


def _check_method(policy: TrainerPolicy, hyper: Hyperparameters, base: str, where: str) -> None:
    wanted, mapped = METHODS[hyper.method].quantised, policy.bases.get(base)
    if wanted is None or mapped is None or wanted == (mapped.quantisation is not None):
        return
    mend = 'write quantisation = "nf4" under' if wanted else "leave quantisation out of"
    held = "four bits" if mapped.quantisation else "full"
    raise PolicyError(f"{where}.method = {hyper.method!r}: base {base!r} is held in {held}; {mend} train.bases.{base}")


def _absolute(weights: str, folder: Path) -> str:
    """A folder beside the policy wins over a hub name of the same spelling."""
    candidate = _beside(folder, weights)
    return candidate if Path(candidate).is_dir() else weights


def _suite_file(named: str, folder: Path) -> str:
    """A file beside the policy wins over a suite of the package of the same name."""
    beside, ours = _beside(folder, named), SHIPPED_SUITES / f"{named}.toml"
    return str(ours) if not Path(beside).exists() and ours.parent == SHIPPED_SUITES and ours.is_file() else beside


def _beside(folder: Path, path: str) -> str:
    return str((folder / Path(path).expanduser()).resolve())
