"""What people may set about attribution: which interactions of a session are credited with what is said of it. Knows no fold."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from headrace_streams.policy import Policy


class AttributePolicy(Policy):
    """How what is said of a session is credited to its interactions."""

    credit: Literal["off", "last", "all", "decay"] = Field(
        "off",
        description="off: nobody reads sessions; last: the last interaction before it; all: each the same; decay: the last one "
        "most, each before it less",
    )
    decay: float = Field(
        0.5, gt=0, lt=1, description="under `decay`: how much less an interaction is credited than the one after"
    )
    window: int = Field(16, ge=1, le=64, description="interactions at most that are credited, the last ones")
    expire_after_days: float = Field(
        90.0,
        ge=0,
        le=36_500,
        description="days of fold time without a record about it after which a session is given up, with what waits for its "
        "interactions; 0: never",
    )
