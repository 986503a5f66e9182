"""What verify can still compare of owners whose texts nobody can open any more. Knows shapes of events and names of state keys.

What was decided by such a text can't be decided again. An output of the owner is compared in all that does not come from its
texts; a state value of the owner is not compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec

from headrace_processors.owners import interaction_owner, ref_owner
from headrace_processors.reward.keys import interaction_of
from headrace_schemas import sealed_fields
from headrace_schemas.events import BatchReady, ExampleRewarded, ExampleSettled, ExampleWithdrawn, PromptDrawn
from headrace_schemas.ids import derive_id
from headrace_schemas.inputs import Ref
from headrace_schemas.topology import StageTopology
from headrace_streams.runtime.provenance import Headers
from headrace_streams.runtime.sealing import owner_of
from headrace_streams.sealing.keyring import Keyring

# What a text decides of an event of its owner: a score, so whether there is another revision, which names it.
_BY_TEXTS = ("revision", "prompt_group", "quality", "reward", "components")
_ALIKE = {"duplicate": "again", "conflict": "again"}  # reasons that a text tells apart
REWARDED, SETTLED, WITHDRAWN, DRAWN, BATCH = (
    str(kind.__struct_config__.tag) for kind in (ExampleRewarded, ExampleSettled, ExampleWithdrawn, PromptDrawn, BatchReady)
)


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
        tree = tree_of(value)
        return tree is not None and self._names(tree)

    def owns_state(self, key: str) -> bool:
        """Whether a state value is."""
        if not self._ring.has_erased:
            return False
        interaction_id = interaction_of(key) if self._stage.name == "reward" else None
        return interaction_id is not None and self._ring.is_erased(interaction_owner(interaction_id))

    def alike(self, expected: bytes, found: bytes | None) -> bool:
        """Whether two events of one owner who was erased are equal in all that comes from no text."""
        one, other = tree_of(sealed_fields.masked(expected)), tree_of(sealed_fields.masked(found or b""))
        if one is None or other is None:
            return False
        if self._stage.name == "reward":
            one, other = _without(one), _without(other)
        return one == other

    def by_texts(self, tree: Mapping[str, Any]) -> bool:
        """Whether texts decide that reward writes such an event at all: another revision when the score moves, that a label is
        final beside it or with it, and whether a prompt is drawn."""
        data, kind = tree["data"], tree.get("type")
        if kind == WITHDRAWN:
            return bool(data.get("example_id") == derive_id("prompt", str(data.get("interaction_id"))))
        return kind in (REWARDED, SETTLED, DRAWN)

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
        return isinstance(ref, dict) and self._ring.is_erased(
            ref_owner(Ref(system=str(ref.get("system")), id=str(ref.get("id"))))
        )


def identity_of(topic: str, key: bytes | None, tree: Mapping[str, Any]) -> tuple[Any, ...]:
    """What an output is about: of the outputs of one record no two have the same."""
    data = tree["data"]
    about = data.get("example_id") or data.get("prompt_id") or data.get("batch_id") or data.get("interaction_id")
    if tree.get("type") == BATCH:
        about = data.get("bucket")
    return topic, key, tree.get("type"), about, data.get("event_id"), data.get("feedback_id")


def tree_of(value: bytes | None) -> dict[str, Any] | None:
    """An event as JSON; None where it is none."""
    tree = tree_or_none(value or b"")
    return tree if tree is not None and isinstance(tree.get("data"), dict) else None


def tree_or_none(value: bytes) -> dict[str, Any] | None:
    """A JSON object."""
    try:
        tree = msgspec.json.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return tree if isinstance(tree, dict) else None


def _without(tree: dict[str, Any]) -> dict[str, Any]:
    data = {name: value for name, value in tree["data"].items() if name not in _BY_TEXTS}
    if (reason := data.get("reason")) in _ALIKE:
        data["reason"] = _ALIKE[reason]
    return {name: value for name, value in tree.items() if name not in ("id", "data")} | {"data": data}
