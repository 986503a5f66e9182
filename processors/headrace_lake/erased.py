"""What verify can still compare of owners whose texts nobody can open any more. Knows shapes of events and names of state keys.

What was decided by such a text can't be decided again. An output of the owner is compared in all that does not come from its
texts; a state value of the owner is not compared; where decisions on one owner's texts show in those on others
(`Fold.texts_meet`), what follows is equal, or counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec

from headrace_processors.owners import interaction_owner
from headrace_processors.reward.keys import interaction_of
from headrace_schemas import sealed_fields
from headrace_schemas.topology import StageTopology
from headrace_streams.runtime.provenance import Headers
from headrace_streams.runtime.sealing import owner_of
from headrace_streams.sealing.keyring import Keyring

# What a text decides of an event of its owner: a score, so whether there is another revision, which names it.
_BY_TEXTS = ("revision", "prompt_group", "quality", "reward", "components")


class ErasedOwners:
    """Of a stage, by the keyring."""

    def __init__(self, stage: StageTopology, ring: Keyring) -> None:
        self._stage, self._ring = stage, ring

    def __bool__(self) -> bool:
        return self._ring.has_erased

    def owns(self, topic: str, value: bytes | None, headers: Headers) -> bool:
        """Whether an event is about an owner who was erased."""
        if not self._ring.has_erased:
            return False
        owner = owner_of(topic, headers)
        if owner is not None:
            return self._ring.is_erased(owner)
        tree = _tree(value)
        return tree is not None and self._names(tree)

    def owns_state(self, key: str) -> bool:
        """Whether a state value is."""
        if not self._ring.has_erased:
            return False
        interaction_id = interaction_of(key) if self._stage.name == "reward" else None
        return interaction_id is not None and self._ring.is_erased(interaction_owner(interaction_id))

    def alike(self, expected: bytes, found: bytes | None) -> bool:
        """Whether two events of owners who were erased are equal in all that comes from no text. Two of different owners who were
        erased are: of a step that ends several, some may have had an output more."""
        one, other = _tree(sealed_fields.masked(expected)), _tree(sealed_fields.masked(found or b""))
        if one is None or other is None:
            return False
        if (one.get("type"), one["data"].get("interaction_id")) != (other.get("type"), other["data"].get("interaction_id")):
            return self._stage.name == "reward"
        if self._stage.name == "reward":
            one, other = _without(one), _without(other)
        return one == other

    def comparable(self, counters: Mapping[str, int]) -> dict[str, int]:
        """Counters as far as no text decides them: the same identity again is a duplicate or a conflict by its texts, and tallies
        are of what stands in them."""
        counts: Counter[str] = Counter()
        for name, count in counters.items():
            if not self._stage.is_tally(name):
                counts["duplicate or conflict" if name in ("duplicate", "conflict") else name] += count
        return {name: count for name, count in sorted(counts.items()) if count}

    def _names(self, tree: Mapping[str, Any]) -> bool:
        data = tree["data"]
        interaction_id, ref = data.get("interaction_id"), data.get("ref")
        if isinstance(interaction_id, str):
            return self._ring.is_erased(interaction_owner(interaction_id))
        return isinstance(ref, dict) and self._ring.is_erased(f"ref/{ref.get('system')}:{ref.get('id')}")


def _tree(value: bytes | None) -> dict[str, Any] | None:
    try:
        tree = msgspec.json.decode(value or b"")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return tree if isinstance(tree, dict) and isinstance(tree.get("data"), dict) else None


def _without(tree: dict[str, Any]) -> dict[str, Any]:
    data = {name: value for name, value in tree["data"].items() if name not in _BY_TEXTS}
    return {name: value for name, value in tree.items() if name not in ("id", "data")} | {"data": data}
