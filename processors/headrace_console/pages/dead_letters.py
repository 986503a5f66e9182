"""Dead letters: by code, publisher and field; one with the offending field marked in its raw bytes. Knows its read model."""

from __future__ import annotations

from typing import Any

from headrace_console.page import ConsolePage, PageRequest, there
from headrace_lake.read_models.dead_letter_view import SAMPLE, letter_groups, letter_view


def dead_letters(asked: PageRequest) -> dict[str, Any]:
    """Groups and the newest letters; `topic`, `code`, `field` and `source` narrow them, empty for those without."""
    return letter_groups(asked.lake, asked.query)


def dead_letter(asked: PageRequest) -> dict[str, Any]:
    return there(letter_view(asked.lake, asked.names["at"]), "dead letter", asked.names["at"])


PAGES = [
    ConsolePage(
        path="/dead-letters",
        title="Dead letters",
        about="What could not be processed, and why; publish it once more after a fix.",
        model=dead_letters,
        template="dead_letters.html",
        group="Data",
        order=70,
    ),
    ConsolePage(
        path="/dead-letters/{at:.+}",
        title="Dead letter",
        about="The whole record as it came, with the field that is wrong.",
        model=dead_letter,
        template="dead_letter.html",
        right="privacy",
        sample=SAMPLE,
        live=False,
    ),
]
