"""How much meets what it is about, and how long after the answer it was said. Pure; knows a case and no event.

An interaction is joined once something was said of it, feedback once its interaction is there. What has ended, retracted or
erased, is not counted any more, nor is what was derived from words on a session. Counts and a histogram of whole numbers: they
do not depend on the order of arrival.
"""

from __future__ import annotations

from collections.abc import Mapping

from headrace_processors.reward.feedback import FeedbackRecord
from headrace_processors.reward.state import InteractionState
from headrace_schemas.delays import delay_of, delays_of
from headrace_schemas.topology import FEEDBACK, INTERACTIONS

_SEEN, _JOINED = FEEDBACK + "seen", FEEDBACK + "joined"
_FIRST = {INTERACTIONS + "joined": 1}
_ALONE = {INTERACTIONS + "seen": 1}


def interaction_joins(before: InteractionState, time_ns: int) -> Mapping[str, int]:
    """What a new interaction of `time_ns` counts, `before` which feedback may have come."""
    if not before.feedback:  # as it mostly is
        return _ALONE
    delays = [said.time_ns - time_ns for said in _direct(before)]
    joined = {**_FIRST, _JOINED: len(delays)} if delays else {}
    return {**_ALONE, **joined, **delays_of(delays)}


def feedback_joins(before: InteractionState, delay_ns: int | None) -> Mapping[str, int]:
    """What new feedback counts, as long after its interaction as it says; None: that is not there yet."""
    if delay_ns is None:
        return {_SEEN: 1}
    first = _FIRST if not before.feedback or not _direct(before) else {}
    return {_SEEN: 1, **first, _JOINED: 1, **delay_of(delay_ns)}


def _direct(case: InteractionState) -> list[FeedbackRecord]:
    """What was said of the interaction itself."""
    shares = case.shares
    return [said for said in case.feedback if said.received and said.identity not in shares]
