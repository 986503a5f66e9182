"""Reads a question, or its SQL, back into family and slots: so an answer can be judged by what was asked alone, without anybody's
reference. Knows the families, no database and no model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from headrace_demo.shop import questions, words
from headrace_demo.shop.families import FAMILIES, Family
from headrace_demo.shop.questions import Question

_SLOT = re.compile(r"{(\w+)}")
_NUMBER = r"\d{1,4}"
_VALUES = {
    "city": words.CITIES,
    "person": words.PEOPLE,
    "product": words.PRODUCTS,
    "category": words.CATEGORIES,
    "carrier": words.CARRIERS,
    "segment": words.SEGMENTS,
    "status": words.STATUSES,
    "channel": words.CHANNELS,
    "most": tuple(questions.MOST_WORDS),
    "most_word": tuple(questions.MOST_WORDS.values()),
}


def question_of(prompt: str) -> Question | None:
    """The question of a text as people ask it, or of its SQL; None for anything else."""
    for family, number, pattern in _patterns():
        if (match := pattern.fullmatch(prompt)) is not None:
            slots = match.groupdict()
            if "most_word" in slots:
                slots["most"] = next(name for name, word in questions.MOST_WORDS.items() if word == slots["most_word"])
            filled = tuple(slots[name] for name in family.slots)
            return questions.ask(family, ":".join((family.name, *filled)), filled, number)
    return None


@cache
def _patterns() -> tuple[tuple[Family, int | None, re.Pattern[str]], ...]:
    return tuple(_each_pattern())


def _each_pattern() -> Iterator[tuple[Family, int | None, re.Pattern[str]]]:
    for family in FAMILIES:
        yield family, 0, _pattern(family.sql)
        yield family, None, _pattern(family.new_wording)
        for number, text in enumerate(family.paraphrases):
            yield family, number, _pattern(text)


def _pattern(text: str) -> re.Pattern[str]:
    pieces = _SLOT.split(text)  # text, slot, text, slot …
    for place in range(1, len(pieces), 2):
        values = "|".join(_VALUES.get(pieces[place], ())) or _NUMBER
        pieces[place] = f"(?P<{pieces[place]}>{values})"
    return re.compile("".join(re.escape(piece) if place % 2 == 0 else piece for place, piece in enumerate(pieces)))


_patterns()  # whoever grades row by row in a process of its own has them from the one that it is forked from
