"""The view `activity` over what was counted of segments beforehand (activity.py). Knows where counts lie, makes none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from headrace_lake.manifest import LakeFolder
from headrace_lake.segment import Segment
from headrace_lake.views import KIND, literal, read

_KEYS = "minute, topic, stage, kind, reason, bucket"
COUNTED = (
    "date_trunc('minute', appended_at) AS minute, topic, split_part(split_part(origin, '/', 1), '.', 1) AS stage, "
    f"{KIND} AS kind, CASE topic WHEN 'rejections' THEN {read('data.reason')} WHEN 'dead-letters' THEN {read('data.error.code')} "
    "END AS reason, bucket, count(*) AS records"
)
_EMPTY = (
    "SELECT NULL::TIMESTAMP AS minute, NULL::VARCHAR AS topic, NULL::VARCHAR AS stage, NULL::VARCHAR AS kind, "
    "NULL::VARCHAR AS reason, NULL::VARCHAR AS bucket, NULL::BIGINT AS records WHERE false"
)


def activity_sql(folder: LakeFolder, segments: Sequence[Segment]) -> tuple[str, list[Path]]:
    """A SELECT of what all of `segments` say together, and the files of counts that it reads. Those without are counted."""
    kept: list[Path] = []
    absent: list[Path] = []
    for segment in segments:
        counts = folder.activity_file(segment)
        if counts.exists():
            kept.append(counts.resolve())
        else:
            absent.append(folder.file(segment).resolve())
    parts = [_EMPTY]
    if kept:
        parts.append(f"SELECT * FROM read_parquet({literal(map(str, kept))})")
    if absent:
        parts.append(f"SELECT {COUNTED} FROM read_parquet({literal(map(str, absent))}) GROUP BY ALL")
    return f"SELECT {_KEYS}, CAST(sum(records) AS BIGINT) AS records FROM ({' UNION ALL '.join(parts)}) GROUP BY ALL", kept
