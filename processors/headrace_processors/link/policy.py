"""What people may set about link. Knows no fold."""

from __future__ import annotations

from pydantic import Field

from headrace_streams.policy import Policy


class LinkPolicy(Policy):
    """How feedback waits for a foreign id to be linked."""

    waiting: int = Field(64, ge=0, le=10_000, description="feedback kept per foreign id that nobody has linked yet")
