"""What a dead letter's record is published as, once more. Pure; knows what intake will take, no client.

The same bytes go back where they came from, with a mark in the headers that names each place the record had. Where a publisher
gave no time, the event gets the append time that the record had then, or it would count as said today, and pass for newer than an
erasure. What a stage wrote can't be published by anybody else; what was published to make it can.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from headrace_schemas.cloudevents import STRUCTURED, structured
from headrace_schemas.codec import DecodeError, decode, encode_tree
from headrace_schemas.derived import DeadLetter
from headrace_schemas.events import FeedbackRecorded, FeedbackRetracted
from headrace_schemas.json_limits import tree_of
from headrace_schemas.published import decode_published
from headrace_schemas.root_error import USAGE, HeadraceError
from headrace_schemas.times import rfc3339
from headrace_schemas.topics import ANYBODY, BY_NAME, key_of
from headrace_streams.dead_letters.letters import TOPIC, at_of, content, headers_of, is_sealed
from headrace_streams.runtime.provenance import ORIGIN
from headrace_streams.runtime.writers import UNKNOWN_WRITER

REDRIVEN = "headrace-redriven"  # header of a record that was a dead letter: its places before, the newest first
PLACES = 16  # that are named
WHOLE = "record"  # in `edited`
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
_INPUTS = tuple(topic.name for topic in BY_NAME.values() if ANYBODY in topic.writers)
_AGAIN = ("refs", "signals")  # hold what intake passed on: published once more, it comes there again
REPAIRABLE = (*_INPUTS, *(topic.name for topic in BY_NAME.values() if topic.requests and topic.name != TOPIC))  # published to
Headers = list[tuple[str, bytes | None]]
_ELSEWHERE = {
    "examples": "reward wrote it: the next feedback about its interaction makes a new one",
    "batches": "curate wrote it: `headrace batches retry` has a batch trained again",
    "outcomes": "train wrote it: `headrace evaluate` evaluates a version again",
}


class WrongEdit(HeadraceError, ValueError):
    """A change of a record that can't be made. One line that names it."""

    exit_code = USAGE


class Edit(Struct, frozen=True, kw_only=True):
    """What is to be another in the record: fields by dotted path, or the whole value."""

    fields: Mapping[str, Any] = {}
    value: bytes | None = None


class Unfit(Struct, frozen=True, kw_only=True):
    """A letter that is not published once more. `why` is short, to be counted by; `message` is for people."""

    why: str
    message: str


class RepairedRecord(Struct, frozen=True, kw_only=True):
    """A record as it is published. `partition`: where it had been, None for that of its key; `edited` as in the event."""

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes
    headers: Sequence[tuple[str, bytes | None]]
    edited: Sequence[str]


def repaired(letter: DeadLetter, edit: Edit, now_ms: int) -> RepairedRecord | Unfit:
    """The record as it goes back, if by now (ms since the epoch) it would be taken. WrongEdit for an edit that can't be made."""
    if letter.error.code == UNKNOWN_WRITER:
        return Unfit(why=UNKNOWN_WRITER, message=f"nobody of ours wrote it: {letter.error.message}")
    if is_sealed(letter):
        return Unfit(why="sealed", message="its texts are sealed, and their key is erased or may not be read here")
    value, headers = content(letter.value_base64), headers_of(letter)
    if value is None and letter.error.message.endswith("not carried)") and edit.value is None:
        return Unfit(why="not_carried", message=f"the letter does not hold it: {letter.error.message}")
    edited: list[str] = []
    try:
        if edit.value is not None or edit.fields:
            value = _edited(edit, value, headers)
            headers = [STRUCTURED, *((name, text) for name, text in headers if not _says_mode(name))]
            edited = [WHOLE] if edit.value is not None else sorted(edit.fields)
        if value is None:
            return Unfit(why="null_value", message="the record has no value")
        if letter.topic not in (*_INPUTS, *_AGAIN):
            return _asked_again(letter, value, headers, edited)
        value, headers, filled = _timed(value, headers, letter.timestamp)
        event = decode_published(value, headers, append_time_ms=now_ms, sessions=True).event
    except DecodeError as error:
        return Unfit(why=error.code, message=error.message)
    topic = "feedback" if isinstance(event, FeedbackRecorded | FeedbackRetracted) else "interactions"
    if letter.topic in _INPUTS:
        key, kept = content(letter.key_base64), [pair for pair in headers if pair[0] != REDRIVEN]
    else:
        key, kept = key_of(topic, event).encode(), [STRUCTURED]
    return RepairedRecord(
        topic=topic,
        partition=letter.partition if topic == letter.topic else None,
        key=key,
        value=value,
        headers=[*kept, (REDRIVEN, _places(letter, headers))],
        edited=[*edited, *filled],
    )


def _asked_again(letter: DeadLetter, value: bytes, headers: Headers, edited: list[str]) -> RepairedRecord | Unfit:
    """A person's request; it is answered once, by its id, so that to say it again does nothing twice."""
    declared = BY_NAME.get(letter.topic)
    event = decode(value, headers)
    if declared is None or not isinstance(event, declared.requests):
        return Unfit(why="written_by_a_stage", message=_ELSEWHERE.get(letter.topic, "a stage wrote it"))
    mark = (REDRIVEN, _places(letter, headers))
    key = content(letter.key_base64)
    return RepairedRecord(topic=letter.topic, partition=None, key=key, value=value, headers=[STRUCTURED, mark], edited=edited)


def _edited(edit: Edit, value: bytes | None, headers: Headers) -> bytes:
    """The value in structured mode with what is to be another in it."""
    if edit.value is not None:
        return edit.value
    tree = tree_of(structured(value, headers))
    for path, new in edit.fields.items():
        _set(tree, path, new)
    return encode_tree(tree)


def _set(tree: Any, path: str, new: Any) -> None:
    """Puts a value at a dotted path; objects on the way that are not there are made."""
    steps = [int(index) if index else name for name, index in _STEP.findall(path)]
    if not steps or "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".") != path:
        raise WrongEdit(f"{path}: no path of a field, such as data.score or data.prompt[0].role")
    holder = tree
    for step in steps[:-1]:
        if isinstance(holder, dict) and isinstance(step, str) and holder.get(step) is None:
            holder[step] = {}
        holder = _at(holder, step, path)
    last = steps[-1]
    named = isinstance(holder, dict) and isinstance(last, str)
    if named or (isinstance(holder, list) and isinstance(last, int) and last < len(holder)):
        holder[last] = new
    else:
        raise DecodeError("wrong_type", path, f"{path}: there is no such place in the record")


def _at(holder: Any, step: str | int, path: str) -> Any:
    try:
        return holder[step]
    except (LookupError, TypeError):
        raise DecodeError("wrong_type", path, f"{path}: there is no such place in the record") from None


def _timed(value: bytes, headers: Headers, appended_ms: int) -> tuple[bytes, Headers, list[str]]:
    """The record with the time at which it had been appended, where its publisher gave none."""
    tree = tree_of(structured(value, headers))
    if not isinstance(tree, dict) or tree.get("time") is not None:
        return value, headers, []
    time = rfc3339(appended_ms)
    if any(name.startswith("ce_") for name, _ in headers) and STRUCTURED not in headers:
        return value, [*(pair for pair in headers if pair[0] != "ce_time"), ("ce_time", time.encode())], ["time"]
    pieces = msgspec.json.decode(value, type=dict[str, Raw])
    return msgspec.json.encode({**pieces, "time": time}), headers, ["time"]


def _places(letter: DeadLetter, headers: Headers) -> bytes:
    before = next((text for name, text in headers if name == REDRIVEN and text), b"")
    return b" ".join([at_of(letter).encode(), *before.split()][:PLACES])


def _says_mode(name: str) -> bool:
    return name.startswith("ce_") or name.lower() == "content-type" or name == ORIGIN
