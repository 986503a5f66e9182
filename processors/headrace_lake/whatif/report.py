"""What a trial of a policy found: counts, flows, the largest flips. Data that the command prints and the console shows.

Knows no log and no fold. Everything that it keeps of single examples is bounded by `top`.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct, field

NO_EXAMPLE, NO_ANSWER = "no example", "no answer"
WITHDRAWN = "withdrawn"  # the fate of an example that left its bucket
TEXT = 2000  # characters of a text that are kept of a flip


class PolicyDifference(Struct):
    """One key of a policy: its value in a policy that tasks of the stage ran under last, and in the new one."""

    stage: str
    key: str
    before: Any
    after: Any


class ExampleSide(Struct, omit_defaults=True):
    """What one policy made of an example. `fate`: where it went; `rule`: why it was rejected."""

    bucket: str = ""
    reward: float | None = None
    quality: float | None = None
    score: float | None = None
    balance: float | None = None
    components: dict[str, float | None] | None = None
    revision: int = 0
    fate: str | None = None
    rule: str | None = None


class FlipTexts(Struct):
    """Texts of an example, cut at TEXT characters."""

    prompt: str
    output: str
    target: str | None


class ExampleFlip(Struct, omit_defaults=True):
    """An example that two policies treat differently. `size`: by how much, its reward's change or what is at stake; `why`: terms
    and rules that differ; `place`: where its record lies, topic/partition/offset."""

    interaction_id: str
    example_id: str
    size: float
    why: list[str] = []
    before: ExampleSide | None = None
    after: ExampleSide | None = None
    place: str | None = None
    texts: FlipTexts | None = None

    @property
    def bucket(self) -> str:
        side = self.before or self.after
        return "" if side is None else side.bucket


class RewardsTrial(Struct):
    """Of every interaction its newest example. `tried` False: the policy of reward is the one that held. `changed`: of rewards
    that both have; `sign`: of these, how many change sign; `gained` and `lost`: only one has an example."""

    tried: bool = True
    signals: int = 0
    before: int = 0
    after: int = 0
    higher: int = 0
    lower: int = 0
    sign: int = 0
    gained: int = 0
    lost: int = 0
    moved: int = 0
    weights: int = 0
    total_change: float = 0.0
    largest: list[ExampleFlip] = []

    @property
    def flips(self) -> int:
        return self.higher + self.lower + self.gained + self.lost + self.moved + self.weights


class FateFlow(Struct):
    """How many examples went to one place under the recorded policy and to another under the new one."""

    before: str
    after: str
    examples: int


class ExamplesTrial(Struct):
    """Where examples ended: `flows` has those that stay where they were too."""

    examples: int = 0
    flips: int = 0
    flows: list[FateFlow] = []
    largest: list[ExampleFlip] = []


class RejectionsTrial(Struct):
    """Rejections by reason, of signals (by reward) and of examples (by curate), every revision."""

    before: dict[str, int] = {}
    after: dict[str, int] = {}


class BatchCut(Struct):
    """A batch as one policy cut it. `fill_seconds`: of fold time since its bucket opened."""

    at_ms: int
    cause: str
    members: int
    fill_seconds: float | None
    digest: str  # over ids and roles of its members


CUTS = 100  # of a bucket that are listed, the newest


class BucketSide(Struct):
    """A bucket under one policy: what was cut, how long that took, and what is open at the end."""

    batches: int = 0
    learnt: int = 0
    avoided: int = 0
    fills: int = 0
    fill_seconds: float = 0.0
    longest_seconds: float = 0.0
    open: int = 0
    fill: float = 0.0
    target: float = 0.0
    cuts: list[BatchCut] = []

    def take(self, cut: BatchCut, learnt: int) -> None:
        self.batches += 1
        self.learnt += learnt
        self.avoided += cut.members - learnt
        if cut.fill_seconds is not None:
            self.fills += 1
            self.fill_seconds += cut.fill_seconds
            self.longest_seconds = max(self.longest_seconds, cut.fill_seconds)
        self.cuts.append(cut)
        del self.cuts[:-CUTS]

    @property
    def mean_fill_seconds(self) -> float | None:
        return self.fill_seconds / self.fills if self.fills else None


class BucketTrial(Struct):
    """A bucket under both. `same`: batches of the same members and roles."""

    bucket: str
    before: BucketSide
    after: BucketSide
    same: int = 0


class ReleaseFlip(Struct, omit_defaults=True):
    """An evaluation or a request that release answers differently. `unknowable`: since an answer before it differs, the
    evaluation was made against something else than would have been served. `batch_cut`: whether the new policy cuts its batch."""

    bucket: str
    request_id: str
    sequence: int
    version_id: str | None
    before: str
    after: str
    before_reason: str
    after_reason: str
    unknowable: bool = False
    batch_cut: bool | None = None


class ReleasesTrial(Struct):
    """Answers of release to recorded evaluations and requests."""

    tried: bool = True
    answers: int = 0
    flips: int = 0
    unknowable: int = 0
    flows: list[FateFlow] = []
    flipped: list[ReleaseFlip] = []


class WhatIfReport(Struct):
    """What another policy would have made of the recorded log. `before`: what was recorded, or what `against` would have made."""

    policies: list[PolicyDifference]
    since: str | None
    bucket: str | None
    notes: list[str] = []
    rewards: RewardsTrial = field(default_factory=RewardsTrial)
    examples: ExamplesTrial = field(default_factory=ExamplesTrial)
    rejections: RejectionsTrial = field(default_factory=RejectionsTrial)
    batches: list[BucketTrial] = []
    releases: ReleasesTrial = field(default_factory=ReleasesTrial)

    @property
    def flips(self) -> int:
        cut = sum(trial.before.batches + trial.after.batches - 2 * trial.same for trial in self.batches)
        return self.rewards.flips + self.examples.flips + cut + self.releases.flips


class Largest:
    """The `top` largest flips of many; of equal ones the first by id."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._heap: list[tuple[float, tuple[int, ...], int, ExampleFlip]] = []
        self._number = 0

    def offer(self, flip: ExampleFlip) -> None:
        self._number += 1
        entry = flip.size, tuple(-ord(char) for char in flip.example_id), self._number, flip
        if len(self._heap) < self._top:
            heapq.heappush(self._heap, entry)
        elif entry > self._heap[0]:
            heapq.heapreplace(self._heap, entry)

    def takes(self, size: float) -> bool:
        """Whether a flip of that size would be kept."""
        return len(self._heap) < self._top or size >= self._heap[0][0]

    def flips(self) -> list[ExampleFlip]:
        """Largest first."""
        return [flip for *_, flip in sorted(self._heap, reverse=True)]


def flows_of(counts: Counter[tuple[str, str]]) -> list[FateFlow]:
    """Most first, those that stay last."""
    found = [FateFlow(before, after, count) for (before, after), count in counts.items()]
    return sorted(found, key=lambda flow: (flow.before == flow.after, -flow.examples, flow.before, flow.after))


def term_differences(before: ExampleSide, after: ExampleSide) -> list[str]:
    """`feedback 0.3 -> 0.1`: each term of the reward that differs, in the order of the formula."""
    terms = ("score", "quality", "balance")
    found = [(name, (before.components or {}).get(name), (after.components or {}).get(name)) for name in COMPONENTS]
    found += [(name, getattr(before, name), getattr(after, name)) for name in terms]
    if before.bucket != after.bucket:
        found.append(("bucket", before.bucket, after.bucket))  # type: ignore[arg-type]
    different = [f"{name} {_figure(old)} -> {_figure(new)}" for name, old, new in found if old != new]
    if not different and before.reward != after.reward:
        return ["the terms are equal: bonus of the correction, or how they are squashed"]
    return different


COMPONENTS = ("validation", "feedback", "difficulty", "multiplier", "correction")


def _figure(value: object) -> str:
    return "none" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(key, before, after) of what differs between two policy bodies, key by key of nested tables."""
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from changed_keys(before, after, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", before, after
