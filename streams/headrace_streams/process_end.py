"""The end of a process that is told to end: its loop is told, and when that does not help in time, it ends hard. Knows no stage.

Nothing is lost by that: whatever is on Kafka is there by transactions, and whatever is on disk bears a kill at any moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from headrace_schemas.root_error import STUCK
from headrace_streams import stacks

log = logging.getLogger("headrace")

# Tasks give their transaction 5 s and each client 10, a member its group 15: a broker that went costs that. Supervisors of
# processes wait for 30 s, most of them.
SAY_SECONDS = 10.0
HARD_SECONDS = 25.0
LAST_SECONDS = 2.0  # for saying why: who reads the log may be stuck, too
_begun = threading.Event()


def begin() -> None:
    """The process is to end, and has HARD_SECONDS for it from the first call on. By threads, since its loop may not turn."""
    if _begun.is_set():
        return
    _begun.set()
    with contextlib.suppress(RuntimeError):  # no thread more is to be had: it ends as well as it can
        threading.Thread(target=_end, name="headrace-end-hard", daemon=True).start()
        threading.Thread(target=_tell, args=(time.monotonic(),), name="headrace-end", daemon=True).start()


@contextmanager
def when_told(actions: Mapping[int, Callable[[], object] | None]) -> Iterator[None]:
    """Within, a signal of `actions` begins the end and calls its action in the running loop; None: what was called before. To be
    entered in the main thread, in a running loop."""
    loop = asyncio.get_running_loop()
    stacks.watch(loop)
    before = {number: signal.getsignal(number) for number in actions}

    def told(number: int, frame: FrameType | None) -> None:
        begin()
        action, earlier = actions[number], before[number]
        if action is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(action)
        elif callable(earlier):
            earlier(number, frame)

    for number in actions:
        signal.signal(number, told)  # not the loop's own handlers: they are called by a loop that turns
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell(began: float) -> None:
    time.sleep(SAY_SECONDS)
    log.warning(_line(began))
    time.sleep(max(0.0, began + HARD_SECONDS - time.monotonic()))
    log.error("%s: ended hard, exit code %d; what is committed stays, what is not is done again", _line(began), STUCK)
    stacks.write_all()
    os._exit(STUCK)


def _line(began: float) -> str:
    return f"told to end {time.monotonic() - began:.3g} s ago, and still waits for {'; '.join(stacks.waited_for()) or 'itself'}"


def _end() -> None:
    time.sleep(HARD_SECONDS + LAST_SECONDS)
    os._exit(STUCK)
