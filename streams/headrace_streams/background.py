"""One coroutine in a daemon thread with an event loop of its own: how the door works beside any program. Knows no Kafka."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from headrace_streams import stacks

_forks = 0  # how often this process is the child of one that ran this


class Background:
    """Runs `main()` until it returns or `stop` is called. A daemon: it never keeps an interpreter from ending."""

    def __init__(self, name: str, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._main = main
        self._forks = _forks
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        self._started.wait()

    @property
    def here(self) -> bool:
        """False in a child that was forked after the start: threads stay behind."""
        return self._forks == _forks  # asked at each event, so that it must not cost a system call

    def call(self, function: Callable[[], object]) -> None:
        """Calls `function` in the loop's thread, soon; not at all once the loop has ended."""
        if self.here:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(function)

    def stop(self, timeout: float) -> bool:
        """Cancels `main` and waits for its end, at most `timeout` seconds. Whether it ended."""
        if not self.here:
            return True
        self.call(self._task.cancel)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(self._announced())

    async def _announced(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._loop, self._task = asyncio.get_running_loop(), task
        stacks.watch(self._loop)
        self._started.set()
        await self._main()


def _after_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
