"""What people may set about curate: what is worth learning, and when a bucket is worth a run. Knows no fold."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from headrace_streams.policy import Policy

Share = Annotated[float, Field(gt=0, le=1)]
TargetRule = Literal["echo", "truncated", "generic"]
EXEMPT: dict[str, tuple[TargetRule, ...]] = {"edit": ("echo",), "edits": ("echo",)}

NEWEST = 5  # rule version of curate
VERSION_4: dict[str, Any] = {"implicit": "judge"}  # what rule version 4 did without this key
VERSION_3: dict[str, Any] = VERSION_4 | {"provisional": "take"}  # likewise rule version 3
VERSION_2: dict[str, Any] = VERSION_3 | {  # likewise rule version 2
    "decay_floor": 0.0,
    "one_side_chars": None,
    "longest_chars": None,
}
VERSION_1: dict[str, Any] = VERSION_2 | {  # likewise rule version 1
    "max_buckets": None,
    "bases": [],
    "keep_days": None,
    "near_duplicate": None,
    "echo": None,
    "truncated": [],
    "exempt": {},
    "principal_share": None,
    "contradictions": "keep",
    "settle_after_days": 1.0,
    "fresh_share": 0.0,
    "good_enough_margin": 0.0,
    "rarity": None,
    "drift": None,
}
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
    """A bucket's target by the number of distinct examples admitted to it before it opened (thresholds.py)."""

    steps: tuple[tuple[int, Size], ...] = Field(
        ((50, 20.0), (100, 50.0)), description="(fewer admitted than, target), rising; the first that applies counts"
    )
    beyond: Size = Field(75.0, description="target after the last step")
    good_reward: Annotated[float, Field(ge=-1, le=1)] = Field(
        0.6, description="mean reward of the last batch from which on good_factor counts"
    )
    good_factor: Share = Field(0.7, description="of the target, after a good batch")
    young_below: Annotated[int, Field(ge=0)] = Field(100, description="fewer admitted than this: young_factor counts")
    young_factor: Share = Field(0.6, description="of the target of a young bucket")
    low: Size = Field(20.0, description="least target")
    high: Size = Field(100.0, description="largest target")


class CuratePolicy(Policy):
    """What is worth learning, and when a bucket is worth a run. Sizes are effective sizes, or counts under `tiered`."""

    threshold: Literal["effective", "tiered"] = Field(
        "effective", description="what a target means: an effective sample size under decay, or a number of examples"
    )
    target_effective_size: Size = Field(64.0, description="effective size at which a bucket is cut")
    targets: dict[str, Size] = Field(default_factory=dict, description="effective size of single buckets, by bucket")
    tiered: TieredPolicy = Field(TieredPolicy(), description="targets where threshold is tiered")
    decay_per_day: Share = Field(0.95, description="how much less an example counts a day later, by event time")
    decay_floor: Annotated[float, Field(ge=0, le=1)] = Field(
        0.05, description="what the oldest example is still worth beside one of today"
    )
    age_limit_days: Annotated[float, Field(gt=0, le=3650)] = Field(
        7.0, description="days of fold time since a bucket opened, after which aged_target is enough"
    )
    aged_target: Size = Field(20.0, description="what is enough for a bucket that is older than that")
    good_enough: Share = Field(0.95, description="success rate of what is served, from which on nothing is cut")
    good_enough_evidence: Annotated[float, Field(gt=0)] = Field(
        64.0, description="decayed number of judged answers that such a rate needs"
    )
    train_above: Annotated[float, Field(ge=0, le=100)] = Field(
        70.0, description="score that an example which nobody corrected must exceed to be learnt"
    )
    reward_moved: Annotated[float, Field(gt=0, le=2)] = Field(
        0.2, description="after a cut: a revision whose reward moved by more than this is eligible again"
    )
    generic: tuple[str, ...] = Field(
        GENERIC, description="openings of answers that teach nothing; lower case, straight apostrophes"
    )
    generic_chars: Annotated[int, Field(ge=0)] = Field(
        160, description="characters up to which such an opening rejects; a longer text may still say something"
    )
    min_chars: Annotated[int, Field(ge=0)] = Field(1, description="least characters of a target, blanks at its ends not counted")
    longest_chars: Annotated[int, Field(ge=1)] | None = Field(
        32_768,
        description="characters of a question, and of half an answer, beyond which no run would take the row (2048 tokens of 16 "
        "characters); null: all are taken",
    )
    test_pool: Annotated[int, Field(ge=0, le=5000)] = Field(200, description="test rows kept of a bucket, the newest")
    validation_pool: Annotated[int, Field(ge=0, le=5000)] = Field(
        200, description="validation rows kept of a bucket, the newest: what early stopping looks at"
    )
    one_side_chars: Annotated[int, Field(ge=0)] | None = Field(
        24,
        description="characters from which on a target that is learnt from is no test and no validation row, whatever was asked; "
        "what is shorter is said in many tasks; null: any may be",
    )
    graded: tuple[str, ...] | None = Field(
        None,
        description="artifact types of which prompts without a reference are kept for graders; absent: those of which "
        "`[train.graders]` of the same file has a grader that needs no reference",
    )
    prompt_pool: Annotated[int, Field(ge=0, le=5000)] = Field(
        128,
        description="prompts that were drawn, and as many whose answer was wrong, kept of such a bucket, the newest",
    )
    min_test_pool: Annotated[int, Field(ge=0, le=5000)] = Field(
        0, description="test rows that a cut waits for, until the bucket is aged"
    )
    open_limit: Annotated[int, Field(ge=1, le=5000)] = Field(
        1000,
        description="open members of a bucket, of each role; up to a tenth more are there before the least worth are dropped",
    )
    max_buckets: Annotated[int, Field(ge=1)] | None = Field(
        10_000, description="buckets of a partition; an example of one more is rejected; null: no limit"
    )
    bases: tuple[str, ...] = Field(
        (),
        description="bases that somebody trains; of others examples are kept but not cut, until a release names them. Empty: all",
    )
    keep_days: Annotated[float, Field(gt=0, le=36500)] | None = Field(
        365.0,
        description="days of fold time since the last record about it, after which an example is forgotten, unless it is open",
    )
    near_duplicate: Share | None = Field(
        0.85, description="similarity from which two open examples of one role and outcome are near-duplicates; null: none are"
    )
    echo: Share | None = Field(0.9, description="similarity to the prompt from which a target is an echo of it; null: none is")
    truncated: tuple[str, ...] = Field(
        ("length",), description="finish reasons of an output that is not whole: it is not learnt, unless it was corrected"
    )
    exempt: dict[str, tuple[TargetRule, ...]] = Field(
        default_factory=lambda: dict(EXEMPT), description="rules about targets that do not hold for an artifact type"
    )
    principal_share: Share | None = Field(
        None,
        description="largest share of a batch on which one person or agent was heard, where ten or more were; null: no limit",
    )
    contradictions: Literal["keep", "wait", "drop"] = Field(
        "keep", description="examples with voices of opposite sign: keep, wait for a third voice or settle_after_days, or drop"
    )
    settle_after_days: Annotated[float, Field(gt=0, le=3650)] = Field(
        1.0, description="days of fold time since the last record about it, after which a contradicted example waits no more"
    )
    implicit: Literal["learn", "judge"] = Field(
        "learn",
        description="what an example may do of which nobody said anything, and derived feedback alone speaks: learn: be learnt "
        "from; judge: be a test or validation row and count in the success rate, too",
    )
    provisional: Literal["take", "wait"] = Field(
        "take",
        description="examples of which more is expected to be said ([reward] settle_after_days): take them, or wait until they "
        "are final",
    )
    fresh_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="of the target: how much of a further batch must be examples that were in no batch yet"
    )
    good_enough_margin: Annotated[float, Field(ge=0, le=1)] = Field(
        0.02, description="how far below good_enough the rate of what was good enough must fall before it is cut again"
    )
    rarity: Share | None = Field(
        0.6,
        description="of its target: where a bucket is cut that got less than a tenth of the median one's in 30 days; null: never",
    )
    drift: Share | None = Field(
        0.05, description="fall of the success rate after which a bucket is cut at aged_target; null: never"
    )

    @model_validator(mode="after")
    def _reachable(self) -> CuratePolicy:
        sizes = (self.tiered.high,) if self.threshold == "tiered" else (self.target_effective_size, *self.targets.values())
        wanted = max(sizes)
        if wanted > self.open_limit:
            raise ValueError(f"open_limit: {self.open_limit} examples can never reach a target of {wanted:g}")
        if self.min_test_pool > self.test_pool:
            raise ValueError(f"min_test_pool: {self.min_test_pool} rows are never in a pool of {self.test_pool}")
        return self

    def keeps_prompts(self, artifact_type: str) -> bool:
        """Whether answers of this type are graded without a reference."""
        return artifact_type in (self.graded or ())

    def names(self, base: str, bucket: str) -> bool:
        """Whether it says that somebody trains the base."""
        return not self.bases or base in self.bases or bucket in self.targets

    def effective_target(self, bucket: str) -> float:
        return self.targets.get(bucket, self.target_effective_size)
