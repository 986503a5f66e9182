"""What can be asked of a shop: every combination of a family with slot values, in every paraphrase. Knows no model, no database.

A *combination* is a family with its slot values, whatever the paraphrase: the unit that is held out. One in four is, by
sha1 of its key, for ever: it is never in the base's corpus nor published for training, and success is shown on these only.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from headrace_demo.shop import words
from headrace_demo.shop.families import FAMILIES, Family

HELD_OUT_ONE_IN = 4


@dataclass(frozen=True, slots=True)
class Question:
    """One question as asked, with the reference that answers it."""

    text: str
    sql: str
    family: str
    level: int
    combination: str  # family and slot values; the interaction's prompt group
    description: str  # what the SQL finds out, in the family's own words

    @property
    def held_out(self) -> bool:
        """True when its combination is never trained on."""
        return is_held_out(self.combination)


def is_held_out(combination: str) -> bool:
    """sha1(family + slot values) mod 4 == 0."""
    return int(hashlib.sha1(combination.encode()).hexdigest(), 16) % HELD_OUT_ONE_IN == 0


_MOST_WORDS = {"min": "shortest", "max": "longest", "avg": "average"}


def slot_values(cities: Sequence[str], people: Sequence[str], products: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """What each slot may hold in a shop with these cities, people and products."""
    return {
        "city": tuple(cities),
        "person": tuple(people),
        "product": tuple(products),
        "segment": words.SEGMENTS,
        "category": words.CATEGORIES,
        "status": words.STATUSES,
        "channel": words.CHANNELS,
        "carrier": words.CARRIERS,
        "year": tuple(map(str, words.YEARS)),
        "limit": tuple(str(n) for n in range(10, 95, 5)),
        "top": tuple(str(n) for n in range(2, 11)),
        "days": tuple(str(n) for n in range(2, 14)),
        "most": tuple(_MOST_WORDS),
        "count": tuple(str(n) for n in range(10, 45)),
    }


def combinations(values: Mapping[str, Sequence[str]]) -> Iterator[tuple[Family, str, tuple[str, ...]]]:
    """Every (family, combination key, filled slots in the family's order), always in the same order."""
    for family in FAMILIES:
        for filled in itertools.product(*(values[slot] for slot in family.slots)):
            yield family, ":".join((family.name, *filled)), filled


def ask(family: Family, combination: str, filled: Sequence[str], paraphrase: int) -> Question:
    """The question of one combination in one of its family's paraphrases."""
    slots = dict(zip(family.slots, filled, strict=True))
    if "most" in slots:
        slots["most_word"] = _MOST_WORDS[slots["most"]]
    text = family.paraphrases[paraphrase % len(family.paraphrases)].format(**slots)
    description = family.paraphrases[0].format(**slots)
    return Question(text, family.sql.format(**slots), family.name, family.level, combination, description)


def training_questions(values: Mapping[str, Sequence[str]], seed: int) -> Iterator[Question]:
    """All questions that may be learnt from, none twice: families in turn, each in a shuffled order, until all are asked."""
    yield from _in_turn(values, f"train:{seed}", held_out=False)


def held_out_questions(values: Mapping[str, Sequence[str]], seed: int, count: int) -> list[Question]:
    """`count` questions of held-out combinations, families in turn: the same ones for a seed. ValueError when there are fewer."""
    found = list(itertools.islice(_in_turn(values, f"held-out:{seed}", held_out=True), count))
    if len(found) < count:
        raise ValueError(f"count: {count} held-out questions asked for, only {len(found)} exist")
    return found


def _in_turn(values: Mapping[str, Sequence[str]], seed: str, *, held_out: bool) -> Iterator[Question]:
    draw = random.Random(seed)
    queues: dict[str, list[Question]] = {family.name: [] for family in FAMILIES}
    for family, key, filled in combinations(values):
        if is_held_out(key) is held_out:
            queues[family.name].extend(ask(family, key, filled, number) for number in range(len(family.paraphrases)))
    for queue in queues.values():
        draw.shuffle(queue)
    while any(queues.values()):
        names = [name for name, queue in queues.items() if queue]
        draw.shuffle(names)
        for name in names:
            yield queues[name].pop()
