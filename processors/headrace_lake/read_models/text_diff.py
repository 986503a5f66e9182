"""What differs between two texts, word by word. Pure; knows texts only."""

from __future__ import annotations

import re
from typing import Literal

from msgspec import Struct
from rapidfuzz.distance import Levenshtein

WORDS = 4_000  # of each text that are compared; what is beyond is shown as it is, removed and added
_PIECES = re.compile(r"\s+|\w+|[^\w\s]")


class DiffPart(Struct, frozen=True):
    """A run of words. The `same` and `removed` parts are the first text, the `same` and `added` ones the second."""

    kind: Literal["same", "removed", "added"]
    text: str


def word_diff(before: str, after: str) -> list[DiffPart]:
    """The parts of two texts, in their order. Nothing is lost: whatever is in either text is in a part."""
    ours, theirs = _PIECES.findall(before), _PIECES.findall(after)
    parts: list[DiffPart] = []

    def add(kind: Literal["same", "removed", "added"], pieces: list[str]) -> None:
        if pieces:
            parts.append(DiffPart(kind, "".join(pieces)))

    for step in Levenshtein.opcodes(ours[:WORDS], theirs[:WORDS]):
        mine, other = ours[step.src_start : step.src_end], theirs[step.dest_start : step.dest_end]
        if step.tag == "equal":
            add("same", mine)
        else:
            add("removed", mine)
            add("added", other)
    add("removed", ours[WORDS:])
    add("added", theirs[WORDS:])
    return parts
