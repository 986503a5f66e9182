"""Batches of a lake: what was cut and why, what became of it, who is in it. Knows the lake's columns and the events of runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from headrace_lake.batches import BatchRow, with_runs
from headrace_lake.query import LakeQuery
from headrace_lake.read_models.paging import NEWEST_FIRST, PAGE, PageCursor, next_page, page_of
from headrace_lake.read_models.recorded import recorded
from headrace_lake.views import event, table_of
from headrace_schemas.derived import Batch
from headrace_schemas.events import BatchReady, Event, TrainingStarted

RUNS, MEMBERS, BINS = 2000, 100, 10

_FIELDS = {
    "cause": "$.data.cause",
    "target": "$.data.target",
    "examples": "$.data.statistics.examples",
    "negatives": "$.data.statistics.negatives",
    "effective_size": "$.data.statistics.effective_size",
    "mean_reward": "$.data.statistics.mean_reward",
    "success_rate": "$.data.statistics.success_rate",
}


class BatchSummary(Struct, frozen=True, kw_only=True):
    """A batch in a list: when and why it was cut, and what became of it."""

    row: BatchRow
    place: str
    appended_ms: int
    cause: str
    target: float
    examples: int
    negatives: int
    effective_size: float
    mean_reward: float
    success_rate: float | None


class BatchList(Struct, frozen=True, kw_only=True):
    """Batches, newest first. `below`: where the next page goes on."""

    bucket: str | None
    rows: list[BatchSummary]
    below: str | None = None


class PoolCount(Struct, frozen=True, kw_only=True):
    """Rows of one pool, side and role."""

    pool: str
    split: str
    role: str
    rows: int
    weight: float
    difficulty: float


class BatchMember(Struct, frozen=True, kw_only=True):
    """A row that a batch names."""

    pool: str
    example_id: str
    revision: int
    role: str
    split: str
    weight: float
    difficulty: float
    place: str


class BatchView(Struct, frozen=True, kw_only=True):
    """One batch. `difficulty`: members by tenths of their difficulty; `pools` counts all rows, `members` lists some."""

    summary: BatchSummary
    runs: list[str]
    pools: list[PoolCount]
    difficulty: list[int]
    members: list[BatchMember]
    members_total: int
    offset: int
    policy_digests: dict[str, str]
    left_out: dict[str, int]


def batch_list(lake: LakeQuery, bucket: str | None = None, below: PageCursor | None = None, *, page: int = PAGE) -> BatchList:
    """The newest batches, of one bucket or of all."""
    rows, _ = _summaries(lake, *page_of(event("batch.ready"), bucket, below), page + 1)
    return BatchList(bucket=bucket, rows=rows[:page], below=next_page(rows[:page], more=len(rows) > page))


def batch_view(lake: LakeQuery, batch_id: str, offset: int = 0) -> BatchView | None:
    """One batch with `MEMBERS` of its rows from `offset` on; None where there is none of that id."""
    where, named = f"{event('batch.ready')} AND batch_id = $id", {"id": batch_id}
    summaries, told = _summaries(lake, where, named, 1)
    cut = next(iter(recorded(lake, "batches", where, named, limit=1)), None)
    if cut is None or not summaries or not isinstance(cut.event, BatchReady):
        return None
    batch = cut.event.data
    rows = _members(batch)
    runs = list(dict.fromkeys(each.data.run_id for each in told if isinstance(each, TrainingStarted)))
    return BatchView(
        summary=summaries[0],
        runs=runs,
        pools=_pools(rows),
        difficulty=histogram([row.difficulty for row in rows if row.pool == "members"]),
        members=rows[offset : offset + MEMBERS],
        members_total=len(rows),
        offset=offset,
        policy_digests=batch.policy_digests,
        left_out=batch.statistics.left_out or {},
    )


def histogram(values: Sequence[float], bins: int = BINS) -> list[int]:
    """How many of `values`, in [0, 1], are in each of `bins` parts of equal width."""
    counts = Counter(min(max(int(value * bins), 0), bins - 1) for value in values)
    return [counts[number] for number in range(bins)]


def _summaries(lake: LakeQuery, where: str, parameters: dict[str, Any], limit: int) -> tuple[list[BatchSummary], list[Event]]:
    """The newest batches, and what their runs said."""
    paths = ", ".join(f"'{path}'" for path in _FIELDS.values())
    found = lake.all(
        "SELECT batch_id, bucket, epoch_ms(appended_at), partition, log_offset, coalesce(len(example_ids), 0), "
        f"try(json_extract_string(value, [{paths}])) FROM {table_of('batches')} WHERE {where} "
        f"{NEWEST_FIRST} LIMIT {int(limit)}",
        parameters,
    )
    rows = {row[0]: BatchRow(batch_id=row[0], bucket=row[1], members=row[5]) for row in found}
    names = {"ids": list(rows)}
    asked = dict(
        lake.all(
            f"SELECT batch_id, count(*) FROM {table_of('batches')} WHERE {event('batch.retry.requested')} "
            "AND list_contains($ids, batch_id) GROUP BY batch_id",
            names,
        )
    )
    told = event("training.started", "training.completed", "training.failed")
    runs = [each.event for each in recorded(lake, "runs", f"{told} AND list_contains($ids, batch_id)", names, limit=RUNS)]
    with_runs(rows, asked, runs)
    return [_summary(rows[row[0]], row) for row in found], runs


def _summary(row: BatchRow, found: tuple[Any, ...]) -> BatchSummary:
    said = dict(zip(_FIELDS, found[6] or (), strict=False))
    return BatchSummary(
        row=row,
        place=f"batches/{found[3]}/{found[4]}",
        appended_ms=found[2],
        cause=said.get("cause") or "",
        target=float(said.get("target") or 0),
        examples=int(said.get("examples") or 0),
        negatives=int(said.get("negatives") or 0),
        effective_size=float(said.get("effective_size") or 0),
        mean_reward=float(said.get("mean_reward") or 0),
        success_rate=None if said.get("success_rate") is None else float(said["success_rate"]),
    )


def _members(batch: Batch) -> list[BatchMember]:
    pools = (("members", batch.members), ("test pool", batch.test_pool), ("validation pool", batch.validation_pool or []))
    rows = [
        BatchMember(
            pool=pool,
            example_id=member.example_id,
            revision=member.revision,
            role=member.role,
            split=member.split,
            weight=member.weight,
            difficulty=member.difficulty,
            place=f"{member.locator.topic}/{member.locator.partition}/{member.locator.offset}",
        )
        for pool, members in pools
        for member in members
    ]
    return rows + [
        BatchMember(
            pool="prompts",
            example_id=member.example_id,
            revision=member.revision,
            role="drawn" if member.drawn else "wrong",
            split="test",
            weight=1.0,
            difficulty=0.0,
            place=f"{member.locator.topic}/{member.locator.partition}/{member.locator.offset}",
        )
        for member in batch.prompts or []
    ]


def _pools(rows: Sequence[BatchMember]) -> list[PoolCount]:
    groups: dict[tuple[str, str, str], list[BatchMember]] = {}
    for row in rows:
        groups.setdefault((row.pool, row.split, row.role), []).append(row)
    return [
        PoolCount(
            pool=pool,
            split=split,
            role=role,
            rows=len(members),
            weight=sum(member.weight for member in members) / len(members),
            difficulty=sum(member.difficulty for member in members) / len(members),
        )
        for (pool, split, role), members in groups.items()
    ]
