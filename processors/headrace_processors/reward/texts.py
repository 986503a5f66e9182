"""The texts of one interaction beside its case: read when a revision needs them, written once, gone when nothing names them.

Changes a step's changes; knows no event and decides nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Raw, structs

from headrace_processors.reward import keys
from headrace_processors.reward.feedback import FeedbackRecord
from headrace_processors.reward.state import NOTHING, InteractionContent
from headrace_schemas.sealed_fields import SEALED

_ENCODER = msgspec.json.Encoder()
_CONTENT = msgspec.json.Decoder(InteractionContent)
_IDS = msgspec.json.Decoder(list[str])
SEALED_TEXT = _ENCODER.encode(SEALED)


class InteractionTexts:
    """`state` and `changes` are those of the step at hand."""

    __slots__ = ("_changes", "_contents", "_state")

    def __init__(self, state: Mapping[str, Any], changes: dict[str, Any]) -> None:
        self._state, self._changes = state, changes
        self._contents: dict[str, InteractionContent] = {}  # those that were read or written in this step

    def add_content(self, interaction_id: str, content: InteractionContent) -> None:
        """Texts of `content` may be what they were decoded to: they are written as examples repeat them."""
        self._changes[keys.CONTENT + interaction_id] = _ENCODER.encode(content)

    def content(self, interaction_id: str) -> InteractionContent | None:
        content = self._contents.get(interaction_id)
        if content is None:
            key = keys.CONTENT + interaction_id
            value = self._changes.get(key) or self._state.get(key)
            if value is None:
                return None
            content = self._contents[interaction_id] = _CONTENT.decode(value)
        return content

    def drop_content(self, interaction_id: str) -> None:
        if keys.CONTENT + interaction_id in self._state:
            self._changes[keys.CONTENT + interaction_id] = None

    def add(self, interaction_id: str, feedback: FeedbackRecord, corrected: bytes, over: bytes) -> None:
        """What a feedback names: its corrected output, the ids that it preferred something to."""
        if feedback.corrected is not None:
            self._changes[keys.correction_key(interaction_id, feedback.corrected)] = corrected
        if feedback.over is not None:
            self._changes[keys.over_key(interaction_id, feedback.over)] = over

    def corrected(self, interaction_id: str, digest: str) -> Raw:
        key = keys.correction_key(interaction_id, digest)
        return Raw(self._changes.get(key) or self._state[key])

    def over(self, interaction_id: str, digest: str) -> list[str]:
        return _IDS.decode(self._state[keys.over_key(interaction_id, digest)])

    def keep(self, interaction_id: str, before: Iterable[FeedbackRecord], left: Iterable[FeedbackRecord]) -> None:
        """What only `before`, which includes a feedback that was just added, names goes; what fell out as it came, or is there
        already, is not written."""
        named = [key for feedback in before if has_texts(feedback) for key in _keys(interaction_id, feedback)]
        if not named:
            return
        kept = {key for feedback in left for key in _keys(interaction_id, feedback)}
        for key in named:
            if key in self._state:
                self._changes.pop(key, None)
                if key not in kept:
                    self._changes[key] = None
            elif key not in kept:
                self._changes.pop(key, None)


def content_stand_in(value: bytes) -> bytes:
    """A content without its texts and without whose they were."""
    sealed = Raw(SEALED_TEXT)
    content = structs.replace(
        _CONTENT.decode(value), prompt=sealed, output=sealed, context=NOTHING, tools=NOTHING, data_subject=None
    )
    return _ENCODER.encode(content)


def digest_of(data: bytes) -> str:
    """32 hex digits: tells a duplicate from a conflict, and names a text."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def has_texts(feedback: FeedbackRecord) -> bool:
    """Whether it has texts of its own; most have none."""
    return feedback.corrected is not None or feedback.over is not None


def _keys(interaction_id: str, feedback: FeedbackRecord) -> Iterable[str]:
    if feedback.corrected is not None:
        yield keys.correction_key(interaction_id, feedback.corrected)
    if feedback.over is not None:
        yield keys.over_key(interaction_id, feedback.over)
