"""Requirements by bucket: what is asked for, what it is now, since when it is met, which release moved it. Knows what release has
told curate of what is served.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from headrace_lake.query import LakeQuery
from headrace_lake.read_models.recorded import RecordedEvent, recorded
from headrace_lake.views import event, table_of
from headrace_schemas.derived import Requirement, Tracking
from headrace_schemas.events import RequirementsTracked

TRACKED, BUCKETS = 2000, 50  # answers that a page is of, at most, and buckets


class RequirementMoment(Struct, frozen=True, kw_only=True):
    """A requirement under one release."""

    release_id: str
    appended_ms: int
    place: str
    current: float | None
    target: float
    satisfied: bool


class RequirementRow(Struct, frozen=True, kw_only=True):
    """A requirement of a bucket as what is served meets it. `since_ms`: from when on it has been met, or not, without a break;
    `moved_by`: the release that last changed whether it is; `history` in the order of releases."""

    bucket: str
    name: str
    metric: str
    direction: str
    target: float
    current: float | None
    satisfied: bool
    release_id: str
    since_ms: int
    moved_by: str
    history: list[RequirementMoment]


class RequirementBucket(Struct, frozen=True, kw_only=True):
    """A bucket whose release was told of. `satisfied`: all requirements are met, so that nothing more is cut."""

    bucket: str
    release_id: str
    satisfied: bool
    rows: list[RequirementRow]


class RequirementList(Struct, frozen=True, kw_only=True):
    """One page of the `total` buckets of which something was served, by name. `further`: where the next page starts."""

    buckets: list[RequirementBucket]
    total: int
    start: int
    further: int | None


def requirement_list(lake: LakeQuery, start: int = 0, *, page: int = BUCKETS) -> RequirementList:
    """Requirements of buckets at the lake's cut, `page` of them behind the first `start`."""
    tracked = event("requirements.tracked")
    rows = lake.all(f"SELECT DISTINCT bucket FROM {table_of('examples')} WHERE {tracked} AND bucket IS NOT NULL ORDER BY bucket")
    names = [name for (name,) in rows][start : start + page]
    where = f"{tracked} AND list_contains($names, bucket)"
    told = recorded(lake, "examples", where, {"names": names}, limit=TRACKED, newest=True) if names else []
    by_bucket: dict[str, list[RecordedEvent]] = {}
    for each in told:
        if isinstance(each.event, RequirementsTracked):
            by_bucket.setdefault(each.event.data.bucket, []).append(each)
    return RequirementList(
        buckets=[_bucket(name, events) for name, events in sorted(by_bucket.items())],
        total=len(rows),
        start=start,
        further=start + page if start + page < len(rows) else None,
    )


def _tracking(record: RecordedEvent) -> Tracking:
    assert isinstance(record.event, RequirementsTracked)
    return record.event.data


def _bucket(name: str, told: Sequence[RecordedEvent]) -> RequirementBucket:
    newest = _tracking(told[-1])
    return RequirementBucket(
        bucket=name,
        release_id=newest.release_id,
        satisfied=newest.satisfied,
        rows=[_row(name, requirement, newest.release_id, told) for requirement in newest.requirements],
    )


def _row(bucket: str, requirement: Requirement, release_id: str, told: Sequence[RecordedEvent]) -> RequirementRow:
    history = [
        RequirementMoment(
            release_id=_tracking(each).release_id,
            appended_ms=each.appended_ms,
            place=str(each.place),
            current=one.current,
            target=one.target,
            satisfied=one.satisfied,
        )
        for each in told
        for one in _tracking(each).requirements
        if one.name == requirement.name
    ]
    moved = history[-1]
    for moment in reversed(history):
        if moment.satisfied != requirement.satisfied:
            break
        moved = moment
    return RequirementRow(
        bucket=bucket,
        name=requirement.name,
        metric=requirement.metric,
        direction=requirement.direction,
        target=requirement.target,
        current=requirement.current,
        satisfied=requirement.satisfied,
        release_id=release_id,
        since_ms=moved.appended_ms,
        moved_by=moved.release_id,
        history=history,
    )
