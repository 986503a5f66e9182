"""What people may set about release. Knows no fold."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from headrace_streams.policy import Policy


class ReleasePolicy(Policy):
    """When a version may be served. `auto` promotes what the rule lets pass, `manual` leaves that to a person."""

    mode: Literal["auto", "manual"] = Field("auto", description="who promotes: the rule alone, or a person")
    rule: Literal["gate"] = Field(
        "gate", description="gate: loss gain surely above `min_gain`, and more wins than losses where a grader counted them"
    )
    min_test_rows: int = Field(30, ge=1, description="test rows without which nothing passes")
    min_gain: float = Field(0.0, ge=0, description="nats a token; the lower end of the 95 % interval must be above it")
