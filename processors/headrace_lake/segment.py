"""What a segment of the lake is: its columns, and its entry in a manifest. Knows no file: who only asks needs no writer."""

from __future__ import annotations

import msgspec

IDS = (
    "interaction_id",
    "example_id",
    "batch_id",
    "run_id",
    "version_id",
    "evaluation_id",
    "release_id",
    "bucket",
    "data_subject",
)
COLUMNS = {  # in their order, as SQL calls their types
    "topic": "VARCHAR",
    "partition": "INTEGER",
    "log_offset": "BIGINT",
    "appended_at": "TIMESTAMP_MS",
    "key": "VARCHAR",
    "value": "VARCHAR",
    "origin": "VARCHAR",
    "event_type": "VARCHAR",
    "event_id": "VARCHAR",
    "source": "VARCHAR",
    "event_time": "VARCHAR",
    "revision": "BIGINT",
    **dict.fromkeys(IDS, "VARCHAR"),
    "example_ids": "VARCHAR[]",
    "odd": "BLOB",
}


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the lake: offsets [start, end) of a partition, of which `records` are records (the others are markers).
    `first_ms` and `last_ms` are append times; `raw_bytes` of keys and values; `sha256` of the file."""

    topic: str
    partition: int
    start: int
    end: int
    records: int
    raw_bytes: int
    size_bytes: int
    first_ms: int
    last_ms: int
    sha256: str
    modified_ns: int

    @property
    def file(self) -> str:
        """Its name: what it holds, and the beginning of its digest, so that another one of the same offsets has another."""
        return f"{self.topic}-{self.partition}-{self.start}-{self.end}-{self.sha256[7:23]}.parquet"
