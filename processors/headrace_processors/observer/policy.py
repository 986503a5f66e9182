"""What people may set about silence: from when on somebody who should speak is missed. No stage decides by it. Knows no event."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from headrace_streams.policy import Policy

Hours = Annotated[float, Field(gt=0, le=24 * 365)]


class SilencePolicy(Policy):
    """`[silence]`: who is missed after how long, by append times. It stands in no `rules`: nothing is decided by it."""

    observe: bool = Field(True, description="whether a worker looks at all, once a minute")

    adapter_unseen_hours: Hours = Field(1.0, description="a released adapter that no answer names for so long is missed")
    swap_minutes: Annotated[float, Field(ge=0, le=24 * 60)] = Field(
        10.0, description="after a release an answer may still name what was served before for so long"
    )
    served_other_answers: Annotated[int, Field(ge=1)] = Field(
        3, description="answers of the last hour that name an adapter which was not served then, from which on it is said"
    )
    feedback_hours: Hours = Field(24.0, description="a bucket whose answers nobody speaks of for so long is missed")
    feedback_answers: Annotated[int, Field(ge=1)] = Field(20, description="and that gave so many answers meanwhile")
    unjoined_hours: Hours = Field(24.0, description="feedback that waits for its interaction or its link for so long is missed")
    unjoined_records: Annotated[int, Field(ge=1)] = Field(10, description="where so many of a task wait")
    stopped_hours: Hours = Field(24.0, description="an agent or a rater is missed after so long at the least")
    stopped_factor: Annotated[float, Field(ge=1, le=100)] = Field(
        1.5, description="and after so many times the longest pause that it ever made"
    )
    stopped_after: Annotated[int, Field(ge=2)] = Field(20, description="of those that spoke so often before")
    forget_days: Annotated[float, Field(gt=0, le=3650)] = Field(
        30.0, description="whoever is silent for so long is not missed any more"
    )
    lag_records: Annotated[int, Field(ge=1)] = Field(
        1000, description="a task with so many records to come, and more than ten minutes before, falls behind"
    )
