"""What people may set about link. Knows no fold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from headrace_streams.policy import Policy

VERSION_1: Mapping[str, Any] = {"expire_after_days": 0.0}  # what version 1 of the rules did before this was a key


class LinkPolicy(Policy):
    """How feedback waits for a foreign id to be linked."""

    expire_after_days: float = Field(
        90.0,
        ge=0,
        le=36_500,
        description="days of fold time without a record about it after which a foreign id is given up, with its link or what "
        "waits for one; 0: never",
    )
    waiting: int = Field(64, ge=0, le=10_000, description="feedback kept per foreign id that nobody has linked yet")
