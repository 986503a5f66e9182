"""No principal over its share of a batch: which members go into it and which wait for the next. Pure; knows members only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from headrace_processors.curate.state import ExampleRecord

LEAST = 10  # principals that must have been heard: of nine, each has more than a tenth anyway


def within(share: float, members: Mapping[str, ExampleRecord]) -> dict[str, ExampleRecord]:
    """Of `members`, oldest first, as many as can stand together so that no principal was heard on more than `share` of them, the
    longest there first. All of them where fewer than ten principals were heard; who spoke without a name has no share."""
    if len({name for member in members.values() for name in member.principals}) < LEAST:
        return dict(members)
    chosen = dict(members)
    while True:
        most = max(1, int(share * len(chosen)))
        heard: Counter[str] = Counter()
        kept: dict[str, ExampleRecord] = {}
        for example_id, member in chosen.items():
            if all(heard[name] < most for name in member.principals):
                heard.update(member.principals)
                kept[example_id] = member
        if len(kept) == len(chosen):
            return kept
        chosen = kept
