"""What people want the data of a batch to be: kinds of tasks, and targets. No stage decides by it. Knows no event."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, field_validator

from headrace_streams.policy import Policy

Share = Annotated[float, Field(ge=0, le=1)]


class QualityPolicy(Policy):
    """`[quality]`: what `headrace quality` measures a batch against. It stands in no `rules`: nothing is decided by it."""

    task_types: dict[str, str] = Field(
        default_factory=dict,
        description="kinds of tasks: name = regular expression over what was asked; a row is of the first that is found in it",
    )
    roles: tuple[str, ...] = Field((), description="roles of agents that should be there; empty: those that the bucket ever had")
    coverage: Share = Field(0.8, description="target: share of kinds of tasks, and of roles, with a row")
    entropy: Share = Field(0.7, description="target: evenness of kinds of tasks and of prompt groups; 1: all are as frequent")
    verified: Share = Field(0.95, description="target: share of rows that were corrected or scored at `verified_score` or more")
    verified_score: float = Field(70.0, ge=0, le=100, description="a score from here on says that a row is right")
    agreement: Share = Field(0.8, description="target: share of rows with several voices in which they do not contradict")
    style: Share = Field(0.9, description="target: share of answers in the most frequent style")
    looked_at: Share = Field(0.1, description="target: share of rows that a person has judged; also the share of a sample")

    @field_validator("task_types")
    @classmethod
    def _patterns(cls, task_types: dict[str, str]) -> dict[str, str]:
        for name, pattern in task_types.items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{name} = {pattern!r} is no regular expression: {error}") from error
        return task_types
