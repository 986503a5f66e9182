"""What records that were folded write in one transaction. Knows how large one may become, no client and no fold."""

from __future__ import annotations

import time
from collections.abc import Mapping

from headrace_streams.runtime.step import Processed, Produced

BATCH_RECORDS = 2000
BATCH_BYTES = 4 * 1024 * 1024  # of outputs and state, before a transaction is closed early


class MicroBatch:
    """What records that were folded and are not committed write: outputs, and changed state in changelog form. `size`: bytes of
    both, of state each time that it changed; `began` is when the first was folded, by the monotonic clock."""

    def __init__(self) -> None:
        self.produced: list[Produced] = []
        self.changes: dict[str, bytes | None] = {}
        self.append_times: list[int] = []  # in ms, of the records
        self.records = self.size = 0
        self.began = time.monotonic()

    def add(self, append_ms: int, processed: Processed) -> None:
        """One record's doing."""
        produced, dumped = processed.produced, processed.dumped
        size = sum([len(item.value) for item in produced]) + sum([len(data) for data in dumped.values() if data is not None])
        self.take(append_ms, produced, dumped, size)

    def take(self, append_ms: int, produced: list[Produced], dumped: Mapping[str, bytes | None], size: int) -> None:
        """The same, with the bytes that it writes."""
        if not self.records:
            self.began = time.monotonic()
        self.append_times.append(append_ms)
        self.records += 1
        self.size += size
        if produced:
            self.produced += produced
        if dumped:
            self.changes.update(dumped)

    @property
    def full(self) -> bool:
        return self.records >= BATCH_RECORDS or self.size >= BATCH_BYTES
