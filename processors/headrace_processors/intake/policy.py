"""What people may set about intake. Knows no fold."""

from __future__ import annotations

from typing import Literal

from headrace_streams.policy import Policy


class IntakePolicy(Policy):
    scrub: tuple[Literal["email", "secret"], ...] = ("email", "secret")  # kinds of private text that become placeholders
