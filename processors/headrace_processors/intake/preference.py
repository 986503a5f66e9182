"""A preference speaks of several interactions: each that was not preferred gets a signal of its own. Knows one feedback.

The copies have the source and the feedback id of the original, say `under` instead of `over`, and carry no score and no text:
those are about what was preferred. Feedback of another kind says nothing of others, whatever it names in `over`.
"""

from __future__ import annotations

from msgspec import structs

from headrace_processors.reward.feedback import PREFERENCE
from headrace_schemas.events import FeedbackRecorded
from headrace_schemas.ids import derive_id


def fan_out(event: FeedbackRecorded, *, by_preferred: bool = False) -> list[tuple[str, FeedbackRecorded]]:
    """(interaction id, event) of each interaction that `event`, whose own interaction id is known, prefers something to.

    `by_preferred`: the copies' ids name what was preferred too. Without it (rule versions 1) two copies that reach one
    interaction from two others carry one id."""
    if event.data.kind != PREFERENCE:
        return []
    preferred = event.data.interaction_id
    named = (preferred or "",) if by_preferred else ()
    return [
        (
            other,
            structs.replace(
                event,
                id=derive_id("preference", event.source, event.data.feedback_id or event.id, other, *named),
                data=structs.replace(
                    event.data,
                    feedback_id=event.data.feedback_id or event.id,
                    interaction_id=other,
                    ref=None,
                    over=None,
                    under=preferred,
                    score=None,
                    scale=None,
                    corrected_output=None,
                    comment=None,
                ),
            ),
        )
        for other in dict.fromkeys(event.data.over or ())
        if other != preferred
    ]
