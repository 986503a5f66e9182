"""The worker process, as far as it needs no broker."""

from __future__ import annotations

import gc
import multiprocessing
import signal
import sys
import time
import weakref
from typing import Any

import pytest

from headrace_processors import cli
from headrace_processors.worker import COLLECT, spare_collector
from headrace_schemas.root_error import STUCK
from headrace_streams import process_end


class Node:
    def __init__(self) -> None:
        self.itself = self


def test_what_was_imported_is_never_collected_again_and_what_goes_is() -> None:
    before = gc.get_threshold()
    try:
        spare_collector()
        assert gc.get_freeze_count() > 10_000
        assert gc.get_threshold() == COLLECT
        node = weakref.ref(Node())
        gc.collect()
        assert node() is None
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


def child(code: int | None, listens: Any) -> None:
    """Ends with `code` when it is told to; None: never."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN if code is None else lambda *_: sys.exit(code))
    listens.set()
    time.sleep(60)


def test_a_process_of_several_that_had_to_be_ended_hard_shows_in_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them are told to end at once, and none is left."""
    monkeypatch.setattr(process_end, "HARD_SECONDS", 5.0)
    monkeypatch.setattr(process_end, "LAST_SECONDS", 0.0)
    context = multiprocessing.get_context("fork")

    def end(*codes: int | None) -> bool:
        listening = [context.Event() for _ in codes]
        children = [context.Process(target=child, args=given) for given in zip(codes, listening, strict=True)]
        for process in children:
            process.start()
        assert all(event.wait(30) for event in listening)
        hard = cli._end([None, *children])
        assert not any(process.is_alive() for process in children)
        return hard

    assert not end(0, 0)
    assert end(0, STUCK)
    assert end(0, None)
