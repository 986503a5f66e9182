"""What a rule of scrubbing is: a kind, a cheap condition, an exact pattern, and a judgement of what it finds. Knows no rule.

Patterns are RE2's, so time is linear in the text. `necessary` holds of every text in which `exact` finds something: it has no
word border and no long repeat, and all of them are asked at once (`re2.Set`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

Span = tuple[int, int]
Judge = Callable[[Any, str], Span | None]  # (match, text): the piece that is private, None when nothing is


class Pattern(NamedTuple):
    """One rule. Without a judge all that is found is private."""

    kind: str
    necessary: str
    exact: str
    judge: Judge | None = None


def whole(match: Any) -> Span:
    return match.start(), match.end()


def before(match: Any, text: str, characters: int = 1) -> str:
    """What stands before a match, at most so many characters."""
    return text[max(0, match.start() - characters) : match.start()]


def after(match: Any, text: str, characters: int = 1) -> str:
    return text[match.end() : match.end() + characters]


def is_mixed(value: str) -> bool:
    """Letters and digits: what words have not, and keys have."""
    return any(char.isdigit() for char in value) and any(char.isalpha() for char in value)


def entropy(value: str) -> float:
    """Bits per character, by the frequencies in the value itself (Shannon 1948)."""
    counts = Counter(value)
    return -sum(count / len(value) * math.log2(count / len(value)) for count in counts.values())


def looks_random(value: str) -> bool:
    """At least twenty characters of upper case, lower case and digits, as evenly spread as a random key's."""
    kinds = (str.isupper, str.islower, str.isdigit)
    return len(value) >= 20 and all(any(map(kind, value)) for kind in kinds) and entropy(value) >= 3.6
