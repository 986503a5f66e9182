"""Silence: who should speak and does not, expected against seen. Knows its read model."""

from __future__ import annotations

from typing import Any

from headrace_console.page import ConsolePage, PageRequest
from headrace_lake.read_models.silence_view import silence_view


def silence(asked: PageRequest) -> dict[str, Any]:
    return silence_view(asked.lake, asked.now())


PAGES = [
    ConsolePage(
        path="/silence",
        title="Silence",
        about="Who should speak and does not: agents, raters, adapters never in traffic, buckets without feedback, tasks behind.",
        model=silence,
        template="silence.html",
        group="Now",
        order=60,
    )
]
