"""Which interactions an erasure ends, and in which portions: so many a step that no step is long. Knows the state's form only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec

from headrace_processors.reward.keys import INTERACTION

PORTION = 250  # interactions that one step ends

_IDS = msgspec.json.Decoder(list[str])


def matching(state: Mapping[str, Any], subject: str) -> list[str]:
    """Ids of the interactions whose cases may name a subject, by its digest, in an order that no restart changes."""
    needle = subject.encode()
    return sorted(key[len(INTERACTION) :] for key, value in state.items() if key.startswith(INTERACTION) and needle in value)


def portions(ids: Sequence[str], pending: Iterable[bytes]) -> tuple[Sequence[str], list[Sequence[str]]]:
    """(what is ended at once, portions for later) of `ids` without those that wait in `pending` portions already. While any wait
    nothing is ended at once, so that a repeated erasure changes nothing."""
    waiting = {interaction_id for portion in pending for interaction_id in _IDS.decode(portion)}
    left = iter([interaction_id for interaction_id in ids if interaction_id not in waiting])
    first = [] if waiting else list(islice(left, PORTION))
    later: list[Sequence[str]] = []
    while portion := list(islice(left, PORTION)):
        later.append(portion)
    return first, later
