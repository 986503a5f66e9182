"""Record batches with header names that are no UTF-8, as clients write them whose strings are bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiokafka.producer import message_accumulator
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy


class Name(str):
    """Text that stands for other bytes than its own."""

    written: bytes

    def encode(self, *_: Any) -> bytes:
        return self.written


def name(written: bytes) -> Name:
    made = Name("odd")
    made.written = written
    return made


@contextmanager
def odd_names_allowed() -> Iterator[None]:
    """Batches of producers made meanwhile take a `name` for the name of a header."""
    usual = message_accumulator.DefaultRecordBatchBuilder
    message_accumulator.DefaultRecordBatchBuilder = _DefaultRecordBatchBuilderPy
    try:
        yield
    finally:
        message_accumulator.DefaultRecordBatchBuilder = usual


def builder(compression: int = 0) -> Any:
    """`append(offset, timestamp, key, value, headers)` and `build()`; names may come from `name`."""
    return _DefaultRecordBatchBuilderPy(
        magic=2,
        compression_type=compression,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 20,
    )
