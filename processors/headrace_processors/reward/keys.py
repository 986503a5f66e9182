"""State keys of the reward stage, as they stand on the log. Knows no value."""

from __future__ import annotations

from headrace_schemas.ids import derive_id

INTERACTION = "interaction/"
CONTENT = "content/"
CORRECTION = "correction/"
OVER = "over/"
SUBJECT = "subject/"
ERASING = "erasing/"
TYPE_COUNTS = "shares"


def correction_key(interaction_id: str, digest: str) -> str:
    return f"{CORRECTION}{interaction_id}/{digest}"


def over_key(interaction_id: str, digest: str) -> str:
    return f"{OVER}{interaction_id}/{digest}"


def portion_key(subject: str, number: int) -> str:
    return f"{ERASING}{subject}/{number}"


def subject_digest(subject: str) -> str:
    return derive_id("subject", subject)
