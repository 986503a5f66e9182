"""What people may set about intake. Knows no fold."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from headrace_streams.policy import Policy


class IntakePolicy(Policy):
    """What is scrubbed before anything is kept."""

    scrub: tuple[Literal["email", "secret"], ...] = Field(
        ("email", "secret"), description="kinds of private text that become placeholders"
    )
