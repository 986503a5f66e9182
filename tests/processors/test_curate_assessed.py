"""Why a bucket is not cut yet, as curate says it: conditions with value, bound and since when, at every cut and now and then."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from headrace_schemas.codec import encode
from headrace_schemas.derived import AssessedCondition, Assessment
from headrace_schemas.events import BatchReady, BucketAssessed
from headrace_schemas.times import parse_ns, rfc3339
from support.examples import BUCKET, DAY_MS, CurateRun, rewarded, tracked
from support.signals import START_MS, events_on

MINUTE_MS = 60_000


def assessments(run: CurateRun) -> list[Assessment]:
    return [event.data for event in events_on(run.outputs, "assessments") if isinstance(event, BucketAssessed)]


def tick(run: CurateRun) -> bytes:
    """What the task writes when the first deadline has passed."""
    now = START_MS + round(run.days * DAY_MS)
    due = [key for key, at in run.fold.deadlines(run.state).items() if at <= now]
    (write,) = run.fold.overdue(run.state, due, now)
    return encode(write.value) if not isinstance(write.value, bytes) else write.value


def of(assessment: Assessment, name: str) -> AssessedCondition:
    (found,) = (condition for condition in assessment.conditions if condition.name == name)
    return found


def fed_at(run: CurateRun, minute: float, *values: bytes) -> None:
    run.days = (round(minute * MINUTE_MS) + 0.5) / DAY_MS
    run.feed(*values)


def test_a_cut_says_what_was_met_and_which_batch_it_was() -> None:
    run = CurateRun(target_effective_size=8)
    run.feed(*(rewarded(number) for number in range(8)))
    first, cut = assessments(run)
    assert (first.batch_id, of(first, "fill").met) == (None, False)
    assert cut.batch_id == run.batches[0].batch_id
    assert all(condition.met for condition in cut.conditions)
    assert (of(cut, "fill").value, of(cut, "fill").bound) == (8.0, 8.0)
    assert of(cut, "train_side").met


def test_since_is_when_a_condition_changed_and_stays_while_it_holds() -> None:
    run = CurateRun(target_effective_size=100)
    fed_at(run, 0, rewarded(1))
    fed_at(run, 5, tracked(satisfied=True))
    fed_at(run, 90, *(rewarded(number) for number in range(2, 30)))
    start, after, later = assessments(run)
    assert of(start, "requirements") == AssessedCondition(name="requirements", met=True, since=rfc3339(START_MS))
    assert of(after, "requirements").met is False
    assert of(later, "requirements").since == of(after, "requirements").since == rfc3339(START_MS + 5 * MINUTE_MS)
    assert of(later, "opened").since == of(start, "opened").since


def test_a_bucket_that_is_full_and_not_cut_says_which_condition_it_waits_for() -> None:
    run = CurateRun(target_effective_size=4, min_test_pool=1)
    fed_at(run, 0, rewarded(1))
    fed_at(run, 2, *(rewarded(number) for number in range(2, 9)))
    assert run.fold.deadlines(run.state)[f"assessed:{BUCKET}"] == START_MS + 3 * MINUTE_MS
    run.days = 3.01 * MINUTE_MS / DAY_MS
    run.feed(tick(run))
    assert f"assessed:{BUCKET}" not in run.fold.deadlines(run.state)
    said = assessments(run)[-1]
    assert [condition.name for condition in said.conditions if not condition.met] == ["test_rows"]
    assert (of(said, "test_rows").value, of(said, "test_rows").bound) == (0.0, 1.0)
    assert run.batches == []


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(1, 6)), min_size=1, max_size=25))
def test_a_bucket_is_assessed_at_most_once_a_minute_and_at_every_cut(arrivals: list[tuple[int, int]]) -> None:
    run, number, seconds = CurateRun(target_effective_size=7), 0, 0
    for gap, count in arrivals:
        seconds += gap
        fed_at(run, seconds / 60, *(rewarded(number := number + 1) for _ in range(count)))
    events = [event for event in events_on(run.outputs, "assessments") if isinstance(event, BucketAssessed)]
    ready = [event.data.batch_id for event in events_on(run.outputs, "batches") if isinstance(event, BatchReady)]
    assert [event.data.batch_id for event in events if event.data.batch_id is not None] == ready
    between = [event for event in events if event.data.batch_id is None]
    times = [parse_ns(event.time or "") for event in between]
    assert all(later - earlier >= MINUTE_MS * 1_000_000 for earlier, later in pairwise(times))
    for event in events:
        assert parse_ns(event.time or "") >= max(parse_ns(found.since) for found in event.data.conditions if found.since)


def test_what_was_said_is_known_after_a_restart_and_goes_with_the_bucket() -> None:
    run = CurateRun(target_effective_size=100, keep_days=1, bases=[])
    fed_at(run, 0, rewarded(1, reward=0.0, correction=None))
    assert f"assessed:{BUCKET}" in run.dumped()
    restored = {key: run.fold.load(key, value) for key, value in run.dumped().items()}
    assert {key: run.fold.dump(key, value) for key, value in restored.items()} == run.dumped()
