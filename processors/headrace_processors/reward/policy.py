"""What people may set about reward: the constants of its formulas. Knows no fold.

Defaults are the published constants. Bonuses and complexities are merged over the defaults, key by key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from headrace_streams.policy import Policy

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
