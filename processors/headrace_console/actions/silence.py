"""Mute: nobody is told of a silence until a time. Knows the events of silences."""

from __future__ import annotations

from headrace_console.action import ActionAnswer, ActionEffect, ActionField, ActionRefused, ActionRequest, ConsoleAction
from headrace_console.page import PageMissing, PageRequest
from headrace_lake.read_models.silence_view import silence_view
from headrace_schemas.errors import DecodeError
from headrace_schemas.times import parse_ns, rfc3339
from headrace_streams.settings import Settings
from headrace_streams.silences import mute

DAY_MS = 24 * 3_600_000


def _effect(asked: PageRequest, subject: str) -> ActionEffect:
    kind, _, name = subject.partition(" ")
    now = asked.now()
    found = silence_view(asked.lake, now)
    each = next((row for row in (*found["open"], *found["muted"]) if (row["kind"], row["subject"]) == (kind, name)), None)
    if each is None:
        raise PageMissing(f"there is no silence {subject!r}, at this cut")
    lines = [
        f"Silent since {each['since']}: expected {each['expected']}; seen: {each['seen']}.",
        "Until the time it is in no count, no alert and no `headrace status`; it stays on this page, and ends by itself.",
    ]
    field = ActionField("until", "Until (RFC 3339; a time that has passed ends a mute)", rfc3339(now + DAY_MS), required=True)
    return ActionEffect(lines=lines, fields=[field])


async def _perform(settings: Settings, request: ActionRequest) -> ActionAnswer:
    kind, _, name = request.subject.partition(" ")
    until = request.fields["until"].strip()
    try:
        parse_ns(until)
        await mute(settings, kind, name, until, request.reason, request.requested_by, request.request_id)  # type: ignore[arg-type]
    except (ValueError, OverflowError, DecodeError) as error:
        raise ActionRefused(f"until {until!r}: no RFC 3339 time with an offset, such as 2026-11-27T08:00:00Z") from error
    return ActionAnswer(well=True, text=f"muted until {until}")


ACTIONS = [ConsoleAction(name="mute", title="Mute", subject="silence", right="operator", effect=_effect, perform=_perform)]
