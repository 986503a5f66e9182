"""State keys of the reward stage, as they stand on the log. Knows no value."""

from __future__ import annotations

import re

from headrace_streams.runtime.sealing import ERASED_SUBJECT
from headrace_streams.sealing import keyring

INTERACTION = "interaction/"
CONTENT = "content/"
CORRECTION = "correction/"
OVER = "over/"
SUBJECT = "subject/"
ERASING = "erasing/"
TYPE_COUNTS = "shares"

_ERASED = re.compile(re.escape(ERASED_SUBJECT) + "([0-9a-f]{32})")


def correction_key(interaction_id: str, digest: str) -> str:
    return f"{CORRECTION}{interaction_id}/{digest}"


def over_key(interaction_id: str, digest: str) -> str:
    return f"{OVER}{interaction_id}/{digest}"


def portion_key(subject: str, number: int) -> str:
    return f"{ERASING}{subject}/{number}"


def interaction_of(key: str) -> str | None:
    """The interaction that a state value is of and that its texts decide; None for other values."""
    rest = key.partition("/")[2]
    if key.startswith((INTERACTION, CONTENT)):
        return rest
    return rest.rpartition("/")[0] if key.startswith((CORRECTION, OVER)) else None


def subject_digest(subject: str) -> str:
    """Of a data subject's handle; of what stands for the handle of one who was erased, the one that it names. Anybody may call a
    subject so: it is a digest, or the handle is one like any other."""
    erased = _ERASED.fullmatch(subject)
    return keyring.subject_digest(subject) if erased is None else erased[1]
