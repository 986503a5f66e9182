"""Review: what somebody should look at next, and one form that publishes feedback and nothing else. Knows its read model."""

from __future__ import annotations

import secrets
from typing import Any

from headrace_console.page import ConsolePage, PageMissing, PageRequest
from headrace_lake.read_models.review_view import review_view


def review(asked: PageRequest) -> dict[str, Any]:
    """`sample` shows the tenth that was drawn; `example` one of the queue."""
    wanted = asked.query.get("example") or None
    found = review_view(asked.lake, asked.visitor.name, sample=asked.query.get("sample") == "1", example_id=wanted)
    if wanted is not None and found["example"] is None:
        raise PageMissing(f"there is no example {wanted!r}, at this cut")
    return {**found, "request_id": secrets.token_hex(16), "may": asked.visitor.may("operator")}


PAGES = [
    ConsolePage(
        path="/review",
        title="Review",
        about="What is uncertain and counts for much comes first: rate it, or say what the answer should have been.",
        model=review,
        template="review.html",
        group="Data",
        order=60,
        live=False,
    )
]
