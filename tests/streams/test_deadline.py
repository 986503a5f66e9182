"""A call that may never return is given up, and says nothing else than what it said."""

from __future__ import annotations

import asyncio
import threading

import pytest

from headrace_streams.deadline import within


def test_it_gives_what_the_call_gives_or_raises() -> None:
    assert within(30, lambda: 7) == 7

    def fails() -> None:
        raise TimeoutError("the call's own")

    with pytest.raises(TimeoutError, match="the call's own"):
        within(30, fails)


def test_a_call_that_does_not_return_is_given_up() -> None:
    stall = threading.Event()
    with pytest.raises(TimeoutError, match=r"no answer within 0\.05 s"):
        within(0.05, stall.wait)
    given_up = [thread for thread in threading.enumerate() if thread.name == "headrace-call"]
    assert all(thread.daemon for thread in given_up), "or the process would wait for it at its end"
    stall.set()


@pytest.mark.parametrize("kind", [asyncio.CancelledError, SystemExit, KeyboardInterrupt])
def test_a_cancellation_inside_a_library_is_none_of_the_callers(kind: type[BaseException]) -> None:
    def ends() -> None:
        raise kind

    with pytest.raises(RuntimeError, match=kind.__name__):
        within(30, ends)
