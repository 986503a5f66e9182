"""The deployment's surroundings: doctor, lake, tasks, and who asked for what. Knows these reports, decides nothing."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from headrace_console.page import ConsolePage, PageRequest
from headrace_lake.lake_cli import told_of
from headrace_lake.views import KIND, table_of
from headrace_schemas.events import InteractionRetracted, SubjectErased
from headrace_schemas.topics import TOPICS

ASKED = 50

# Where what people ask for lies: beside the requests to stages, what was to be taken back, as intake has taken it.
_REQUESTS: dict[str, list[Any]] = {topic.name: [kind.__struct_config__.tag for kind in topic.requests] for topic in TOPICS}
_REQUESTS["signals"] += [kind.__struct_config__.tag for kind in (InteractionRetracted, SubjectErased)]


def system(asked: PageRequest) -> dict[str, Any]:
    """Versions, doctor's findings, what the lake holds, where tasks stand, and requests, the newest first."""
    report, manifest = asked.seen.report, asked.manifest
    doctor = asked.doctor()
    topics: dict[str, dict[str, Any]] = {}
    for segment in manifest.segments:
        counts = topics.setdefault(segment.topic, {"records": 0, "segments": 0, "bytes": 0, "raw_bytes": 0})
        counts["records"] += segment.records
        counts["segments"] += 1
        counts["bytes"] += segment.size_bytes
        counts["raw_bytes"] += segment.raw_bytes
    return {
        "version": version("headrace"),
        "bootstrap": asked.settings.bootstrap,
        "doctor": [each._asdict() for each in doctor.findings],
        "doctor_at": doctor.at_ms,
        "doctor_asking": doctor.asking,
        "lake": {**told_of(manifest), "folder": str(asked.folder), "feeder": asked.feeder, "topics": topics},
        "tasks": [] if report is None else report["tasks"],
        "status_error": asked.seen.error,
        "requests": asked.lake.run(_requests()).dicts(),
    }


def _requests() -> str:
    parts = [
        f"SELECT appended_at, topic, partition, log_offset, {KIND} AS kind, "
        "coalesce(bucket, interaction_id, data_subject, key) AS about, try(value->>'$.data.reason') AS reason, "
        "coalesce(try(value->>'$.data.requested_by'), source) AS requested_by "
        f"FROM {table_of(name)} WHERE event_type IN ({', '.join(map(repr, kinds))})"
        for name, kinds in _REQUESTS.items()
        if kinds
    ]
    return f"{' UNION ALL '.join(parts)} ORDER BY appended_at DESC LIMIT {ASKED}"


PAGES = [
    ConsolePage(
        path="/system",
        title="System",
        about="Doctor's findings, the lake, where every task stands, and who asked for what and why.",
        model=system,
        template="system.html",
        group="Tools",
        order=90,
        uses_status=True,
    )
]
