"""What people may set about release. Knows no fold."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from headrace_streams.policy import Policy


class ReleasePolicy(Policy):
    """When a version may be served. `auto` promotes what the rule lets pass, `manual` leaves that to a person."""

    mode: Literal["auto", "manual"] = Field("auto", description="whether the system promotes by itself or a person does")
    rule: Literal["gate"] = Field(
        "gate", description="loss gain surely above min_gain, and more wins than losses where a grader counted them"
    )
    min_test_rows: Annotated[int, Field(ge=1)] = Field(30, description="least rows that an evaluation must have")
    min_gain: Annotated[float, Field(ge=0)] = Field(
        0.0, description="nats a token; the lower bound of the gain's 95 % interval must be above it"
    )
