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

    steps: tuple[tuple[int, Size], ...] = ((50, 20.0), (100, 50.0))  # (fewer admitted than, target), rising
    beyond: Size = 75.0
    good_reward: Annotated[float, Field(ge=-1, le=1)] = 0.6  # mean reward of the last batch from which on `good_factor` counts
    good_factor: Share = 0.7
    young_below: Annotated[int, Field(ge=0)] = 100
    young_factor: Share = 0.6
    low: Size = 20.0
    high: Size = 100.0


class CuratePolicy(Policy):
    """What is worth learning, and when a bucket is worth a run. Sizes are effective sizes, or counts under `tiered`."""

    threshold: Literal["effective", "tiered"] = "effective"
    target_effective_size: Size = 64.0
    targets: dict[str, Size] = Field(default_factory=dict)  # effective size of single buckets
    tiered: TieredPolicy = TieredPolicy()
    decay_per_day: Share = 0.95
    age_limit_days: Annotated[float, Field(gt=0, le=3650)] = 7.0  # of fold time since a bucket opened
    aged_target: Size = 20.0  # what is enough for a bucket that is older than that
    good_enough: Annotated[float, Field(gt=0, le=1)] = 0.95  # success rate from which on nothing is cut
    good_enough_evidence: Annotated[float, Field(gt=0)] = 64.0  # decayed number of judged answers that such a rate needs
    train_above: Annotated[float, Field(ge=0, le=100)] = 70.0  # score
    reward_moved: Annotated[float, Field(gt=0, le=2)] = 0.2  # after a cut: more than this makes a revision eligible again
    generic: tuple[str, ...] = GENERIC
    generic_chars: Annotated[int, Field(ge=0)] = 160  # a longer text with such an opening may still say something
    min_chars: Annotated[int, Field(ge=0)] = 1  # of a target, blanks at its ends not counted
    test_pool: Annotated[int, Field(ge=0, le=5000)] = 200
    min_test_pool: Annotated[int, Field(ge=0, le=5000)] = 0  # test rows that a cut waits for, until the bucket is aged
    open_limit: Annotated[int, Field(ge=1, le=5000)] = 1000  # open members of a bucket, of each role

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
