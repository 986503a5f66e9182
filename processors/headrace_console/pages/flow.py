"""The first page: the ring with what flows through it, what is wrong, what was released, what happened. Knows status and lake."""

from __future__ import annotations

from collections import Counter
from typing import Any

from headrace_console.page import ConsolePage, PageRequest
from headrace_lake.views import event, table_of
from headrace_schemas.topology import DEAD, STAGES_BY_NAME

RELEASES, HAPPENED = 6, 14

# What somebody who comes back wants to know first. Only topics with few records are looked at, whatever the log's size.
_HAPPENED = f"""
SELECT appended_at, topic, partition, log_offset, replace(replace(event_type, 'headrace.', ''), '.v1', '') AS kind, bucket,
    coalesce(release_id, version_id, run_id, batch_id) AS id,
    CASE WHEN release_id IS NOT NULL THEN 'release' WHEN topic = 'versions' THEN 'version' WHEN topic = 'runs' THEN 'run'
        ELSE 'batch' END AS refers,
    coalesce(try(value->>'$.data.reason'), try(value->>'$.data.error'), 'cut for ' || try(value->>'$.data.cause'), '') AS text
FROM (SELECT * FROM {table_of("batches")} WHERE {event("batch.ready")}
    UNION ALL SELECT * FROM {table_of("runs")} WHERE {event("training.started", "training.completed", "training.failed")}
    UNION ALL SELECT * FROM {table_of("releases.history")} WHERE starts_with(origin, 'release/'))
ORDER BY appended_at DESC, topic, partition, log_offset DESC LIMIT {HAPPENED}
"""

_RELEASES = f"""
SELECT release_id, bucket, sequence, kind, adapter, version_id, reason, appended_at FROM releases
WHERE kind IN ('promoted', 'rolled_back', 'revoked') ORDER BY appended_at DESC, sequence DESC LIMIT {RELEASES}
"""


def flow(asked: PageRequest) -> dict[str, Any]:
    """Stages, tasks, troubles, buckets and what is served as `headrace status --json` has them, with rates; from the lake
    what was released and what happened."""
    report = asked.seen.report
    stages = [] if report is None else [_stage(stage, report, asked.seen.rates) for stage in report["stages"]]
    return {
        "seen_at": asked.seen.at_ms,
        "seen_error": asked.seen.error,
        "stages": stages,
        **{name: [] if report is None else report[name] for name in ("tasks", "troubles", "buckets", "served")},
        "releases": asked.lake.run(_RELEASES).dicts(),
        "happened": asked.lake.run(_HAPPENED).dicts(),
    }


def _stage(stage: Any, report: Any, rates: Any) -> dict[str, Any]:
    """A stage of the report, with how fast it reads, for how long its oldest record has waited, and who works at it."""
    tasks = [task for task in report["tasks"] if task["stage"] == stage["stage"]]
    waited = [task["waited_seconds"] for task in tasks if task["waited_seconds"] is not None]
    topology = STAGES_BY_NAME[stage["stage"]]
    return {
        **stage,
        "description": topology.description,
        "inputs": topology.inputs,
        "rate": rates.get(stage["stage"]),
        "waited_seconds": max(waited, default=None),
        "holders": dict(Counter(task["worker"] or "" for task in tasks)),
        "partitions": len(tasks),
        "wrong": sum(_of(trouble["what"], stage["stage"]) for trouble in report["troubles"]),
        "shares": [
            {"counter": name, "count": count, "dead": name == DEAD}
            for name, count in stage["counters"].items()
            if not topology.is_tally(name)
        ],
        "tallies": {name: count for name, count in stage["counters"].items() if topology.is_tally(name)},
    }


def _of(what: str, stage: str) -> bool:
    return what == stage or what.startswith(f"{stage}/")


PAGES = [
    ConsolePage(
        path="/",
        title="Flow",
        about="The ring: what each stage has read, decided and still has to do; what is wrong; what was released.",
        model=flow,
        template="flow.html",
        group="Now",
        order=1,
        uses_status=True,
    )
]
