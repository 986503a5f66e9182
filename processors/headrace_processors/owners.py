"""Who owns texts that are sealed: names of owners, the same in every stage. Knows no key."""

from __future__ import annotations

from headrace_schemas.inputs import Ref
from headrace_schemas.topics import ref_key
from headrace_streams.sealing.keyring import INTERACTION_OWNER


def interaction_owner(interaction_id: str) -> str:
    """Owns its texts and those of feedback on it."""
    return INTERACTION_OWNER + interaction_id


def ref_owner(ref: Ref) -> str:
    """Owns the texts of feedback that names a foreign id, also when it is known whose that is."""
    return f"ref/{ref_key(ref)}"
