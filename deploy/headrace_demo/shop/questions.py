"""What can be asked of a shop: every combination of a family with slot values, in every paraphrase. Knows no model, no database.

A *combination* is a family with its slot values, whatever the paraphrase: the unit that is held out. One in four is, by
sha1 of its key, for ever: it is never in the base's corpus nor published for training, and success is shown on these only.
So is one wording of each family, whatever the values: exams ask the same combinations in a wording that others are trained in
and in the new one.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from headrace_demo.shop import words
from headrace_demo.shop.families import FAMILIES, Family

if TYPE_CHECKING:
    from headrace_demo.shop.database import Shop

HELD_OUT_ONE_IN = 4

T = TypeVar("T")


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


MOST_WORDS = {"min": "shortest", "max": "longest", "avg": "average"}


def slot_values(shop: Shop) -> dict[str, tuple[str, ...]]:
    """What each slot may hold in a shop."""
    return {
        "city": shop.cities,
        "person": shop.people,
        "product": shop.products,
        "segment": words.SEGMENTS,
        "category": words.CATEGORIES,
        "status": words.STATUSES,
        "channel": words.CHANNELS,
        "carrier": words.CARRIERS,
        "year": tuple(map(str, words.YEARS)),
        "limit": tuple(str(n) for n in range(10, 95, 5)),
        "top": tuple(str(n) for n in range(2, 11)),
        "days": tuple(str(n) for n in range(2, 14)),
        "most": tuple(MOST_WORDS),
        "count": tuple(str(n) for n in range(10, 45)),
    }


def combinations(values: Mapping[str, Sequence[str]]) -> Iterator[tuple[Family, str, tuple[str, ...]]]:
    """Every (family, combination key, filled slots in the family's order), always in the same order."""
    for family in FAMILIES:
        for filled in itertools.product(*(values[slot] for slot in family.slots)):
            yield family, ":".join((family.name, *filled)), filled


def ask(family: Family, combination: str, filled: Sequence[str], paraphrase: int | None) -> Question:
    """The question of one combination in one of its family's paraphrases; None: in its new wording."""
    slots = dict(zip(family.slots, filled, strict=True))
    if "most" in slots:
        slots["most_word"] = MOST_WORDS[slots["most"]]
    wording = family.new_wording if paraphrase is None else family.paraphrases[paraphrase % len(family.paraphrases)]
    text = wording.format(**slots)
    description = family.paraphrases[0].format(**slots)
    return Question(text, family.sql.format(**slots), family.name, family.level, combination, description)


def training_questions(values: Mapping[str, Sequence[str]], seed: int) -> Iterator[Question]:
    """All questions that may be learnt from, none twice: families in turn, each in a shuffled order, until all are asked."""
    draw = random.Random(f"train:{seed}")
    queues: dict[str, list[Question]] = {}
    for family, key, filled in combinations(values):
        if not is_held_out(key):
            asked = [ask(family, key, filled, number) for number in range(len(family.paraphrases))]
            queues.setdefault(family.name, []).extend(asked)
    return _in_turn(draw, queues)


def exam_questions(values: Mapping[str, Sequence[str]], seed: int, count: int) -> list[tuple[Question, Question]]:
    """`count` held-out combinations, none twice, families in turn: each in one of the paraphrases and in the new wording. A seed
    has always the same ones. ValueError when there are fewer."""
    draw = random.Random(f"held-out:{seed}")
    queues: dict[str, list[tuple[Question, Question]]] = {}
    for family, key, filled in combinations(values):
        if is_held_out(key):
            known = ask(family, key, filled, draw.randrange(len(family.paraphrases)))
            queues.setdefault(family.name, []).append((known, ask(family, key, filled, None)))
    found = list(itertools.islice(_in_turn(draw, queues), count))
    if len(found) < count:
        raise ValueError(f"count: {count} held-out combinations asked for, only {len(found)} exist")
    return found


def _in_turn(draw: random.Random, queues: dict[str, list[T]]) -> Iterator[T]:
    """One of each queue in a shuffled order, round after round, until all are empty."""
    for queue in queues.values():
        draw.shuffle(queue)
    while names := [name for name, queue in queues.items() if queue]:
        draw.shuffle(names)
        for name in names:
            yield queues[name].pop()
