"""Rules that no single field can hold: which fields need each other, and which times are plausible.

Knows the events; no bytes, no Kafka, no clock (the append time is given).
"""

from __future__ import annotations

import msgspec

from headrace_schemas.errors import DecodeError, clipped
from headrace_schemas.events import Event, FeedbackRecorded, InteractionRecorded
from headrace_schemas.inputs import Feedback, Interaction, Message, Output
from headrace_schemas.times import NANOS, parse_ns

EARLIEST_NS = 946_684_800 * NANOS  # 2000-01-01T00:00:00Z
AHEAD_MS = 10 * 60 * 1000  # how far a publisher's clock may be ahead of the broker's
SCALE = (0.0, 100.0)
SCALE_BOUND = 1e9  # of both ends of a scale that is published: sums and squares of what is within are far from any overflow
_NS_PER_MS = NANOS // 1000


def check_event(event: Event, append_time_ms: int | None = None) -> None:
    """DecodeError when an event breaks a rule between fields. `append_time_ms` bounds its time from above."""
    if event.time is not None:
        check_time(event.time, append_time_ms)
    if isinstance(event, InteractionRecorded):
        check_interaction(event.data)
    elif isinstance(event, FeedbackRecorded):
        check_feedback(event.data)


def check_time(time: str, append_time_ms: int | None) -> None:
    """RFC 3339 with an offset, from 2000-01-01 to ten minutes after the append time."""
    try:
        moment = parse_ns(time)
    except (ValueError, OverflowError):
        raise DecodeError("bad_time", "time", f"time: no RFC 3339 time with an offset: {clipped(time)}") from None
    if moment < EARLIEST_NS:
        raise DecodeError("out_of_range", "time", f"time: {clipped(time)} is before the year 2000")
    if append_time_ms is not None and moment > (append_time_ms + AHEAD_MS) * _NS_PER_MS:
        raise DecodeError("future_time", "time", f"time: {clipped(time)} is more than 10 minutes ahead of the append time")


def due(value: bytes, broker_ms: int) -> bool:
    """Whether an event may be appended when the broker's clock shows that: its time is no further ahead than anybody takes."""
    try:
        check_time(msgspec.json.decode(value)["time"], broker_ms)
    except DecodeError as error:
        return error.code != "future_time"
    except (LookupError, TypeError, ValueError, msgspec.MsgspecError):  # no event of ours, or it has no time
        return True
    return True


def check_interaction(data: Interaction) -> None:
    """A prompt with something in it, and an output by the assistant."""
    prompt = data.prompt
    if isinstance(prompt, str) or not prompt:
        empty = not prompt
    else:
        empty = not any(message.content or message.tool_calls for message in prompt)
    if empty:
        raise DecodeError("missing", "data.prompt", "data.prompt: must not be empty")
    _check_assistant(data.output, "data.output")


def check_feedback(data: Feedback) -> None:
    """Exactly one thing that it is about, a score inside its scale, and what its kind cannot do without."""
    if data.interaction_id is None and data.ref is None:
        raise DecodeError("missing", "data.interaction_id", "data.interaction_id: needed, or else data.ref")
    if data.interaction_id is not None and data.ref is not None:
        name = clipped(data.interaction_id)
        raise DecodeError("bad_value", "data.ref", f"data.ref: given beside data.interaction_id {name}; exactly one is allowed")
    if data.score is not None or data.scale is not None:
        low, high = data.scale or SCALE
        if not low < high:
            raise DecodeError("bad_value", "data.scale", f"data.scale: {clipped([low, high])} does not rise")
        if data.score is not None and not low <= data.score <= high:
            message = f"data.score: {clipped(data.score)} is outside its scale {clipped([low, high])}"
            raise DecodeError("out_of_range", "data.score", message)
    if data.corrected_output is not None:
        _check_assistant(data.corrected_output, "data.corrected_output")
    elif data.kind == "user_correction":
        raise DecodeError("missing", "data.corrected_output", "data.corrected_output: required for kind user_correction")
    if data.kind == "preference" and not data.over and data.under is None:
        raise DecodeError("missing", "data.over", "data.over: required for kind preference")


def check_scale(data: Feedback) -> None:
    """The scale of what is published lies within +-1e9. Not part of `check_event`: older records on the log may have others."""
    if data.scale is not None and not -SCALE_BOUND <= data.scale[0] < data.scale[1] <= SCALE_BOUND:
        message = f"data.scale: {clipped(list(data.scale))} is not within -1e9 and 1e9; publish the score on a smaller scale"
        raise DecodeError("out_of_range", "data.scale", message)


def _check_assistant(output: Output, field: str) -> None:
    if isinstance(output, Message) and output.role != "assistant":
        raise DecodeError("bad_value", f"{field}.role", f'{field}.role: must be "assistant", it is {clipped(output.role)}')
