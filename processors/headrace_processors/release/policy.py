"""What people may set about release. Knows no fold."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from headrace_streams.policy import Policy


class ReleasePolicy(Policy):
    """When a version may be served. `auto` promotes what the rule lets pass, `manual` leaves that to a person."""

    mode: Literal["auto", "manual"] = "auto"
    rule: Literal["gate"] = "gate"  # loss gain surely above `min_gain`, and more wins than losses where a grader counted them
    min_test_rows: Annotated[int, Field(ge=1)] = 30
    min_gain: Annotated[float, Field(ge=0)] = 0.0  # nats a token; the lower bound of the 95 % interval must be above it
