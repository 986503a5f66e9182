"""What people may set about the decisions: one frozen pydantic model per stage. Knows no file, no log and no fold.

A policy's JSON form is what `RulesActivated` carries; its digest names it in batches and releases. Defaults are the published
constants of the formulas they belong to. Shares, bonuses and complexities are merged over the defaults, key by key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from headrace_schemas.ids import digest

Share = Annotated[float, Field(gt=0, le=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Bonus = Annotated[float, Field(ge=-10, le=10)]

BONUS = {
    "success": 0.3,
    "explicit_positive": 0.4,
    "validation_failure": -0.5,
    "explicit_negative": -1.0,
    "rating": 0.0,
    "preference": 0.0,
}
COMPLEXITY = {"code": 0.8, "architecture": 0.7, "workflows": 0.6, "api_docs": 0.5, "erd": 0.3}


class Policy(BaseModel):
    """Base of all policies: immutable; an unknown key is an error, so that a misspelt constant is never silently a default."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def body(self) -> dict[str, Any]:
        """The JSON form: what stands in the log."""
        return self.model_dump(mode="json")

    def digest(self) -> str:
        return digest(self.body())


class IntakePolicy(Policy):
    scrub: tuple[Literal["email", "secret"], ...] = ("email", "secret")  # kinds of private text that become placeholders


class LinkPolicy(Policy):
    waiting: Annotated[int, Field(ge=0, le=10_000)] = 64  # feedback kept per foreign id that nobody has linked yet


class BaseMapping(Policy):
    """One row of the map from who answered to who learns: an absent field matches everything, the first match counts."""

    base: Annotated[str, Field(min_length=1, max_length=100)]
    artifact_type: str | None = None
    model: str | None = None
    role: str | None = None

    def matches(self, artifact_type: str, model: str, role: str | None) -> bool:
        wanted = (self.artifact_type, artifact_type), (self.model, model), (self.role, role)
        return all(mine is None or mine == theirs for mine, theirs in wanted)


class RewardPolicy(Policy):
    """Constants of the reward (reward.py has the formulas)."""

    bonus: dict[str, Bonus] = Field(default_factory=lambda: dict(BONUS), validate_default=True)  # by kind; unknown kinds: 0
    preference: Bonus = 0.4  # for the preferred interaction; its negative for each that it was preferred to
    correction_bonus: Annotated[float, Field(ge=0, le=10)] = 0.5
    correction_full: Annotated[float, Field(gt=0, le=1)] = 0.1  # a correction at least this large earns the whole bonus
    complexity: dict[str, Fraction] = Field(default_factory=lambda: dict(COMPLEXITY))  # by artifact type
    complexity_default: Fraction = 0.5
    difficulty_slope: Annotated[float, Field(ge=0, le=10)] = 1.5
    difficulty_on_negative: Literal["amplify", "ignore"] = "amplify"
    squash: Literal["tanh", "clip"] = "tanh"
    overlap: Literal["chrf", "bleu"] = "chrf"  # the n-gram part of the similarity of two texts
    decay_per_day: Annotated[float, Field(gt=0, le=1)] = 0.95
    share_target: dict[str, Share] = Field(default_factory=dict)  # wanted share by artifact type; the rest share equally
    share_prior: Annotated[float, Field(gt=0)] = 10.0  # examples' worth of belief that what comes is what is wanted
    balance_exponent: Fraction = 0.5
    balance_low: Annotated[float, Field(gt=0, le=1)] = 0.5
    balance_high: Annotated[float, Field(ge=1)] = 1.5
    bases: tuple[BaseMapping, ...] = ()  # without a row that matches, the base is the model itself

    @field_validator("bonus", mode="before")
    @classmethod
    def _bonus_over_defaults(cls, given: Any) -> Any:
        return {**BONUS, **given} if isinstance(given, Mapping) else given

    @field_validator("complexity", mode="before")
    @classmethod
    def _complexity_over_defaults(cls, given: Any) -> Any:
        return {**COMPLEXITY, **given} if isinstance(given, Mapping) else given

    def base_of(self, artifact_type: str, model: str, role: str | None) -> str:
        return next((row.base for row in self.bases if row.matches(artifact_type, model, role)), model)


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


class ReleasePolicy(Policy):
    """When a version may be served. `auto` promotes what the rule lets pass, `manual` leaves that to a person."""

    mode: Literal["auto", "manual"] = "auto"
    rule: Literal["gate"] = "gate"  # loss gain surely above `min_gain`, and more wins than losses where a grader counted them
    min_test_rows: Annotated[int, Field(ge=1)] = 30
    min_gain: Annotated[float, Field(ge=0)] = 0.0  # nats a token; the lower bound of the 95 % interval must be above it
