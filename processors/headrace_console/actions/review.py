"""Rate: a review of an answer, published as feedback like anybody's, and nothing else. Knows the event."""

from __future__ import annotations

import time

from headrace_console.action import ActionAnswer, ActionEffect, ActionField, ActionRefused, ActionRequest, ConsoleAction
from headrace_console.page import PageMissing, PageRequest
from headrace_lake.read_models.review_view import REVIEW
from headrace_schemas.codec import encode
from headrace_schemas.errors import DecodeError
from headrace_schemas.events import FeedbackRecorded
from headrace_schemas.inputs import Feedback, Principal
from headrace_schemas.published import check_published
from headrace_schemas.times import rfc3339
from headrace_streams.kafka.publisher import publish
from headrace_streams.settings import Settings

SCALE = (1.0, 5.0)
SCORES = ("1", "2", "3", "4", "5")


def _effect(asked: PageRequest, subject: str) -> ActionEffect:
    found = asked.lake.run(
        "SELECT agent, artifact_type, model FROM interactions WHERE interaction_id = $id LIMIT 1", {"id": subject}
    ).dicts()
    if not found:
        raise PageMissing(f"there is no interaction {subject!r}, at this cut")
    said = asked.lake.run("SELECT count(*) FROM feedback WHERE interaction_id = $id", {"id": subject}).rows[0][0]
    lines = [
        f"An answer of {found[0]['agent']} ({found[0]['artifact_type']}, {found[0]['model']}), of which {said} words are said.",
        "Feedback is published in your name, as a voice beside the others; your later word replaces it.",
    ]
    fields = [
        ActionField("score", "Score", "3", choices=SCORES),
        ActionField("corrected", "What the answer should have been (empty: no correction)", long=True),
    ]
    return ActionEffect(lines=lines, fields=fields)


async def _perform(settings: Settings, request: ActionRequest) -> ActionAnswer:
    corrected = request.fields.get("corrected", "").replace("\r\n", "\n").strip("\n")
    now_ms = time.time_ns() // 1_000_000
    event = FeedbackRecorded(
        specversion="1.0",
        id=request.request_id,
        source="console:review",
        time=rfc3339(now_ms),
        data=Feedback(
            feedback_id=request.request_id,
            interaction_id=request.subject,
            kind="user_correction" if corrected else "rating",
            score=float(request.fields["score"]),
            scale=SCALE,
            name=REVIEW,
            corrected_output=corrected or None,
            comment=request.reason,
            principal=Principal(id=request.requested_by, kind="human"),
        ),
    )
    try:
        check_published(encode(event), now_ms)
    except DecodeError as error:
        raise ActionRefused(error.message) from error
    await publish(settings, event)
    query = "?sample=1" if request.fields.get("sample") == "1" else ""
    return ActionAnswer(well=True, text="published; it counts when the stages have seen it", next=f"/review{query}")


ACTIONS = [ConsoleAction(name="rate", title="Rate", subject="interaction", right="operator", effect=_effect, perform=_perform)]
