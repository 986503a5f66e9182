"""What Headrace says: the `data` of every derived event, as frozen msgspec Structs. Knows no envelope, no Kafka.

Times are RFC 3339 strings, scores 0-100, rewards and qualities in [-1, 1], digests `sha256:` and 64 hex digits.
"""

from __future__ import annotations

from typing import Any, Literal

from headrace_schemas.inputs import Agent, Context, Digest, Key, Output, Text, Tool, Value


class Locator(Value, frozen=True, kw_only=True):
    topic: str
    partition: int
    offset: int


class Content(Value, frozen=True, kw_only=True):
    """All texts of an example sit here and nowhere else, so that they can be sealed or erased together."""

    prompt: Text
    output: Output
    target: Output
    context: Context = None
    tools: list[Tool] | None = None


class Components(Value, frozen=True, kw_only=True):
    """Raw terms of the reward, before squashing; `correction` is absent without a corrected output."""

    validation: float
    feedback: float
    difficulty: float
    multiplier: float
    correction: float | None = None


class Weights(Value, frozen=True, kw_only=True):
    balance: float


class Example(Value, frozen=True, kw_only=True):
    """`data` of `headrace.example.rewarded.v1`: one interaction and what it is worth, revision n."""

    example_id: str
    revision: int
    interaction_id: str
    bucket: str
    artifact_type: str
    model: str
    agent: Agent
    prompt_group: str
    content: Content
    quality: float
    reward: float
    components: Components
    weights: Weights
    contradicted: bool
    voices: int
    event_time: str
    train: bool
    score: float | None = None  # mean score of the voices, 0-100; absent when nobody gave one
    adapter: str | None = None
    data_subject: str | None = None


class Withdrawal(Value, frozen=True, kw_only=True):
    example_id: str
    revision: int
    interaction_id: str
    bucket: str
    reason: Literal["retracted", "erased", "feedback_retracted"]


class Tick(Value, frozen=True, kw_only=True):
    bucket: str
    time: str


class ExampleRejection(Value, frozen=True, kw_only=True):
    example_id: str
    revision: int
    interaction_id: str
    bucket: str
    reason: str
    rule: str


class SignalRejection(Value, frozen=True, kw_only=True):
    interaction_id: str
    event_id: str
    reason: str  # duplicate, conflict, erased, voice_limit …
    rule: str


class Supersession(Value, frozen=True, kw_only=True):
    example_id: str
    revision: int
    interaction_id: str
    bucket: str
    batch_id: str


class Member(Value, frozen=True, kw_only=True):
    """One row that a batch names. `sha256` is of the example record's value; the locator only helps to find it."""

    example_id: str
    revision: int
    sha256: str
    role: Literal["train", "negative"]
    weight: float
    difficulty: float
    split: Literal["train", "validation", "test"]
    locator: Locator


class BatchStatistics(Value, frozen=True, kw_only=True):
    examples: int
    negatives: int
    effective_size: float
    mean_reward: float
    success_rate: float | None = None


class Batch(Value, frozen=True, kw_only=True):
    """`data` of `headrace.batch.ready.v1`: the manifest of a cut bucket. `batch_id` covers the members, not their locators."""

    batch_id: str
    bucket: str
    artifact_type: str
    base: str
    cause: Literal["target", "age", "drift"]
    target: float
    members: list[Member]
    test_pool: list[Member]
    statistics: BatchStatistics
    policy_digests: dict[str, str]


class TrainingStart(Value, frozen=True, kw_only=True):
    """Pins of a run: everything that decides the bytes of the adapter. The first one of a batch wins; retries reuse it."""

    run_id: str
    batch_id: str
    bucket: str
    base: str
    seed: int
    method: str
    hyperparameters: dict[str, Any]
    rehearsal: list[Member]
    policy_digests: dict[str, str]
    parent_adapter: str | None = None
    parent_release_id: str | None = None
    withdrawn: list[str] | None = None  # examples of the batch that were withdrawn before the run began: none is used


class TrainingProgress(Value, frozen=True, kw_only=True):
    run_id: str
    bucket: str
    step: int
    steps: int
    loss: float
    attempt: int
    phase: Literal["training", "validation", "evaluation"] = "training"
    tokens_per_second: float | None = None


class TrainingCompletion(Value, frozen=True, kw_only=True):
    run_id: str
    batch_id: str
    bucket: str
    version_id: str
    evaluation_id: str
    seconds: float


class TrainingFailure(Value, frozen=True, kw_only=True):
    run_id: str
    batch_id: str
    bucket: str
    attempts: int
    error: str


class AdapterFile(Value, frozen=True, kw_only=True):
    path: str
    size_bytes: int
    sha256: str


class Adapter(Value, frozen=True, kw_only=True):
    digest: str
    uri: str
    format: str
    size_bytes: int
    files: list[AdapterFile]


class ModelVersion(Value, frozen=True, kw_only=True):
    version_id: str
    bucket: str
    artifact_type: str
    base: str
    adapter: Adapter
    batch_id: str
    run_id: str
    method: str
    hyperparameters: dict[str, Any]
    rows: int
    tokens: int
    seconds: float
    parent_adapter: str | None = None


class Measure(Value, frozen=True, kw_only=True):
    """A metric with its 95 % interval over `n` rows."""

    value: float
    low: float
    high: float
    n: int


class Gain(Value, frozen=True, kw_only=True):
    value: float
    low: float
    high: float


class Comparison(Value, frozen=True, kw_only=True):
    """Candidate against incumbent on the same rows: `loss_gain` > 0 means the candidate loses less; wins by a grader."""

    loss_gain: Gain
    n: int
    wins: int | None = None
    losses: int | None = None
    ties: int | None = None
    p_value: float | None = None


class Requirement(Value, frozen=True, kw_only=True):
    name: str
    metric: str
    target: float
    direction: Literal["at_least", "at_most"]
    satisfied: bool
    current: float | None = None


class Evaluation(Value, frozen=True, kw_only=True):
    evaluation_id: str
    version_id: str
    bucket: str
    artifact_type: str
    base: str
    batch_id: str
    run_id: str
    adapter: Adapter
    candidate: dict[str, Measure]
    incumbent: dict[str, Measure]
    comparison: Comparison
    requirements: list[Requirement]
    policy_digests: dict[str, str]
    parent_adapter: str | None = None
    parent_release_id: str | None = None


class PromoteRequest(Value, frozen=True, kw_only=True):
    bucket: Key
    version_id: Key
    reason: str | None = None
    requested_by: str | None = None


class RollbackRequest(Value, frozen=True, kw_only=True):
    bucket: Key
    release_id: Key | None = None  # absent: the release before; "base": back to the base
    reason: str | None = None
    requested_by: str | None = None


class RevokeRequest(Value, frozen=True, kw_only=True):
    bucket: Key
    adapter: Digest
    reason: str | None = None
    requested_by: str | None = None


class SwitchRequest(Value, frozen=True, kw_only=True):
    bucket: Key
    reason: str | None = None
    requested_by: str | None = None


class Release(Value, frozen=True, kw_only=True):
    """An answer of the release stage. On `releases`: what to serve now; `adapter` null means the base."""

    release_id: str
    sequence: int
    bucket: str
    artifact_type: str
    base: str
    batch_ids: list[str]
    reason: str
    policy_digests: dict[str, str]
    request_id: str  # the evaluation's or the command's event id that this answers
    adapter: Adapter | None = None
    version_id: str | None = None
    parent_release_id: str | None = None
    evaluation_id: str | None = None
    requested_by: str | None = None


class Tracking(Value, frozen=True, kw_only=True):
    """Which requirements the served release of a bucket meets; curate cuts no more while all are satisfied."""

    bucket: str
    release_id: str
    satisfied: bool
    requirements: list[Requirement]


class Rules(Value, frozen=True, kw_only=True):
    stage: str
    topic: str
    partition: int
    from_offset: int
    version: int
    digest: str
    body: Any


class RecordError(Value, frozen=True, kw_only=True):
    code: str
    message: str
    field: str | None = None


class Rejection(Value, frozen=True, kw_only=True):
    """`data` of `headrace.record.rejected.v1`: a record that could not be processed, whole, and why."""

    topic: str
    partition: int
    offset: int
    timestamp: int  # ms since the epoch, the record's append time
    headers: list[tuple[str, str | None]]  # values in base64
    error: RecordError
    key_base64: str | None = None
    value_base64: str | None = None
