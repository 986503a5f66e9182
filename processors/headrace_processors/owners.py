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


def interaction_of_state(stage: str, key: str) -> str | None:
    """The interaction that a state value is of and that its texts decide; None for other values."""
    if stage != "reward":
        return None
    kind, _, rest = key.partition("/")
    if kind in ("interaction", "content"):
        return rest
    return rest.rpartition("/")[0] if kind in ("correction", "over") else None
