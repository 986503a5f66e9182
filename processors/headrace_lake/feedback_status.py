"""How much feedback meets what it is about, how late, and how mature labels are: from a stage's counters. Reads no log."""

from __future__ import annotations

from math import inf

from msgspec import Struct

from headrace_lake.status import StageStatus
from headrace_schemas.delays import DAY, DELAY, HOUR, MINUTE, quantile_of
from headrace_schemas.topology import FEEDBACK, INTERACTIONS, LABELS

SHOWN_APART = (INTERACTIONS, FEEDBACK, DELAY, LABELS)  # counters that begin so
SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
_UNITS = ((DAY, "d"), (HOUR, "h"), (MINUTE, "min"), (1, "s"))


class FeedbackStatus(Struct, frozen=True, kw_only=True):
    """Of one stage, ever. Link: feedback on foreign ids, and which of it found a link; reward: all feedback, and which of it
    found its interaction. `delays`: the bound in s that a share of what was joined does not exceed, by the names of SHARES; None
    beyond the last. Of link that is how long it took until the link was learnt, of reward until something was said of an
    answer."""

    stage: str
    feedback: int
    joined: int
    joined_share: float | None
    delays: dict[str, float | None]
    interactions: int | None = None
    interactions_joined: int | None = None
    interactions_joined_share: float | None = None
    labels: dict[str, int] | None = None

    def __str__(self) -> str:
        name = "feedback on foreign ids found a link" if self.interactions is None else "feedback found its interaction"
        parts = [f"{self.joined} of {self.feedback} {name}{_percent(self.joined_share)}"]
        if self.interactions is not None:
            share = _percent(self.interactions_joined_share)
            parts.append(f"{self.interactions_joined} of {self.interactions} interactions got some{share}")
        if self.joined:
            parts.append("after " + ", ".join(f"{_span(bound)} ({name})" for name, bound in self.delays.items()))
        if self.labels:
            parts.append("labels " + ", ".join(f"{count} {name}" for name, count in self.labels.items()))
        return "; ".join(parts)


def feedback_status(stage: StageStatus) -> FeedbackStatus | None:
    """None for a stage that counts none of it, or has not yet."""
    counters = stage.counters
    seen, joined = counters.get(FEEDBACK + "seen", 0), counters.get(FEEDBACK + "joined", 0)
    interactions = counters.get(INTERACTIONS + "seen")
    if not seen and not interactions:
        return None
    bounds = {name: quantile_of(counters, share) for name, share in SHARES.items()} if joined else {}
    with_feedback = None if interactions is None else counters.get(INTERACTIONS + "joined", 0)
    return FeedbackStatus(
        stage=stage.stage,
        feedback=seen,
        joined=joined,
        joined_share=joined / seen if seen else None,
        delays={name: None if bound == inf else bound for name, bound in bounds.items()},
        interactions=interactions,
        interactions_joined=with_feedback,
        interactions_joined_share=with_feedback / interactions if interactions and with_feedback is not None else None,
        labels={name.removeprefix(LABELS): count for name, count in counters.items() if name.startswith(LABELS) and count}
        or None,
    )


def _percent(share: float | None) -> str:
    return "" if share is None else f" ({share:.1%})"


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "more than 90 d"
    length, unit = next(each for each in _UNITS if seconds >= each[0])
    return f"{seconds / length:g} {unit}"
