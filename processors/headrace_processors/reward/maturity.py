"""When a label is final. Pure; knows a case, the time of the fold and the times of policy, no event.

Feedback is expected to be followed by more for as long as policy says of its kind (`settle_after_days`), from the record on by
which it and its interaction are both there, or by which it is taken back. Until the last of these times is over the example is
provisional, then final. What is final stays final, whatever is said then: that is late. A withdrawal ends both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import structs

from headrace_processors.reward.feedback import FeedbackRecord
from headrace_processors.reward.state import InteractionState
from headrace_schemas.topology import LABELS

SettleTimes = Mapping[str, int]  # by kind of feedback, in ms; of kinds that are not there it is 0
_NOTHING: Mapping[str, int] = {}
PROVISIONAL, FINAL, LATE = LABELS + "provisional", LABELS + "final", LABELS + "late"


def is_due(case: InteractionState, now_ms: int) -> bool:
    """Whether its time is over, and nothing has said so yet."""
    return 0 < case.settles <= now_ms


def settled(case: InteractionState) -> InteractionState:
    """A case whose time is over."""
    return structs.replace(case, settles=0, final=True)


def matured(
    times: SettleTimes, before: InteractionState, after: InteractionState, changed: FeedbackRecord | None, now_ms: int
) -> InteractionState:
    """A case that has an example now, `after` some record: what was said then, or taken back, is `changed`. `before`: what it
    was, with an example or without."""
    if is_due(after, now_ms):
        return settled(after)
    if after.final or not times:
        return after
    if before.outcome is None:
        said = [record.kind for record in after.feedback if record.counts]
    else:
        said = [] if changed is None or not changed.received else [changed.kind]
    if not said:
        return after
    settles = max(after.settles, *(now_ms + times.get(kind, 0) for kind in said))
    return structs.replace(after, settles=settles) if settles > now_ms else settled(after)


def maturity_of(case: InteractionState) -> Literal["provisional", "final"] | None:
    """What an example of it says."""
    return "final" if case.final else "provisional" if case.settles else None


def labels_of(before: InteractionState, after: InteractionState, now_ms: int) -> Mapping[str, int]:
    """What a record counts among the labels: `provisional` are those that are now, `final` those that ever were, `late` revisions
    and withdrawals of what was final."""
    if not (before.settles or before.final or after.settles or after.final):
        return _NOTHING
    due = is_due(before, now_ms)
    counted = {
        PROVISIONAL: (after.settles > 0) - (before.settles > 0),
        FINAL: int(due or (after.final and not before.final)),
        LATE: int((due or before.final) and after.revision > before.revision),
    }
    return {name: count for name, count in counted.items() if count}
