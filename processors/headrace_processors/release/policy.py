"""What people may set about release. Knows no fold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from headrace_processors.release.evidence_policy import EvidencePolicy
from headrace_streams.policy import Policy

VERSION_4: Mapping[str, Any] = {"remembered_groups": None}  # what rule versions did before this was a key
VERSIONS_1_TO_3: Mapping[str, Any] = {**VERSION_4, "expire_after_days": 0.0}


class ReleasePolicy(Policy):
    """When a version may be served. `auto` promotes what the rule lets pass, `manual` leaves that to a person."""

    mode: Literal["auto", "manual"] = Field("auto", description="who promotes: the rule alone, or a person")
    rule: Literal["evidence", "gate"] = Field(
        "evidence",
        description="evidence: bets on groups that are counted once; gate, as before: one look at the loss, and more wins than"
        " losses where a grader counted them, which lets what is no better pass in 3 to 45 % of looks",
    )
    evidence: EvidencePolicy = Field(EvidencePolicy(), description="how sure one must be")
    expire_after_days: float = Field(
        90.0,
        ge=0,
        le=36_500,
        description="days of fold time after which an answered request is forgotten: its id then asks anew; 0: never",
    )
    remembered_groups: int | None = Field(
        100_000,
        ge=1,
        description="groups of a bucket of which it is known when they were first seen, up to a tenth more; those looked"
        " at longest ago are forgotten, and are new when they come again; null: none is",
    )
    min_test_rows: int = Field(30, ge=1, description="gate: test rows without which nothing passes")
    min_gain: float = Field(0.0, ge=0, description="gate: nats a token; the lower end of the 95 % interval must be above it")
