"""A call of a library that may never return, and the time it is given. Knows nothing of what is called."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, call: Callable[[], T]) -> T:
    """What `call` gives or raises. TimeoutError when it has done neither after `seconds`.

    Nothing can end a call from outside: one that is given up keeps its thread, which no process waits for at its end."""
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except Exception as error:
            outcome.set_exception(error)
        except BaseException as error:  # a cancellation or an exit inside the library is none of the caller's
            outcome.set_exception(RuntimeError(f"ended by {type(error).__name__}"))

    Thread(target=run, name="headrace-call", daemon=True).start()
    try:
        return outcome.result(max(0.0, seconds))
    except TimeoutError:
        if outcome.done():  # the call's own
            raise
        raise TimeoutError(f"no answer within {seconds:.3g} s") from None
