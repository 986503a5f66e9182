"""Buckets: fill against target, why each is not cut yet, and what has come to it of late. Knows the lake, and curate's state as
`headrace status` says it.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from headrace_lake.manifest import Manifest
from headrace_lake.query import LakeQuery
from headrace_lake.read_models.batch_list import BatchSummary, batch_list, histogram
from headrace_lake.read_models.conditions import ConditionNode, joined
from headrace_lake.read_models.example_list import ExampleFilter, ExampleRow, newest_rows
from headrace_lake.read_models.recorded import STAGE, recorded
from headrace_lake.read_models.release_view import ReleaseRow, release_list, served_now
from headrace_lake.views import event, table_of
from headrace_processors.curate.assessment import CutCondition, assess
from headrace_processors.curate.policy import CuratePolicy
from headrace_processors.curate.state import CurateBucket
from headrace_processors.curate.thresholds import RECENT_DAYS
from headrace_schemas.events import RulesActivated
from headrace_schemas.topics import DAY_MS
from headrace_streams.kafka.partitioner import partition_for

NEWEST = 1_000  # revisions of a bucket, that trends and shares are of
REJECTED = 5_000  # rejections of a bucket, the newest, that are counted
TREND = 40  # points of a trend
SHOWN = 12


class BucketSummary(Struct, frozen=True, kw_only=True):
    """A bucket in a list. Figures of the open bucket are None where curate's state is not known; `waits_for`: the conditions that
    do not hold."""

    bucket: str
    examples: int
    last_ms: int | None
    batches: int
    served: ReleaseRow | None
    fill: float | None = None
    target: float | None = None
    wanted: float | None = None
    opened_ms: int | None = None
    open_examples: int | None = None
    negatives: int | None = None
    test_rows: int | None = None
    success_rate: float | None = None
    judged: float | None = None
    note: str = ""
    waits_for: list[str] = []


class BucketList(Struct, frozen=True, kw_only=True):
    """Every bucket that an example ever came to. `state_known`: fills are there; else `headrace status` could not be asked."""

    rows: list[BucketSummary]
    state_known: bool


class TrendPoint(Struct, frozen=True, kw_only=True):
    """Some revisions after one another: when the last of them came, and their means."""

    appended_ms: int
    revisions: int
    reward: float
    quality: float


class ReasonCount(Struct, frozen=True, kw_only=True):
    """Rejections of one reason, with the rule as it was last said, and the last of them."""

    reason: str
    rule: str
    times: int
    last_ms: int


class NamedShare(Struct, frozen=True, kw_only=True):
    """How much of what came is of one agent, or was judged by one rater."""

    name: str
    revisions: int
    share: float
    reward: float


class BucketView(Struct, frozen=True, kw_only=True):
    """One bucket. `assessment`: why it is not cut yet; trend, difficulty and shares are of the `looked_at` newest revisions."""

    summary: BucketSummary
    assessment: ConditionNode | None
    assessed_from: str
    looked_at: int
    trend: list[TrendPoint]
    difficulty: list[int]
    agents: list[NamedShare]
    raters: list[NamedShare]
    rejections: list[ReasonCount]
    rejected: int
    batches: list[BatchSummary]
    releases: list[ReleaseRow]


def bucket_list(lake: LakeQuery, manifest: Manifest, status: Mapping[str, Any] | None) -> BucketList:
    """All buckets, those with the newest examples first."""
    known = _recorded(status)
    policy = curate_policy(lake)
    served = served_now(lake)
    batches = dict(lake.all(f"SELECT bucket, count(*) FROM {table_of('batches')} WHERE {event('batch.ready')} GROUP BY bucket"))
    came = lake.all(
        f"SELECT bucket, count(*), epoch_ms(max(appended_at)) FROM {table_of('examples')} WHERE {event('example.rewarded')} "
        "GROUP BY bucket ORDER BY 3 DESC, 1"
    )
    rows = [
        _summary(name, count, last, batches.get(name, 0), served.get(name), known, policy, manifest)[0]
        for name, count, last in came
        if name is not None
    ]
    there = {row.bucket for row in rows}
    rows += [
        _summary(name, 0, None, batches.get(name, 0), served.get(name), known, policy, manifest)[0]
        for name in sorted(known.keys() - there)
    ]
    return BucketList(rows=rows, state_known=bool(known))


def bucket_view(lake: LakeQuery, manifest: Manifest, status: Mapping[str, Any] | None, name: str) -> BucketView | None:
    """One bucket; None where nothing is known of it."""
    known = _recorded(status)
    [(count, last)] = lake.all(
        f"SELECT count(*), epoch_ms(max(appended_at)) FROM {table_of('examples')} WHERE {event('example.rewarded')} "
        "AND bucket = $bucket",
        {"bucket": name},
    )
    cut = batch_list(lake, name, page=SHOWN)
    if not count and name not in known and not cut.rows:
        return None
    [(batches,)] = lake.all(
        f"SELECT count(*) FROM {table_of('batches')} WHERE {event('batch.ready')} AND bucket = $bucket", {"bucket": name}
    )
    releases = release_list(lake, name, page=SHOWN)
    served = next(iter(releases.served), None)
    summary, assessment = _summary(name, count, last, batches, served, known, curate_policy(lake), manifest)
    rows = newest_rows(lake, ExampleFilter(bucket=name), NEWEST)
    reasons, rejected = _reasons(lake, name)
    return BucketView(
        summary=summary,
        assessment=assessment,
        assessed_from="" if assessment is None else "curate's state, as headrace status reads it",
        looked_at=len(rows),
        trend=trend_of(rows),
        difficulty=histogram([row.difficulty for row in rows]),
        agents=_shares(rows, lambda row: [row.agent]),
        raters=_shares(rows, lambda row: row.principals),
        rejections=reasons,
        rejected=rejected,
        batches=cut.rows,
        releases=releases.rows,
    )


def curate_policy(lake: LakeQuery) -> CuratePolicy | None:
    """The newest that curate was told to decide by; None where the lake has none that this code reads."""
    told = recorded(lake, "rules", f"{event('rules.activated')} AND starts_with(key, 'curate/')", limit=1, newest=True)
    for each in told:
        if isinstance(each.event, RulesActivated) and each.event.data.version in STAGE["curate"].versions:
            rules = STAGE["curate"].versions[each.event.data.version]
            try:
                return CuratePolicy.model_validate({**rules.absent, **each.event.data.body})
            except ValueError:
                return None
    return None


def trend_of(rows: Sequence[ExampleRow], points: int = TREND) -> list[TrendPoint]:
    """Means over runs of revisions of about equal length, oldest first; `rows` are newest first."""
    ordered = list(reversed(rows))
    size = max(1, -(-len(ordered) // points))
    return [
        TrendPoint(
            appended_ms=some[-1].appended_ms,
            revisions=len(some),
            reward=statistics.fmean(row.reward for row in some),
            quality=statistics.fmean(row.quality for row in some),
        )
        for start in range(0, len(ordered), size)
        if (some := ordered[start : start + size])
    ]


def _recorded(status: Mapping[str, Any] | None) -> dict[str, CurateBucket]:
    """Buckets by name, as curate's state has them."""
    listed = [] if status is None else status.get("buckets") or []
    return {row["bucket"]: msgspec.convert(row["recorded"], CurateBucket) for row in listed if row.get("recorded") is not None}


def _summary(
    name: str,
    examples: int,
    last_ms: int | None,
    batches: int,
    served: ReleaseRow | None,
    known: Mapping[str, CurateBucket],
    policy: CuratePolicy | None,
    manifest: Manifest,
) -> tuple[BucketSummary, ConditionNode | None]:
    bucket = known.get(name)
    if bucket is None:
        return BucketSummary(bucket=name, examples=examples, last_ms=last_ms, batches=batches, served=served), None
    rate, judged = bucket.success_rate(policy.decay_per_day if policy is not None else 1.0)
    fields: dict[str, Any] = {}
    tree: ConditionNode | None = None
    if policy is not None:
        now_ms = max((segment.last_ms for segment in manifest.of("examples")), default=last_ms or 0)
        assessment = assess(policy, bucket, now_ms, median=_median(known, name, manifest, now_ms))
        tree = joined("it is cut", [_node(condition) for condition in assessment.conditions])
        waits = [condition.name for condition in assessment.open_conditions]
        fields = {"wanted": assessment.wanted, "waits_for": waits}
        if not waits:
            fields["note"] = "every condition holds: it is looked at with its next example"
    summary = BucketSummary(
        bucket=name,
        examples=examples,
        last_ms=last_ms,
        batches=max(batches, bucket.batches),
        served=served,
        fill=bucket.fill,
        target=bucket.target,
        opened_ms=bucket.opened_ms,
        open_examples=bucket.train.size,
        negatives=bucket.negative.size,
        test_rows=bucket.test.size,
        success_rate=rate,
        judged=judged,
        **fields,
    )
    return summary, tree


def _median(known: Mapping[str, CurateBucket], name: str, manifest: Manifest, now_ms: int) -> float:
    """Examples that the median bucket of the same partition got of late, among those that got any."""
    count = len(manifest.partitions("examples")) or 1
    own, day = partition_for(name.encode(), count), now_ms // DAY_MS
    beside = [bucket for other, bucket in known.items() if partition_for(other.encode(), count) == own]
    got = [some for bucket in beside if (some := bucket.admitted_since(day - RECENT_DAYS))]
    return float(statistics.median(got or [0]))


def _node(condition: CutCondition) -> ConditionNode:
    return ConditionNode(
        name=condition.name,
        holds=condition.holds,
        value=condition.value,
        bound=condition.bound,
        since_ms=condition.since_ms,
        note=condition.note,
        policy_key=None if condition.policy_key is None else f"curate.{condition.policy_key}",
        needs="any" if condition.parts else "all",
        parts=[_node(part) for part in condition.parts],
    )


def _reasons(lake: LakeQuery, bucket: str) -> tuple[list[ReasonCount], int]:
    places = lake.all(
        f"SELECT partition, log_offset FROM {table_of('rejections')} WHERE {event('example.rejected')} AND bucket = $bucket "
        f"ORDER BY appended_at DESC, partition DESC, log_offset DESC LIMIT {REJECTED}",
        {"bucket": bucket},
    )
    if not places:
        return [], 0
    lake.keep("looked", [("rejections", *row) for row in places])
    rows = lake.all(
        "SELECT epoch_ms(r.appended_at), try(json_extract_string(r.value, ['$.data.reason', '$.data.rule'])) "
        f"FROM {table_of('rejections')} r JOIN looked l ON l.partition = r.partition AND l.log_offset = r.log_offset "
        "WHERE r.log_offset BETWEEN $first AND $last ORDER BY r.appended_at, r.partition, r.log_offset",
        {"first": min(row[1] for row in places), "last": max(row[1] for row in places)},
    )
    counts: Counter[str] = Counter()
    newest: dict[str, tuple[str, int]] = {}
    for appended_ms, said in rows:
        if said is not None and said[0] is not None:
            counts[said[0]] += 1
            newest[said[0]] = said[1] or "", appended_ms
    found = [
        ReasonCount(reason=reason, rule=newest[reason][0], times=times, last_ms=newest[reason][1])
        for reason, times in counts.most_common()
    ]
    return found, len(rows)


def _shares(rows: Sequence[ExampleRow], names: Callable[[ExampleRow], Sequence[str]]) -> list[NamedShare]:
    rewards: dict[str, list[float]] = {}
    for row in rows:
        for name in names(row):
            rewards.setdefault(name, []).append(row.reward)
    ordered = sorted(rewards.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        NamedShare(name=name, revisions=len(values), share=len(values) / len(rows), reward=statistics.fmean(values))
        for name, values in ordered[:SHOWN]
    ]
