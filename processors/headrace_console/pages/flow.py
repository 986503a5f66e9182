"""The first page: the ring with what flows through it, what is wrong, what was released, what happened. Knows status and lake."""

from __future__ import annotations

from typing import Any

from headrace_console.page import ConsolePage, PageRequest

RELEASES = 5


def flow(asked: PageRequest) -> dict[str, Any]:
    """Stages as `headrace status --json` has them, and the newest releases of the lake."""
    status = asked.status
    return {
        "status_at": asked.status_at,
        "status_error": asked.status_error,
        "stages": [] if status is None else status["stages"],
        "troubles": [] if status is None else status["troubles"],
        "releases": asked.lake.run(
            "SELECT release_id, bucket, sequence, kind, adapter, reason, appended_at FROM releases ORDER BY appended_at DESC "
            f"LIMIT {RELEASES}"
        ).dicts(),
    }


PAGES = [
    ConsolePage(
        path="/",
        title="Flow",
        about="The ring: what each stage has read, decided and still has to do; what is wrong; what was released.",
        model=flow,
        template="flow.html",
        group="Now",
        order=1,
    )
]
