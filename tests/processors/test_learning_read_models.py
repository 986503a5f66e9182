"""Batches, runs, versions, releases, requirements and buckets as read models: what they say is what the events say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_lake.manifest import LakeFolder, Manifest
from headrace_lake.query import LakeQuery, opened
from headrace_lake.read_models.batch_list import batch_list, batch_view, histogram
from headrace_lake.read_models.bucket_view import bucket_list, bucket_view, trend_of
from headrace_lake.read_models.conditions import ConditionNode, joined
from headrace_lake.read_models.example_list import ExampleFilter, newest_rows
from headrace_lake.read_models.lineage_view import lineage_view
from headrace_lake.read_models.paging import PageCursor
from headrace_lake.read_models.recorded import recorded, rules_of_task
from headrace_lake.read_models.release_view import release_list, release_view
from headrace_lake.read_models.requirement_view import requirement_list
from headrace_lake.read_models.run_view import RunPoint, run_list, run_view, thinned
from headrace_lake.read_models.version_view import version_list, version_view
from headrace_lake.views import event
from headrace_processors.curate.policy import CuratePolicy
from headrace_schemas.canonical import digest
from headrace_schemas.codec import encode
from headrace_schemas.derived import RulesActivation
from headrace_schemas.events import BatchReady, ReleasePromoted, RulesActivated
from headrace_streams.runtime.provenance import origin_without_input
from headrace_streams.settings import Settings
from support.memory_ring import BUCKET, MemoryRing, buckets_of, lake_of


@pytest.fixture(scope="module")
def ring() -> MemoryRing:
    ring = MemoryRing(5)
    for _ in range(4):
        ring.round(22)
    return ring


@pytest.fixture(scope="module")
def manifest(folder: LakeFolder) -> Manifest:
    return folder.load()


@pytest.fixture(scope="module")
def status(ring: MemoryRing) -> dict[str, Any]:
    """The part of `headrace status --json` that is about buckets."""
    return {"buckets": buckets_of(ring.log)}


def batches(lake: LakeQuery) -> list[BatchReady]:
    return [each.event for each in recorded(lake, "batches", event("batch.ready")) if isinstance(each.event, BatchReady)]


def test_batches_are_listed_newest_first_page_by_page(lake: LakeQuery) -> None:
    whole = batch_list(lake)
    assert [row.row.batch_id for row in whole.rows] == [each.data.batch_id for each in reversed(batches(lake))]
    assert whole.below is None
    first = batch_list(lake, page=2)
    assert first.below is not None
    second = batch_list(lake, below=PageCursor.read(first.below), page=100)
    assert [*first.rows, *second.rows] == whole.rows
    assert {row.row.state for row in whole.rows} >= {"trained", "failed"}
    assert batch_list(lake, "sql/none").rows == []


def test_a_batch_counts_every_row_that_it_names(lake: LakeQuery) -> None:
    for cut in batches(lake):
        batch = cut.data
        view = batch_view(lake, batch.batch_id)
        assert view is not None
        named = [*batch.members, *batch.test_pool, *(batch.validation_pool or []), *(batch.prompts or [])]
        assert sum(pool.rows for pool in view.pools) == view.members_total == len(named)
        assert sum(view.difficulty) == len(batch.members)
        assert (view.summary.cause, view.summary.examples) == (batch.cause, batch.statistics.examples)
        assert view.runs
    assert batch_view(lake, "no such batch") is None


@given(st.lists(st.floats(0, 1)))
def test_a_histogram_has_every_value_once(values: list[float]) -> None:
    assert sum(histogram(values)) == len(values)


def test_runs_say_how_they_ended(lake: LakeQuery) -> None:
    rows = run_list(lake).rows
    assert {row.state for row in rows} == {"trained", "failed"}
    failed = next(row for row in rows if row.state == "failed")
    assert failed.error == "out of memory"
    view = run_view(lake, failed.run_id, [row.run_id for row in rows])
    assert view is not None
    assert view.attempts == ["attempt 3: out of memory"]
    assert view.pins["seed"] == 1
    assert failed.run_id not in view.siblings
    assert run_view(lake, "no such run") is None


@given(st.integers(0, 700), st.integers(2, 50))
def test_a_curve_that_is_thinned_keeps_its_ends(count: int, most: int) -> None:
    points = [RunPoint(step=step, attempt=1, phase="training", appended_ms=step, loss=1.0) for step in range(count)]
    kept = thinned(points, most)
    assert len(kept) == min(count, most)
    if count:
        assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert kept == sorted(kept, key=lambda point: point.step)


def test_a_version_shows_what_was_compared_and_the_gate_as_conditions(lake: LakeQuery, tmp_path: Path) -> None:
    rows = version_list(lake).rows
    assert {row.answer for row in rows} >= {"promoted"}
    for row in rows:
        view = version_view(lake, Settings(data_dir=tmp_path), row.version_id)
        assert view is not None
        assert view.summary == row
        assert view.gate is not None
        if row.answer == "promoted":
            assert view.gate.holds
        assert [part.name for part in view.gate.parts[0].parts] == [
            "enough test rows", "the gain in loss is sure", "more wins than losses",
        ]  # fmt: skip
        assert view.answers is not None
        assert view.answers.missing == "no samples were kept of this evaluation"
    assert version_view(lake, Settings(data_dir=tmp_path), "no such version") is None


def test_releases_are_a_chain_and_the_last_is_served(lake: LakeQuery) -> None:
    listed = release_list(lake)
    [served] = listed.served
    promoted = [row for row in listed.rows if row.kind == "promoted"]
    assert served.release_id == promoted[0].release_id
    assert [row.serves for row in promoted] == [True] + [False] * (len(promoted) - 1)
    for row in listed.rows:
        view = release_view(lake, row.release_id)
        assert view is not None
        assert view.row == row
        assert next(iter(view.text)) == "why"
        assert row.reason in view.text["why"]
        assert [each.release_id for each in view.chain] == [each.release_id for each in listed.rows]
        assert sum(each.answers for each in view.traffic) == view.looked_at
    newest = release_view(lake, served.release_id)
    assert newest is not None
    assert newest.text["what changed"].startswith("Version ")
    assert "before it release" in newest.text["chain"]
    assert release_view(lake, "no such release") is None


def test_requirements_say_since_when_they_hold_and_who_moved_them(lake: LakeQuery) -> None:
    releases = {
        each.event.data.release_id
        for each in recorded(lake, "releases.history", "true")
        if isinstance(each.event, ReleasePromoted)
    }
    for bucket in requirement_list(lake).buckets:
        assert bucket.bucket == BUCKET
        assert bucket.release_id in releases
        assert bucket.satisfied == (bool(bucket.rows) and all(row.satisfied for row in bucket.rows))
        for row in bucket.rows:
            assert row.moved_by in releases
            assert row.history[-1].satisfied == row.satisfied
            assert row.since_ms <= row.history[-1].appended_ms


def test_a_bucket_says_why_it_is_not_cut_yet(lake: LakeQuery, manifest: Manifest, status: dict[str, Any]) -> None:
    listed = bucket_list(lake, manifest, status)
    assert listed.state_known
    [row] = [row for row in listed.rows if row.bucket == BUCKET]
    [described] = [bucket for bucket in status["buckets"] if bucket["bucket"] == BUCKET]
    assert (row.fill, row.target, row.batches) == (described["fill"], described["target"], described["batches"])
    view = bucket_view(lake, manifest, status, BUCKET)
    assert view is not None
    assert view.summary == row
    assert view.assessment is not None
    broken = [part.name for part in view.assessment.parts if part.holds is False]
    assert broken == row.waits_for
    assert sum(view.difficulty) == view.looked_at == sum(point.revisions for point in view.trend)
    assert sum(share.revisions for share in view.agents) == view.looked_at
    assert sum(reason.times for reason in view.rejections) == view.rejected
    assert bucket_view(lake, manifest, status, "sql/none") is None


def test_many_buckets_are_listed_page_by_page(lake: LakeQuery, manifest: Manifest, status: dict[str, Any]) -> None:
    others = [
        {**bucket, "bucket": f"sql/other-{number}", "recorded": {**bucket["recorded"], "name": f"sql/other-{number}"}}
        for bucket in status["buckets"]
        for number in range(3)
    ]
    many = {"buckets": [*status["buckets"], *others]}
    shown, start = [], 0
    while True:
        page = bucket_list(lake, manifest, many, start, page=2)
        assert page.total == 4
        shown += [row.bucket for row in page.rows]
        if page.further is None:
            break
        start = page.further
    assert shown == [BUCKET, "sql/other-0", "sql/other-1", "sql/other-2"]
    every = requirement_list(lake)
    assert (every.further, every.total) == (None, len(every.buckets))
    assert [each.bucket for each in requirement_list(lake, page=1).buckets] == [each.bucket for each in every.buckets[:1]]
    assert requirement_list(lake, every.total).buckets == []


def test_rules_of_a_task_are_the_last_before_what_they_decided(tmp_path: Path) -> None:
    ring = MemoryRing(5)
    for version, offset in enumerate((0, 4, 9)):
        body = {**CuratePolicy().body(), "target_effective_size": 20.0 + version}
        data = RulesActivation(
            stage="curate", topic="examples", partition=0, from_offset=offset, version=1, digest=digest(body), body=body
        )
        told = RulesActivated(specversion="1.0", id=f"rules-{offset}", source="headrace:curate", data=data)
        ring.log.append("rules", 0, b"curate/examples/0", encode(told), origin_without_input("curate.rules"))
    with opened(lake_of(ring.log, tmp_path / "lake")) as lake:
        for offset, expected in ((0, [0]), (8, [0, 4]), (9, [0, 4, 9])):
            found = rules_of_task(lake, "curate", "examples", 0, offset)
            assert [each.activation.from_offset for each in found] == expected
        (last,) = rules_of_task(lake, "curate", "examples", 0, 8, most=1)
        assert last.activation.from_offset == 4


def test_a_bucket_is_shown_where_its_state_is_not_known(lake: LakeQuery, manifest: Manifest) -> None:
    listed = bucket_list(lake, manifest, None)
    assert not listed.state_known
    assert [row.bucket for row in listed.rows] == [BUCKET]
    view = bucket_view(lake, manifest, None, BUCKET)
    assert view is not None
    assert view.summary.target is None
    assert view.summary.served is not None
    said = view.history[0]  # then what curate said last stands in
    assert view.assessment is not None
    assert view.assessment.note == said.place
    assert (view.summary.fill, view.summary.waits_for) == (said.fill, said.waits_for)
    assert {moment.batch_id for moment in view.history} - {None} <= {batch.row.batch_id for batch in view.batches}


def test_a_trend_has_every_revision_oldest_first(lake: LakeQuery) -> None:
    rows = newest_rows(lake, ExampleFilter(), 1000)
    trend = trend_of(rows, 7)
    assert len(trend) <= 7
    assert sum(point.revisions for point in trend) == len(rows)
    assert [point.appended_ms for point in trend] == sorted(point.appended_ms for point in trend)


@pytest.mark.parametrize(
    ("needs", "holds", "expected"),
    [
        ("all", [True, None, True], True), ("all", [True, False], False), ("any", [False, None], False),
        ("any", [False, True], True), ("none", [False, None], True), ("none", [True], False),
    ],
)  # fmt: skip
def test_a_condition_of_others_holds_by_those_that_were_asked(needs: Any, holds: list[bool | None], expected: bool) -> None:
    assert joined("all of it", [ConditionNode(name="one", holds=each) for each in holds], needs).holds is expected


def test_lineage_is_what_explain_prints(lake: LakeQuery) -> None:
    release = release_list(lake).served[0].release_id
    both = lineage_view(lake, release, up=False)
    assert both is not None
    view, found = both
    assert {record.kind for record in view.records} >= {"release", "version", "batch", "example", "signal", "published"}
    assert len(view.edges) == len(found.edges)
    assert lineage_view(lake, "no such id", up=True) is None
