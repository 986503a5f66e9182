"""Buckets: fill against target, why each is not cut yet, and what has come to it of late. Knows the lake, and curate's state as
`headrace status` says it.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from headrace_lake.lineage import RecordPlace
from headrace_lake.manifest import Manifest
from headrace_lake.query import LakeQuery
from headrace_lake.read_models.batch_list import BatchSummary, batch_list, histogram
from headrace_lake.read_models.bucket_conditions import BucketConditions, conditions_now, conditions_told
from headrace_lake.read_models.conditions import ConditionNode
from headrace_lake.read_models.example_list import ExampleFilter, ExampleRow, newest_rows
from headrace_lake.read_models.recorded import STAGE, places_where, read_at, recorded, recorded_at
from headrace_lake.read_models.release_view import ReleaseRow, release_list, served_now
from headrace_lake.views import event, table_of
from headrace_processors.curate.policy import CuratePolicy
from headrace_processors.curate.state import CurateBucket
from headrace_processors.curate.thresholds import RECENT_DAYS
from headrace_schemas.derived import Assessment
from headrace_schemas.events import BucketAssessed, RulesActivated
from headrace_schemas.topics import DAY_MS
from headrace_streams.kafka.partitioner import partition_for

BUCKETS = 100  # of a page
NEWEST = 1_000  # revisions of a bucket, that trends and shares are of
REJECTED = 5_000  # rejections of a bucket, the newest, that are counted
TREND = 40  # points of a trend
SHOWN = 12
HISTORY = 40  # of what curate said of a bucket, the newest


class AssessmentMoment(Struct, frozen=True, kw_only=True):
    """What curate said of a bucket once: at a cut (then `batch_id`), or when a condition had changed."""

    place: str
    appended_ms: int
    batch_id: str | None
    fill: float | None
    wanted: float | None
    lowered_by: str | None
    waits_for: list[str]


class _Told(NamedTuple):
    said: Assessment
    place: RecordPlace


class _Known(NamedTuple):
    """What is known of all buckets: curate's state where it was asked, what curate said last, the policy, the cut, and by
    partition how many examples its median bucket got of late."""

    state: Mapping[str, CurateBucket]
    told: Mapping[str, _Told]
    policy: CuratePolicy | None
    partitions: int
    now_ms: int
    medians: Mapping[int, float]


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
    """One page of the `total` buckets that an example ever came to. `state_known`: fills are there; else `headrace status` could
    not be asked. `start`: how many come before; `further`: where the next page starts, None at the end."""

    rows: list[BucketSummary]
    state_known: bool
    total: int
    start: int
    further: int | None


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
    """One bucket. `assessment`: why it is not cut yet, and `history` what curate said of that, newest first; trend, difficulty
    and shares are of the `looked_at` newest revisions."""

    summary: BucketSummary
    assessment: ConditionNode | None
    assessed_from: str
    history: list[AssessmentMoment]
    looked_at: int
    trend: list[TrendPoint]
    difficulty: list[int]
    agents: list[NamedShare]
    raters: list[NamedShare]
    rejections: list[ReasonCount]
    rejected: int
    batches: list[BatchSummary]
    releases: list[ReleaseRow]


def bucket_list(
    lake: LakeQuery, manifest: Manifest, status: Mapping[str, Any] | None, start: int = 0, *, page: int = BUCKETS
) -> BucketList:
    """Buckets, those with the newest examples first, `page` of them behind the first `start`."""
    served = served_now(lake)
    batches = dict(lake.all(f"SELECT bucket, count(*) FROM {table_of('batches')} WHERE {event('batch.ready')} GROUP BY bucket"))
    came = lake.all(
        f"SELECT bucket, count(*), epoch_ms(max(appended_at)) FROM {table_of('examples')} WHERE {event('example.rewarded')} "
        "GROUP BY bucket ORDER BY 3 DESC, 1"
    )
    there = {name: (count, last) for name, count, last in came if name is not None}
    state = _recorded(status)
    there |= {name: (0, None) for name in sorted(state.keys() - there.keys())}
    shown = list(there.items())[start : start + page]
    known = _known(lake, manifest, state, [name for name, _ in shown])
    return BucketList(
        rows=[_summary(name, count, last, batches.get(name, 0), served.get(name), known)[0] for name, (count, last) in shown],
        state_known=bool(state),
        total=len(there),
        start=start,
        further=start + page if start + page < len(there) else None,
    )


def bucket_view(lake: LakeQuery, manifest: Manifest, status: Mapping[str, Any] | None, name: str) -> BucketView | None:
    """One bucket; None where nothing is known of it."""
    known = _known(lake, manifest, _recorded(status), [name])
    [(count, last)] = lake.all(
        f"SELECT count(*), epoch_ms(max(appended_at)) FROM {table_of('examples')} WHERE {event('example.rewarded')} "
        "AND bucket = $bucket",
        {"bucket": name},
    )
    cut = batch_list(lake, name, page=SHOWN)
    if not count and name not in known.state and not cut.rows:
        return None
    [(batches,)] = lake.all(
        f"SELECT count(*) FROM {table_of('batches')} WHERE {event('batch.ready')} AND bucket = $bucket", {"bucket": name}
    )
    releases = release_list(lake, name, page=SHOWN)
    served = next(iter(releases.served), None)
    summary, found = _summary(name, count, last, batches, served, known)
    rows = newest_rows(lake, ExampleFilter(bucket=name), NEWEST)
    reasons, rejected = _reasons(lake, name)
    source = (
        "" if found is None else "what curate said last" if found.tree.note else "curate's state, as headrace status reads it"
    )
    return BucketView(
        summary=summary,
        assessment=None if found is None else found.tree,
        assessed_from=source,
        history=_history(lake, name),
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


def _known(lake: LakeQuery, manifest: Manifest, state: Mapping[str, CurateBucket], names: Sequence[str]) -> _Known:
    """What was said last is looked up for the buckets of these names."""
    places = lake.all(
        f"SELECT partition, max(log_offset) FROM {table_of('assessments')} WHERE {event('bucket.assessed')} "
        "AND list_contains($names, bucket) GROUP BY partition, bucket",
        {"names": list(names)},
    )
    said = recorded_at(lake, "assessments", [RecordPlace("assessments", *row) for row in places])
    told = {each.event.data.bucket: _Told(each.event.data, each.place) for each in said if isinstance(each.event, BucketAssessed)}
    now_ms = max((segment.last_ms for segment in manifest.of("examples")), default=0)
    partitions = len(manifest.partitions("examples")) or 1
    return _Known(state, told, curate_policy(lake), partitions, now_ms, _medians(state, partitions, now_ms))


def _history(lake: LakeQuery, bucket: str) -> list[AssessmentMoment]:
    said = recorded(
        lake, "assessments", f"{event('bucket.assessed')} AND bucket = $bucket", {"bucket": bucket}, limit=HISTORY, newest=True
    )
    moments: list[AssessmentMoment] = []
    for each in reversed(said):
        if isinstance(each.event, BucketAssessed):
            found = conditions_told(each.event.data)
            figures = {one.name: one.value for one in each.event.data.conditions}
            moments.append(
                AssessmentMoment(
                    place=str(each.place),
                    appended_ms=each.appended_ms,
                    batch_id=each.event.data.batch_id,
                    fill=figures.get("fill"),
                    wanted=found.wanted,
                    lowered_by=each.event.data.lowered_by,
                    waits_for=found.waits_for,
                )
            )
    return moments


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
    known: _Known,
) -> tuple[BucketSummary, BucketConditions | None]:
    """From curate's state where it is known, else from what it said last."""
    bucket, policy, told = known.state.get(name), known.policy, known.told.get(name)
    figures: dict[str, Any] = {}
    found: BucketConditions | None = None
    if bucket is not None:
        rate, judged = bucket.success_rate(policy.decay_per_day if policy is not None else 1.0)
        figures = {
            "fill": bucket.fill, "target": bucket.target, "opened_ms": bucket.opened_ms, "open_examples": bucket.train.size,
            "negatives": bucket.negative.size, "test_rows": bucket.test.size, "success_rate": rate, "judged": judged,
        }  # fmt: skip
        batches = max(batches, bucket.batches)
        if policy is not None:
            median = known.medians.get(partition_for(name.encode(), known.partitions), 0.0)
            found = conditions_now(policy, bucket, known.now_ms, median=median, told=None if told is None else told.said)
    elif told is not None:
        found = conditions_told(told.said, str(told.place))
        values = {one.name: one.value for one in told.said.conditions}
        figures = {"fill": values.get("fill"), "success_rate": values.get("not_good_enough"), "judged": told.said.evidence}
    if found is not None:
        was_cut = bucket is None and told is not None and told.said.batch_id is not None
        ready = "every condition that is known holds: it is looked at with its next example"
        note = "" if found.waits_for else "it was cut then, and curate has said nothing of it since" if was_cut else ready
        figures |= {"wanted": found.wanted, "waits_for": found.waits_for, "note": note}
    return BucketSummary(bucket=name, examples=examples, last_ms=last_ms, batches=batches, served=served, **figures), found


def _medians(state: Mapping[str, CurateBucket], count: int, now_ms: int) -> dict[int, float]:
    """By partition, examples that its median bucket got of late, among those that got any."""
    got: dict[int, list[int]] = {}
    for name, bucket in state.items():
        if some := bucket.admitted_since(now_ms // DAY_MS - RECENT_DAYS):
            got.setdefault(partition_for(name.encode(), count), []).append(some)
    return {partition: float(statistics.median(counts)) for partition, counts in got.items()}


def _reasons(lake: LakeQuery, bucket: str) -> tuple[list[ReasonCount], int]:
    where = f"{event('example.rejected')} AND bucket = $bucket"
    rows = read_at(
        lake,
        "rejections",
        places_where(lake, "rejections", where, {"bucket": bucket}, limit=REJECTED),
        "epoch_ms(t.appended_at), try(json_extract_string(t.value, ['$.data.reason', '$.data.rule']))",
        "ORDER BY t.appended_at, t.partition, t.log_offset",
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
