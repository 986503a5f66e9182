"""Who owns texts that are sealed: names of owners, the same in every stage. Knows no key."""

from __future__ import annotations

from headrace_schemas.ids import derive_id
from headrace_schemas.inputs import Ref
from headrace_schemas.topics import ref_key
from headrace_streams.sealing.keyring import FOREIGN_OWNER, INTERACTION_OWNER


def interaction_owner(interaction_id: str) -> str:
    """Owns its texts and those of feedback on it."""
    return INTERACTION_OWNER + interaction_id


def feedback_owner(ref: Ref, source: str, feedback_id: str) -> str:
    """Owns the texts of one feedback that names a foreign id, also when it is known whose that is. Each has a key of its own: of
    two interactions that a foreign id came to mean, one may be forgotten and the other not."""
    return f"feedback/{derive_id('feedback.owner', ref.system, ref.id, source, feedback_id)}"


def foreign_owner(ref: Ref) -> str:
    """Stands for a foreign id where it is said whose it is; it owns nothing."""
    return FOREIGN_OWNER + ref_key(ref)


def ref_owner(ref: Ref) -> str:
    """Owned the texts of all feedback that names a foreign id, until rule version 4 of intake."""
    return f"ref/{ref_key(ref)}"
