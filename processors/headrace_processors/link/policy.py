"""What people may set about link. Knows no fold."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from headrace_streams.policy import Policy


class LinkPolicy(Policy):
    """How much waits for a link."""

    waiting: Annotated[int, Field(ge=0, le=10_000)] = Field(
        64, description="feedback kept per foreign id that nobody has linked yet"
    )
