"""The worker process, as far as it needs no broker."""

from __future__ import annotations

import gc
import weakref

from headrace_processors.worker import COLLECT, spare_collector


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
