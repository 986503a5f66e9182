"""The view `activity` over what was counted of segments beforehand (activity.py). Knows where counts lie, makes none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from headrace_lake.manifest import LakeFolder
from headrace_lake.segment import Segment
from headrace_lake.views import KIND, literal, read

_KEYS = "minute, topic, stage, kind, reason, bucket"
_REASONS = {"rejections": "data.reason", "dead-letters": "data.error.code"}  # by topic, where it stands
_EMPTY = (
    "SELECT NULL::TIMESTAMP AS minute, NULL::VARCHAR AS topic, NULL::VARCHAR AS stage, NULL::VARCHAR AS kind, "
    "NULL::VARCHAR AS reason, NULL::VARCHAR AS bucket, NULL::BIGINT AS records WHERE false"
)


def counted(topic: str) -> str:
    """The columns of counts over segments of a topic. Values, most of a segment, are read only where reasons stand in them."""
    reason = read(_REASONS[topic]) if topic in _REASONS else "CAST(NULL AS VARCHAR)"
    return (
        "date_trunc('minute', appended_at) AS minute, topic, split_part(split_part(origin, '/', 1), '.', 1) AS stage, "
        f"{KIND} AS kind, {reason} AS reason, bucket, count(*) AS records"
    )


def activity_sql(folder: LakeFolder, segments: Sequence[Segment]) -> tuple[str, list[Path]]:
    """A SELECT of what all of `segments` say together, and the files of counts that it reads. Those without are counted."""
    kept: list[Path] = []
    absent: dict[str, list[str]] = {}
    for segment in segments:
        counts = folder.activity_file(segment)
        if counts.exists():
            kept.append(counts.resolve())
        else:
            absent.setdefault(segment.topic, []).append(str(folder.file(segment).resolve()))
    parts = [_EMPTY]
    if kept:
        parts.append(f"SELECT * FROM read_parquet({literal(map(str, kept))})")
    parts += [f"SELECT {counted(topic)} FROM read_parquet({literal(files)}) GROUP BY ALL" for topic, files in absent.items()]
    return f"SELECT {_KEYS}, CAST(sum(records) AS BIGINT) AS records FROM ({' UNION ALL '.join(parts)}) GROUP BY ALL", kept
