"""What people may set about curate: what is worth learning, and when a bucket is worth a run. Knows no fold."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from headrace_streams.policy import Policy

Share = Annotated[float, Field(gt=0, le=1)]

GENERIC = (  # openings of answers that teach nothing, whatever was asked; in lower case, apostrophes straight
    "hello! how can i",
    "hi! how can i",
    "how can i assist you",
    "how can i help you",
    "you're welcome",
    "i'm sorry, but i can",
    "i'm sorry, i can",
    "i am sorry, but i can",
    "sorry, i can't",
    "sorry, but i can't",
    "i cannot help with",
    "i can't help with",
    "i'm unable to",
    "as an ai",
    "<nooutput>",
    "<noinput>",
)

Size = Annotated[float, Field(gt=0, le=5000)]  # examples, or examples' worth


class TieredPolicy(Policy):
    """A bucket's target by the number of distinct examples admitted to it before it opened (threshold.py)."""

    steps: tuple[tuple[int, Size], ...] = Field(((50, 20.0), (100, 50.0)), description="(fewer admitted than, target), rising")
    beyond: Size = Field(75.0, description="target above the last step")
    good_reward: float = Field(0.6, ge=-1, le=1, description="mean reward of the last batch from which on `good_factor` counts")
    good_factor: Share = Field(0.7, description="factor of a target after a batch that was good already")
    young_below: int = Field(100, ge=0, description="a bucket that admitted fewer is young")
    young_factor: Share = Field(0.6, description="factor of a young bucket's target")
    low: Size = Field(20.0, description="smallest target")
    high: Size = Field(100.0, description="largest target")


class CuratePolicy(Policy):
    """What is worth learning, and when a bucket is worth a run. Sizes are effective sizes, or counts under `tiered`."""

    threshold: Literal["effective", "tiered"] = Field(
        "effective", description="what a bucket's target is: an effective sample size, or a number of examples in tiers"
    )
    target_effective_size: Size = Field(64.0, description="effective sample size at which a bucket is cut")
    targets: dict[str, Size] = Field(default_factory=dict, description="effective sample size of single buckets, by bucket")
    tiered: TieredPolicy = Field(TieredPolicy(), description="targets under `tiered`, fixed when a bucket opens")
    decay_per_day: Share = Field(0.95, description="what a day takes off the weight of an example: λ")
    age_limit_days: float = Field(7.0, gt=0, le=3650, description="fold time since a bucket opened after which it is aged")
    aged_target: Size = Field(20.0, description="what is enough for an aged bucket")
    good_enough: float = Field(0.95, gt=0, le=1, description="success rate from which on nothing is cut")
    good_enough_evidence: float = Field(64.0, gt=0, description="decayed number of judged answers that such a rate needs")
    train_above: float = Field(70.0, ge=0, le=100, description="score above which an output is learnt from")
    reward_moved: float = Field(0.2, gt=0, le=2, description="after a cut: more than this makes a revision eligible again")
    generic: tuple[str, ...] = Field(GENERIC, description="openings of answers that teach nothing, in lower case")
    generic_chars: int = Field(160, ge=0, description="a longer text with such an opening may still say something")
    min_chars: int = Field(1, ge=0, description="characters of a target, blanks at its ends not counted")
    test_pool: int = Field(200, ge=0, le=5000, description="newest test rows that are kept")
    min_test_pool: int = Field(0, ge=0, le=5000, description="test rows that a cut waits for, until the bucket is aged")
    open_limit: int = Field(1000, ge=1, le=5000, description="open members of a bucket, of each role")

    @model_validator(mode="after")
    def _reachable(self) -> CuratePolicy:
        sizes = (self.tiered.high,) if self.threshold == "tiered" else (self.target_effective_size, *self.targets.values())
        wanted = max(sizes)
        if wanted > self.open_limit:
            raise ValueError(f"open_limit: {self.open_limit} examples can never reach a target of {wanted:g}")
        if self.min_test_pool > self.test_pool:
            raise ValueError(f"min_test_pool: {self.min_test_pool} rows are never in a pool of {self.test_pool}")
        return self

    def effective_target(self, bucket: str) -> float:
        return self.targets.get(bucket, self.target_effective_size)
