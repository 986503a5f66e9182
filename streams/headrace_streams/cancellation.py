"""Whether a cancellation is one: of this task, by somebody, or a leak from a library's own tasks. Knows asyncio only."""

from __future__ import annotations

import asyncio


def cancellations() -> int:
    """How often the running task was cancelled so far, whether it has noticed or not."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def cancelled_by_somebody() -> bool:
    """Whether the running task was cancelled. Where it was not, a CancelledError in it comes from a task that it waited for, and
    who lets it pass ends without anybody having asked for that, and without a word."""
    return cancellations() > 0
