"""How much happened, minute by minute: records by stage, kind, reason and bucket, counted once and kept beside each segment.

What a page shows of all time, or of the last hour, is then read from some rows a minute instead of every record. A file of
counts belongs to one segment and has its name, so that the counts of a manifest's segments are those of its cut. It may be
absent: whoever asks counts that segment itself, and the next feeder makes it anew, as it does one that was damaged. Knows
segments and DuckDB, no cut.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from headrace_lake.activity_view import counted
from headrace_lake.manifest import LakeFolder
from headrace_lake.segment import Segment
from headrace_streams import durable_file

_text = pyarrow.string()
_SCHEMA = pyarrow.schema(
    [
        ("minute", pyarrow.timestamp("us")),
        *((name, _text) for name in ("topic", "stage", "kind", "reason", "bucket")),
        ("records", pyarrow.int64()),
    ]
)
_MANY = 50  # segments that are counted by one query


def keep_activity(folder: LakeFolder, segments: Iterable[Segment]) -> int:
    """Counts those of `segments` that have no counts yet; how many. Feeder only. OSError when they can't be written."""
    absent = [segment for segment in segments if not folder.activity_file(segment).exists()]
    if absent:
        folder.activity.mkdir(exist_ok=True)
        with duckdb.connect(config={"memory_limit": "256MB", "threads": 1, "autoload_known_extensions": False}) as connection:
            for topic in dict.fromkeys(segment.topic for segment in absent):
                own = [segment for segment in absent if segment.topic == topic]
                for first in range(0, len(own), _MANY):
                    _keep(connection, folder, topic, own[first : first + _MANY])
    return len(absent)


def remove_damaged(folder: LakeFolder, segments: Iterable[Segment]) -> int:
    """Removes counts that can't be read, or that do not add up to the records of their segment; how many. Feeder only."""
    kept = [(segment, folder.activity_file(segment)) for segment in segments]
    damaged = [file for segment, file in kept if file.exists() and _counted(file) != segment.records]
    for file in damaged:
        file.unlink()
    return len(damaged)


def _counted(file: Path) -> int | None:
    try:
        table = pyarrow.parquet.read_table(file, page_checksum_verification=True)
        return None if table.schema != _SCHEMA else pyarrow.compute.sum(table["records"]).as_py() or 0
    except (OSError, pyarrow.ArrowException):
        return None


def _keep(connection: duckdb.DuckDBPyConnection, folder: LakeFolder, topic: str, segments: Sequence[Segment]) -> None:
    paths = {str(folder.file(segment)): segment for segment in segments}
    counts: dict[str, list[Sequence[Any]]] = {path: [] for path in paths}
    for path, *row in connection.execute(
        f"SELECT filename, {counted(topic)} FROM read_parquet($files, filename = true) GROUP BY ALL", {"files": list(paths)}
    ).fetchall():
        counts[path].append(row)
    for path, segment in paths.items():
        columns = [
            pyarrow.array(values, field.type) for values, field in zip(zip(*counts[path], strict=True), _SCHEMA, strict=True)
        ]
        target = folder.activity_file(segment)
        temporary = target.with_name(f".{os.getpid()}.writing")
        try:
            pyarrow.parquet.write_table(
                pyarrow.table(columns, schema=_SCHEMA), temporary, compression="zstd", write_page_checksum=True
            )
            durable_file.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
