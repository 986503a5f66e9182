"""How much meets what it is about, and how long after the answer it was said. Pure; knows a case and no event.

An interaction is joined once something was said of it, feedback once its interaction is there. What has ended, retracted or
erased, is not counted any more. Counts and a histogram of whole numbers: they do not depend on the order of arrival.
"""

from __future__ import annotations

from headrace_processors.reward.state import InteractionState
from headrace_schemas.delays import delays_of
from headrace_schemas.topology import FEEDBACK, INTERACTIONS


def interaction_joins(before: InteractionState, time_ns: int) -> dict[str, int]:
    """What a new interaction of `time_ns` counts, `before` which feedback may have come."""
    delays = [said.time_ns - time_ns for said in before.feedback if said.received]
    joined = {INTERACTIONS + "joined": 1, FEEDBACK + "joined": len(delays)} if delays else {}
    return {INTERACTIONS + "seen": 1, **joined, **delays_of(delays)}


def feedback_joins(before: InteractionState, delay_ns: int | None) -> dict[str, int]:
    """What new feedback counts, as long after its interaction as it says; None: that is not there yet."""
    counted = {FEEDBACK + "seen": 1}
    if delay_ns is None:
        return counted
    if not any(said.received for said in before.feedback):
        counted[INTERACTIONS + "joined"] = 1
    return {**counted, FEEDBACK + "joined": 1, **delays_of((delay_ns,))}
