"""What people may set about reward: the constants and weights of its formulas. Knows no fold.

Defaults are the published constants (`docs/algorithms.md`). Bonuses and complexities are merged over the defaults, key by key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from headrace_streams.policy import Policy

Share = Annotated[float, Field(gt=0, le=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Bonus = Annotated[float, Field(ge=-10, le=10)]
Days = Annotated[float, Field(ge=0, le=36_500)]
Characters = Annotated[int, Field(ge=1, le=10_000_000)]

BONUS = {
    "success": 0.3,
    "explicit_positive": 0.4,
    "validation_failure": -0.5,
    "explicit_negative": -1.0,
    "rating": 0.0,
    "preference": 0.0,
}
COMPLEXITY = {"code": 0.8, "architecture": 0.7, "workflows": 0.6, "api_docs": 0.5, "erd": 0.3}

VERSION_4: Mapping[str, Any] = {"derived_in_quality": True, "sessions": False}  # what rule version 4 did without these keys
VERSION_3: Mapping[str, Any] = {  # likewise rule versions 2 and 3
    **VERSION_4,
    "settle_after_days": {},
    "forget_prompts_after_days": 0.0,
}

# What version 1 of the rules had in its formulas before these were keys: what a recorded body without them means, whatever the
# defaults are by now.
VERSION_1: Mapping[str, Any] = {
    **VERSION_3,
    "difficulty_weights": {"complexity": 0.5, "prompt": 0.3, "context": 0.2},
    "prompt_full_chars": 5_000,
    "context_full_chars": 10_000,
    "similarity_weights": {"edit": 0.4, "overlap": 0.3},
    "expire_after_days": 0.0,
    "forget_after_days": 0.0,
}


class BaseMapping(Policy):
    """One row of the map from who answered to who learns: an absent field matches everything, the first match counts."""

    base: Annotated[str, Field(min_length=1, max_length=100)] = Field(description="the model that learns")
    artifact_type: str | None = Field(None, description="of the interaction")
    model: str | None = Field(None, description="that answered")
    role: str | None = Field(None, description="of the agent")

    def matches(self, artifact_type: str, model: str, role: str | None) -> bool:
        wanted = (self.artifact_type, artifact_type), (self.model, model), (self.role, role)
        return all(mine is None or mine == theirs for mine, theirs in wanted)


class DifficultyWeights(Policy):
    """Of the parts of the difficulty; they add up to 1."""

    complexity: Fraction = Field(0.5, description="of the artifact type's complexity")
    prompt: Fraction = Field(0.3, description="of the prompt's length")
    context: Fraction = Field(0.2, validate_default=True, description="of the context's length")

    @field_validator("context")
    @classmethod
    def _sum_is_one(cls, context: float, info: ValidationInfo) -> float:
        if {"complexity", "prompt"} <= info.data.keys():  # else they are wrong themselves
            complexity, prompt = info.data["complexity"], info.data["prompt"]
            if not math.isclose(complexity + prompt + context, 1, abs_tol=1e-9):
                raise ValueError(f"complexity {complexity:g} + prompt {prompt:g} + context {context:g} must be 1")
        return context


class SimilarityWeights(Policy):
    """Of the parts of the similarity of two texts; only their ratio counts."""

    edit: Fraction = Field(0.4, description="of the edit similarity")
    overlap: Fraction = Field(0.3, validate_default=True, description="of the n-gram overlap; 0 leaves it out")

    @field_validator("overlap")
    @classmethod
    def _one_is_above_zero(cls, overlap: float, info: ValidationInfo) -> float:
        if not overlap and not info.data.get("edit", 1):
            raise ValueError("edit is 0 too, and one of them must be above 0")
        return overlap


class DrawPolicy(Policy):
    """Which prompts are drawn from interactions of the test side, for graders to judge versions by."""

    artifact_types: tuple[str, ...] | None = Field(
        None,
        description="artifact types of which prompts are drawn; absent: those of which `[train.graders]` of the same file has a "
        "grader that needs no reference",
    )
    share: Share = Field(1.0, description="share of the groups of the test side, by their hash")
    max_bytes: int = Field(
        65_536, ge=1, description="bytes of a prompt with its context and tools, as JSON, beyond which it is not drawn"
    )


class DerivedWorth(Policy):
    """What feedback that a derivation made is worth."""

    bonus: Bonus = Field(0.0, description="as of a kind of feedback")
    weight: Fraction = Field(0.25, description="of a whole voice; 0: it is not heard")


DERIVED = {"rephrased": DerivedWorth(bonus=-0.4), "kept": DerivedWorth(bonus=0.3), "undone": DerivedWorth(bonus=-0.6)}


class RewardPolicy(Policy):
    """Constants and weights of the reward (formula.py has the formulas)."""

    bonus: dict[str, Bonus] = Field(
        default_factory=lambda: dict(BONUS),
        validate_default=True,
        description="what a kind of feedback is worth, by kind; other kinds: 0",
    )
    preference: Bonus = Field(0.4, description="for the preferred interaction; its negative for each that it was preferred to")
    correction_bonus: Annotated[float, Field(ge=0, le=10)] = Field(0.5, description="what a whole correction earns")
    correction_full: Share = Field(
        0.1, description="a correction (1 - similarity) at least this large earns the whole bonus, a smaller one its part"
    )
    complexity: dict[str, Fraction] = Field(
        default_factory=lambda: dict(COMPLEXITY), description="how hard an artifact type is, by artifact type"
    )
    complexity_default: Fraction = Field(0.5, description="complexity of the other artifact types")
    difficulty_weights: DifficultyWeights = Field(DifficultyWeights(), description="weights of the parts of the difficulty")
    prompt_full_chars: Characters = Field(
        5_000, description="characters of the rendered prompt from which on its length counts whole"
    )
    context_full_chars: Characters = Field(
        10_000, description="characters of the rendered context from which on its length counts whole"
    )
    difficulty_slope: Annotated[float, Field(ge=0, le=10)] = Field(
        1.5, description="a reward is multiplied by 1 + slope x difficulty"
    )
    difficulty_on_negative: Literal["amplify", "ignore"] = Field(
        "amplify", description="whether a negative reward is multiplied too"
    )
    squash: Literal["tanh", "clip"] = Field("tanh", description="how a reward gets into [-1, 1]")
    overlap: Literal["chrf", "bleu"] = Field("chrf", description="the n-gram part of the similarity of two texts")
    similarity_weights: SimilarityWeights = Field(SimilarityWeights(), description="weights of the parts of the similarity")
    decay_per_day: Share = Field(0.95, description="how much less an interaction counts among those of its type a day later")
    share_target: dict[str, Share] = Field(
        default_factory=dict, description="wanted share by artifact type; the others divide the rest equally"
    )
    share_prior: Annotated[float, Field(gt=0)] = Field(
        10.0, description="examples' worth of belief that what comes is what is wanted"
    )
    balance_exponent: Fraction = Field(0.5, description="of wanted share / seen share, which is an example's balance")
    balance_low: Share = Field(0.5, description="least balance")
    balance_high: Annotated[float, Field(ge=1)] = Field(1.5, description="largest balance")
    bases: tuple[BaseMapping, ...] = Field(
        (), description="which base learns from whom; without a row that matches, it is the model that answered"
    )

    derived: dict[str, DerivedWorth] = Field(
        default_factory=lambda: dict(DERIVED),
        description="worth and weight of what `[attribute.derive]` derives, by its kind; of others: bonus 0, weight 0.25",
    )
    derived_in_quality: bool = Field(
        False, description="whether quality and scores hear what was derived; else only what somebody said"
    )
    sessions: bool | None = Field(
        None,
        description="whether the stage attribute hears of interactions that were retracted or erased; absent: where "
        "`[attribute.derive]` of the same file derives",
    )
    draw: DrawPolicy = Field(DrawPolicy(), description="which prompts are drawn from interactions")

    expire_after_days: Days = Field(
        90.0,
        description="days of fold time without a record about it after which an interaction, and feedback that waits for one, is "
        "given up; 0: never",
    )
    forget_after_days: Days = Field(
        0.0,
        description="days after that in which an example can still be withdrawn, by its retraction or its subject's erasure; 0: "
        "for ever",
    )
    forget_prompts_after_days: Days = Field(
        365.0,
        description="the same where there is a prompt that was drawn, and no example: no shorter than curate's keep_days, after "
        "which it is asked no more; 0: as forget_after_days",
    )

    settle_after_days: dict[str, Days] = Field(
        default_factory=dict,
        validate_default=True,
        description="days of fold time after feedback, by its kind, in which more is expected to be said: until then the example "
        "is provisional, then final; other kinds: 0. Empty: examples do not say how mature they are",
    )

    @field_validator("settle_after_days")
    @classmethod
    def _kept_until_then(cls, settle: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        expiry = info.data.get("expire_after_days", 0.0)
        for kind, days in settle.items():
            if expiry and days > expiry:
                raise ValueError(f"{kind} = {days:g} days, and expire_after_days forgets after {expiry:g}: it must not be longer")
        return settle

    @field_validator("bonus", mode="before")
    @classmethod
    def _bonus_over_defaults(cls, given: Any) -> Any:
        return {**BONUS, **given} if isinstance(given, Mapping) else given

    @field_validator("derived", mode="before")
    @classmethod
    def _derived_over_defaults(cls, given: Any) -> Any:
        return {**DERIVED, **given} if isinstance(given, Mapping) else given

    @field_validator("complexity", mode="before")
    @classmethod
    def _complexity_over_defaults(cls, given: Any) -> Any:
        return {**COMPLEXITY, **given} if isinstance(given, Mapping) else given

    def base_of(self, artifact_type: str, model: str, role: str | None) -> str:
        return next((row.base for row in self.bases if row.matches(artifact_type, model, role)), model)
