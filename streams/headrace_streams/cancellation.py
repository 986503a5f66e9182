"""Whether a cancellation is one: of this task, by somebody, or a leak from a library's own tasks. Knows asyncio only."""

from __future__ import annotations

import asyncio


def cancelled_by_somebody() -> bool:
    """Whether the running task was cancelled. Where it was not, a CancelledError in it comes from a task that it waited for, and
    who lets it pass ends without anybody having asked for that, and without a word."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
