"""Why a bucket is not cut yet: over the recorded histories, what was looked at and not cut has a condition that does not hold,
and what was cut had the fill that the conditions say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from headrace_lake.read_models.bucket_conditions import BucketConditions, conditions_now, conditions_told
from headrace_processors.curate.policy import CuratePolicy
from headrace_processors.curate.state import CurateBucket, CurateState, QueueBounds
from headrace_processors.stages import STAGES
from headrace_schemas.codec import decode
from headrace_schemas.derived import Assessment
from headrace_schemas.events import BatchReady, BucketAssessed
from headrace_schemas.topics import DAY_MS
from headrace_streams.runtime.fold_runner import FoldRunner
from support import histories
from support.histories import FOLDER, path_of, unpack

CURATE = next(stage for stage in STAGES if stage.name == "curate")
FILES = [pytest.param(path, id=path.stem) for path in sorted(FOLDER.glob("curate.v*.jsonl"))]


def steps(path: Path) -> Iterator[tuple[CuratePolicy, FoldRunner, list[BatchReady]]]:
    for policy, runner, cut, _ in steps_and_assessments(path):
        yield policy, runner, cut


def steps_and_assessments(path: Path) -> Iterator[tuple[CuratePolicy, FoldRunner, list[BatchReady], list[Assessment]]]:
    """After every record of a history: the policy, the runner with its state, what was cut, and what was said of buckets."""
    for line, runner in histories.folded(histories.read(path), CURATE):
        fold: Any = runner.fold
        cut = [decode(unpack(output.value)) for output in line.outputs if output.topic == "batches"]
        said = [decode(unpack(output.value)) for output in line.outputs if output.topic == "assessments"]
        assessments = [each.data for each in said if isinstance(each, BucketAssessed)]
        yield fold._rules.policy, runner, [each for each in cut if isinstance(each, BatchReady)], assessments


def buckets(runner: FoldRunner) -> list[CurateBucket]:
    return [value for key, value in runner.state.items() if key.startswith("bucket:")]


def assessed(policy: CuratePolicy, runner: FoldRunner, bucket: CurateBucket) -> BucketConditions:
    median = CurateState(runner.state).median(runner.now // DAY_MS)
    return conditions_now(policy, bucket, runner.now, median=median)


@pytest.mark.parametrize("path", FILES)
def test_what_was_looked_at_and_not_cut_has_a_condition_that_does_not_hold(path: Path) -> None:
    waited, before = 0, dict[str, CurateBucket]()
    for policy, runner, _ in steps(path):
        for bucket in buckets(runner):
            found = assessed(policy, runner, bucket)
            known = before.get(bucket.name)
            came = known is not None and bucket.train.next > known.train.next  # what leaves is no occasion to look at it
            if came and not found.waits_for:
                assert bucket.batches, bucket.name
                assert policy.fresh_share, f"{bucket.name} was not cut, and nothing stands in its way"
            waited += bool(found.waits_for)
        before = {bucket.name: bucket for bucket in buckets(runner)}
    assert waited > 100


@pytest.mark.parametrize("path", FILES)
def test_what_was_cut_was_wanted_at_the_fill_that_its_manifest_says(path: Path) -> None:
    before: dict[str, CurateBucket] = {}
    causes = set()
    for policy, runner, cut in steps(path):
        for batch in (each.data for each in cut):
            causes.add(batch.cause)
            bucket = before.get(batch.bucket)
            if batch.cause == "target" and bucket is not None and bucket.opened_ms is not None:
                assert assessed(policy, runner, bucket).tree.parts[1].parts[0].bound == bucket.target
                assert batch.target <= bucket.target
        before = {bucket.name: bucket for bucket in buckets(runner)}
    assert "target" in causes


def test_a_bucket_that_fills_says_what_it_waits_for() -> None:
    policy = CuratePolicy(min_test_pool=5)
    bucket = CurateBucket(
        "sql/tiny", fill=12.5, target=64.0, opened_ms=1000, train=QueueBounds(0, 13, 13), test=QueueBounds(0, 2, 2)
    )
    found = conditions_now(policy, bucket, DAY_MS)
    assert found.waits_for == ["it is full enough", "there are enough test rows"]
    full = found.tree.parts[1]
    assert (full.value, full.bound, found.wanted, found.cause) == (12.5, 64.0, 64.0, "target")
    assert [part.name for part in full.parts][:2] == ["its target", "less, as it is old"]
    assert found.tree.parts[0].since_ms == 1000


def test_an_aged_bucket_needs_less() -> None:
    bucket = CurateBucket("sql/tiny", fill=21.0, target=64.0, opened_ms=0, aged=True, train=QueueBounds(0, 21, 21))
    found = conditions_now(CuratePolicy(min_test_pool=5), bucket, 8 * DAY_MS)
    assert not found.waits_for
    assert (found.wanted, found.cause) == (20.0, "age")
    assert conditions_now(CuratePolicy(), replace(bucket, satisfied=True), 0).waits_for == ["what is served misses a requirement"]


def test_a_bucket_whose_base_nobody_names_says_so() -> None:
    bucket = CurateBucket("sql/tiny", train=QueueBounds(0, 3, 3))
    first = conditions_now(CuratePolicy(bases=("other",)), bucket, 0).tree.parts[0]
    assert first.holds is False
    assert first.policy_key == "curate.bases"
    assert first.note.startswith("no policy and no release names its base")


def test_what_curate_said_last_is_what_its_state_says_and_since_when() -> None:
    """At every assessment of the history, but for what only a look at all members knows."""
    compared = 0
    for policy, runner, _, said in steps_and_assessments(path_of("curate", CURATE.version)):
        for assessment in said:
            if assessment.batch_id is not None:  # the bucket was emptied by the same step
                continue
            bucket = next(each for each in buckets(runner) if each.name == assessment.bucket)
            told, now = conditions_told(assessment), conditions_now(policy, bucket, runner.now, told=assessment)
            holds = {part.name: part.holds for part in told.tree.parts}
            assert holds["it is open"] == now.tree.parts[0].holds
            assert holds["it is full enough"] == now.tree.parts[1].holds or now.cause != told.cause
            since = {part.name: part.since_ms for part in now.tree.parts}
            assert since["it is full enough"] is not None
            compared += 1
    assert compared > 5
