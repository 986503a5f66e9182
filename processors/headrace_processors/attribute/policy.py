"""What people may set about attribution: which interactions of a session are credited with what is said of it, and what is
derived from what is seen in it. Knows no fold."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from headrace_processors.attribute.derivation import Derivation, Scalar, derivation_of
from headrace_streams.policy import Policy

MINUTE_NS = 60 * 1_000_000_000
VERSION_1: dict[str, Any] = {"derive": {}}  # what rule version 1 did without this key


class DerivationPolicy(Policy):
    """One derivation: what it sees becomes feedback, whose worth and weight stand in `[reward.derived]`."""

    enabled: bool = Field(True, description="false: nothing is derived, and what stands is taken back as its session goes on")
    rule: str | None = Field(
        None,
        max_length=200,
        description="one of your own: an entry point `headrace.derivations`, or module:attribute; absent: the row's name",
    )
    version: int | None = Field(
        None, ge=1, description="of the derivation; absent: the installed one's, which the log then names"
    )
    within_minutes: Annotated[float, Field(gt=0, le=60 * 24 * 366)] | None = Field(
        None, description="minutes of event time in which the sign must come; absent: rephrased 10, kept and undone 1440"
    )
    similarity: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="least likeness that is a sign, 0 to 1; absent: rephrased 0.6, kept 0.8, undone 0.9"
    )
    options: dict[str, Scalar] = Field(default_factory=dict, description="whatever else a derivation of your own reads")

    @property
    def within_ns(self) -> int:
        return int((self.within_minutes or 0) * MINUTE_NS)

    @property
    def least(self) -> float:
        return 1.0 if self.similarity is None else self.similarity

    def completed(self, name: str) -> DerivationPolicy:
        """With all that it leaves to the installed derivation. ValueError where that is none, or another version."""
        found = derivation_of(self.rule or name)
        if self.version not in (None, found.version):
            raise ValueError(f"{name}.version = {self.version}: installed is {found.version}; set that, or install the other")
        given = {"version": found.version, "within_minutes": found.within_minutes, "similarity": found.similarity}
        absent = {key: value for key, value in given.items() if getattr(self, key) is None}
        return self.model_copy(update=absent)


class AttributePolicy(Policy):
    """How what is said of a session is credited to its interactions."""

    credit: Literal["off", "last", "all", "decay"] = Field(
        "off",
        description="off: none but the one that it names; last: the last interaction before it; all: each the same; decay: the "
        "last one most, each before it less",
    )
    decay: float = Field(
        0.5, gt=0, lt=1, description="under `decay`: how much less an interaction is credited than the one after"
    )
    window: int = Field(16, ge=1, le=64, description="interactions at most that are credited, the last ones")
    derive: dict[Annotated[str, Field(pattern=r"^[a-z_]{1,40}$")], DerivationPolicy] = Field(
        default_factory=dict,
        description="what is derived from sessions, by the kind of feedback that it becomes: rephrased, kept, undone, or one of "
        "your own",
    )
    expire_after_days: float = Field(
        90.0,
        ge=0,
        le=36_500,
        description="days of fold time without a record about it after which a session is given up, with what waits for its "
        "interactions; 0: never",
    )

    @field_validator("derive")
    @classmethod
    def _names_its_derivations(cls, derive: dict[str, DerivationPolicy]) -> dict[str, DerivationPolicy]:
        return {name: row.completed(name) if row.enabled else row for name, row in derive.items()}

    @property
    def derivations(self) -> list[tuple[str, Derivation, DerivationPolicy]]:
        """Those that are enabled, with the kind of feedback that each becomes."""
        rows = sorted(self.derive.items())
        return [(name, derivation_of(row.rule or name), row) for name, row in rows if row.enabled]
