"""What stands in the data folder of a broker that is stopped, read without a broker. Knows Kafka's files, no events."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from aiokafka.record.memory_records import MemoryRecords


def values(log: Path, topic: str) -> Iterator[bytes]:
    """Of every record of every partition of `<deployment>.<topic>`, whichever deployment, in order; without tombstones and
    markers of transactions. ValueError where a transaction was aborted, whose records only a broker leaves out."""
    for partition in sorted(log.glob("*-*")):
        name = partition.name.rpartition("-")[0].partition(".")[2]
        if name != topic:
            continue
        for segment in sorted(partition.glob("*.log")):
            aborted = segment.with_suffix(".txnindex")
            if aborted.exists() and aborted.stat().st_size:
                raise ValueError(f"{segment}: it has aborted transactions; read it through a broker")
            records = MemoryRecords(segment.read_bytes())
            while records.has_next():
                batch = records.next_batch()
                if batch is not None and not batch.is_control_batch:
                    yield from (record.value for record in batch if record.value is not None)
