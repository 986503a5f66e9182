"""A few seconds of what `make fuzz` does for hours: hostile records through every fold. FUZZ_RECORDS and FUZZ_SEED."""

from __future__ import annotations

import os

import pytest

from fuzz.in_memory import APPEND_TIME, FoldUnderFire, folds
from support import hostile

RECORDS = int(os.environ.get("FUZZ_RECORDS", "600"))
SEED = os.environ.get("FUZZ_SEED", "1")


@pytest.mark.parametrize("fold", folds(), ids=lambda fold: fold.label)
def test_hostile_records_are_counted_and_stop_nothing(fold: FoldUnderFire) -> None:
    for batch in hostile.batches(fold.topic, SEED, RECORDS, append_time=APPEND_TIME, broken=True):
        fold.take(batch)
    fold.restart()
    assert fold.offset == RECORDS
