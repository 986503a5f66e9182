"""Where the threads and asyncio tasks of this process are, told while it runs. Knows neither Kafka nor what they do."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import signal
import sys
import threading
import weakref
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

_loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
_AWAITED = {"cr": "cr_await", "gi": "gi_yieldfrom", "ag": "ag_await"}
_STDERR = 2
SHOWN = 10  # of what is waited for, in one line


def watch(loop: asyncio.AbstractEventLoop) -> None:
    """Has the tasks of `loop` told, too."""
    _loops.add(loop)


def dump_on_signal() -> None:
    """From here on SIGUSR1 writes the stacks of all threads and tasks to standard error, and the process goes on. Threads are
    written by faulthandler, which needs no interpreter: also while one is stuck in a library. Call it in the main thread."""
    number = getattr(signal, "SIGUSR1", None)
    if number is None:
        return

    def tell(*_: object) -> None:
        with contextlib.suppress(Exception):  # whatever it is, what was interrupted goes on
            write_tasks()

    signal.signal(number, tell)  # called behind what faulthandler writes
    faulthandler.register(number, file=_STDERR, all_threads=True, chain=True)


def write_all() -> None:
    """Threads and tasks, to standard error."""
    faulthandler.dump_traceback(file=_STDERR, all_threads=True)
    write_tasks()


def write_tasks() -> None:
    """Each task with what it waits for, the outermost call first."""
    lines = []
    for task in _tasks():
        lines.append(f"task {task.get_name()}")
        lines += (f"  {place}" for place in _places(task))
    with contextlib.suppress(OSError):  # not by `print`: what the signal has interrupted may be in the middle of one
        os.write(_STDERR, ("\n".join(lines) + "\n").encode(errors="replace"))


def waited_for() -> list[str]:
    """What goes on in this process: each task with the place that it waits at, and each thread that runs ours or somebody's code.
    At most SHOWN of them, and how many more there are."""
    names = []
    for task in _tasks():
        places = list(_places(task))
        outside = [place for place in places if ", asyncio/" not in place]  # where the library waits is the same for most
        names += [f"{task.get_name()} ({place})" for place in (outside or places)[-1:]]
    frames = sys._current_frames()
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        if frame is not None and not thread.name.startswith("headrace-end") and not _waits(frame):
            names.append(f"thread {thread.name} ({_place(frame.f_code, frame.f_lineno)})")
    more = len(names) - SHOWN
    return names[:SHOWN] + ([f"{more} more"] if more > 0 else [])


def _tasks() -> list[asyncio.Task[Any]]:
    """Of all loops that are watched, those with a name of ours first."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return []
    found = [task for loop in list(_loops) for task in asyncio.all_tasks(loop)]
    return sorted(found, key=lambda task: (task.get_name().startswith("Task-"), task.get_name()))


def _places(task: asyncio.Task[Any]) -> Iterator[str]:
    """From the task's coroutine to what it waits for at last. (`Task.get_stack` stops at the first.)"""
    awaited: Any = task.get_coro()
    while awaited is not None:
        kind = _kind(awaited)
        if kind is None:  # what awaits an asynchronous generator does not say which
            awaited = next((inner for inner in gc.get_referents(awaited) if _kind(inner) is not None), None)
            continue
        frame = getattr(awaited, f"{kind}_frame")
        if frame is not None:
            yield _place(frame.f_code, frame.f_lineno)
        awaited = getattr(awaited, _AWAITED[kind])


def _kind(awaited: Any) -> str | None:
    """The prefix of its attributes, where it is a coroutine or a generator."""
    return next((kind for kind in _AWAITED if hasattr(awaited, f"{kind}_frame")), None)


def _place(code: CodeType, line: int | None) -> str:
    return f"{code.co_qualname}, {'/'.join(code.co_filename.split('/')[-2:])}:{line}"


def _waits(frame: FrameType) -> bool:
    """Whether a thread only waits for work: an event loop that turns, or a thread of a pool."""
    return frame.f_code.co_filename.endswith(("selectors.py", "threading.py")) or (
        frame.f_code.co_name == "_worker" and frame.f_code.co_filename.endswith("thread.py")
    )
