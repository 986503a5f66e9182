"""What people may set about release. Knows no fold."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from headrace_streams.policy import Policy


class ReleasePolicy(Policy):
    """When a version may be served. `auto` promotes what the rule lets pass, `manual` leaves that to a person."""

    mode: Literal["auto", "manual"] = Field("auto", description="`manual` waits for `headrace promote`.")
    rule: Literal["gate"] = Field(
        "gate", description="Loss gain surely above `min_gain`, and more wins than losses where a grader counted them."
    )
    min_test_rows: int = Field(30, ge=1, description="With fewer rows in the test nothing is promoted by itself.")
    min_gain: float = Field(
        0.0, ge=0, description="In nats a token: the lower bound of the gain's 95 % interval must be above it."
    )
