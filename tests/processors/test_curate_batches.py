"""When a bucket is cut, what its manifest says, and what becomes of revisions before and after."""

from __future__ import annotations

import msgspec
import pytest

from headrace_processors.curate.manifest import batch_id
from headrace_processors.curate.policy import CuratePolicy
from headrace_processors.curate.state import describe_buckets
from headrace_processors.stages import STAGES
from headrace_schemas.canonical import sha256
from headrace_schemas.codec import encode
from headrace_schemas.derived import Locator, Weights
from headrace_streams.testing import MemoryTask
from support.examples import BUCKET, DAY_MS, CurateRun, day, rewarded, tick, tracked, withdrawn
from support.signals import START_MS

(CURATE,) = (stage for stage in STAGES if stage.name == "curate")


def negative(number: int, **changed: object) -> bytes:
    return rewarded(number, **{"correction": None, "reward": -0.4, **changed})


def test_a_bucket_is_cut_when_it_is_full_and_starts_anew() -> None:
    stage = CurateRun(target_effective_size=8)
    stage.feed(*(rewarded(number) for number in range(20)))
    assert [len(batch.members) for batch in stage.batches] == [8, 8]
    assert [(batch.cause, batch.target) for batch in stage.batches] == [("target", 8.0)] * 2
    assert (stage.bucket.fill, stage.bucket.batches, stage.bucket.admitted) == (4.0, 2, 20)


def test_a_closed_bucket_is_written_without_what_it_no_longer_has() -> None:
    stage = CurateRun(target_effective_size=2)
    stage.feed(rewarded(1), rewarded(2))
    stored = msgspec.msgpack.decode(stage.dumped()[f"bucket:{BUCKET}"])
    assert not {"fill", "opened_ms", "aged", "removals"} & stored.keys()


def test_a_batch_names_the_policy_by_the_digest_of_its_body_as_recorded() -> None:
    stage = CurateRun(target_effective_size=2, recorded=sha256(b"a body of another year"))
    stage.feed(rewarded(1), rewarded(2))
    assert stage.batches[0].policy_digests == {"curate": sha256(b"a body of another year")}


def test_the_default_target_is_an_effective_size_of_64() -> None:
    stage = CurateRun()
    stage.feed(*(rewarded(number) for number in range(63)))
    assert stage.batches == []
    stage.feed(rewarded(63))
    assert len(stage.batches) == 1


def test_examples_of_one_hour_are_worth_their_number() -> None:
    stage = CurateRun()
    stage.feed(*(rewarded(number, event_time=day(number / 64 / 24)) for number in range(64)))
    assert len(stage.batches) == 1


def test_an_example_of_the_far_future_is_one_of_now() -> None:
    """Seen from 2099 the others were worth nothing: one event took a bucket's fill from 47 to 1."""
    stage = CurateRun()
    stage.feed(*(rewarded(number) for number in range(47)))
    stage.feed(rewarded(47, event_time="2099-01-01T00:00:00Z"))
    assert stage.bucket.fill == 48
    stage.feed(rewarded(48), withdrawn(47))
    assert stage.bucket.fill == 48


def test_a_bucket_may_have_its_own_target() -> None:
    stage = CurateRun(targets={BUCKET: 3})
    stage.feed(*(rewarded(number) for number in range(3)))
    assert len(stage.batches) == 1


def test_examples_of_different_age_are_worth_less_together() -> None:
    stage = CurateRun(target_effective_size=4, decay_floor=0.0)
    stage.feed(*(rewarded(number, event_time=day(-10 * number)) for number in range(4)))
    weights = [0.95 ** (10 * number) for number in range(4)]
    assert stage.bucket.fill == round(sum(weights) ** 2 / sum(weight**2 for weight in weights), 3)
    assert stage.batches == []


def test_negatives_and_test_rows_do_not_fill_but_negatives_come_along() -> None:
    stage = CurateRun(target_effective_size=2)
    stage.feed(
        *(negative(number) for number in range(5)), rewarded(5, split="test"), rewarded(6), rewarded(7, split="validation")
    )
    assert stage.batches == []
    stage.feed(rewarded(8))
    [batch] = stage.batches
    assert [row.role for row in batch.members] == ["train"] * 2 + ["negative"] * 5
    assert (batch.statistics.examples, batch.statistics.negatives) == (2, 5)
    assert (len(batch.test_pool), len(batch.validation_pool)) == (1, 1)


def test_a_bucket_with_nothing_in_the_train_split_waits() -> None:
    stage = CurateRun(target_effective_size=1)
    stage.feed(rewarded(1, split="validation"), negative(3))
    stage.days = 30.0
    stage.feed(tick())
    assert (stage.batches, stage.bucket.fill) == ([], 0)
    stage.feed(rewarded(2))
    assert len(stage.batches[0].members) == 2


def test_a_cut_may_wait_for_enough_test_rows_to_judge_it_by() -> None:
    stage = CurateRun(target_effective_size=2, min_test_pool=2, aged_target=1)
    stage.feed(*(rewarded(number) for number in range(5)), rewarded(5, split="test"))
    assert stage.batches == []
    stage.feed(rewarded(6, split="test"))
    assert [(len(batch.members), len(batch.test_pool)) for batch in stage.batches] == [(5, 2)]
    stage.feed(withdrawn(5), rewarded(7), rewarded(8))
    stage.days = 7.0
    stage.feed(tick())
    assert [len(batch.test_pool) for batch in stage.batches] == [2, 1]


def test_the_manifest_names_records_by_digest_and_place() -> None:
    stage = CurateRun(target_effective_size=1.9)
    first, second = rewarded(1, reward=0.8), rewarded(2, reward=0.4, event_time=day(-1))
    stage.feed(negative(9), first, second)
    [batch] = stage.batches
    row = batch.members[0]
    assert (row.revision, row.sha256, row.difficulty, row.split) == (1, sha256(first), 0.25, "train")
    assert row.locator == Locator(topic="examples", partition=3, offset=1)
    assert (batch.bucket, batch.artifact_type, batch.base) == (BUCKET, "sql", "tiny")
    assert batch.policy_digests == {"curate": stage.policy.digest}
    raw = [0.8, 0.4 * (0.05 + 0.95 * 0.95), 0.4]
    mean = (raw[0] + raw[1]) / 2
    assert [member.weight for member in batch.members] == pytest.approx([value / mean for value in raw])
    assert batch.statistics.mean_reward == pytest.approx(0.6)
    assert batch.batch_id == batch_id(batch.bucket, batch.members, batch.test_pool, batch.validation_pool)


def test_the_weights_of_old_examples_beside_a_new_negative_are_numbers() -> None:
    stage = CurateRun(target_effective_size=2, decay_per_day=0.1)
    stage.feed(negative(9), *(rewarded(number, event_time=day(-400)) for number in range(2)))
    weights = [member.weight for member in stage.batches[0].members]
    assert weights[:2] == [1.0, 1.0]
    assert 1 < weights[2] < float("inf")


def test_the_id_of_a_batch_covers_its_members_and_not_where_they_lie() -> None:
    first, moved, changed = (CurateRun(target_effective_size=2) for _ in range(3))
    first.feed(rewarded(1), rewarded(2))
    moved.feed(rewarded(1, train=False), rewarded(1, revision=2, train=False))
    moved.feed(rewarded(3), withdrawn(3), rewarded(1, revision=3), withdrawn(1, "feedback_retracted", revision=4))
    changed.feed(rewarded(1), rewarded(2, reward=0.6))
    later = CurateRun(target_effective_size=2)
    later.feed(tracked(False), rewarded(1), rewarded(2))
    assert first.batches[0].batch_id == later.batches[0].batch_id
    assert first.batches[0].members[0].locator != later.batches[0].members[0].locator
    assert first.batches[0].batch_id != changed.batches[0].batch_id


def test_balance_is_part_of_the_weight() -> None:
    stage = CurateRun(target_effective_size=2)
    stage.feed(rewarded(1, weights=Weights(balance=1.5)), rewarded(2, weights=Weights(balance=0.5)))
    assert [member.weight for member in stage.batches[0].members] == pytest.approx([1.5, 0.5])


def test_an_old_bucket_is_cut_with_less() -> None:
    stage = CurateRun(aged_target=3, age_limit_days=7, keep_days=None)
    stage.feed(*(rewarded(number) for number in range(3)))
    assert stage.deadlines == [START_MS + 7 * DAY_MS]
    stage.days = 6.99
    stage.feed(tick())
    assert stage.batches == []
    stage.days = 7.0
    stage.feed(tick())
    assert [(batch.cause, batch.target) for batch in stage.batches] == [("age", 3.0)]
    assert stage.deadlines == []
    assert stage.counters == {"admitted": 3, "ticks": 2}


def test_an_old_bucket_with_too_little_waits_for_just_enough_and_no_more_for_time() -> None:
    stage = CurateRun(aged_target=3)
    stage.feed(rewarded(1))
    stage.days = 8.0
    stage.feed(tick(), rewarded(2))
    assert (stage.batches, stage.deadlines) == ([], [])
    stage.feed(rewarded(3))
    assert [batch.cause for batch in stage.batches] == ["age"]


def test_a_silent_bucket_ages_while_another_of_its_partition_is_busy() -> None:
    stage = CurateRun(aged_target=1)
    stage.feed(rewarded(1))
    stage.days = 7.0
    stage.feed(rewarded(2, bucket="code/other"))
    assert [batch.bucket for batch in stage.batches] == [BUCKET]


def test_one_tick_lets_time_pass_for_every_bucket_that_is_due() -> None:
    policy = CuratePolicy(aged_target=1, keep_days=None)
    task = MemoryTask(CURATE, "examples", policy)
    task.feed(rewarded(1), at_ms=START_MS)
    task.feed(rewarded(2, bucket="code/other"), at_ms=START_MS + 1000)
    assert task.deadlines == {
        f"bucket:{BUCKET}": START_MS + 7 * DAY_MS,
        "bucket:code/other": START_MS + 7 * DAY_MS + 1000,
    }
    assert task.overdue(START_MS + 7 * DAY_MS - 1) == ()
    (ticked,) = task.let_pass(START_MS + 7 * DAY_MS + 2000)
    assert [produced.topic for produced in ticked.produced if produced.topic != "assessments"] == ["batches", "batches"]
    assert not any(key.startswith("bucket:") for key in task.deadlines)


def test_age_counts_from_the_opening_and_an_emptied_bucket_is_closed() -> None:
    stage = CurateRun(aged_target=1, keep_days=None)
    stage.feed(rewarded(1), withdrawn(1))
    assert stage.deadlines == []
    stage.days = 5.0
    stage.feed(rewarded(2))
    stage.days = 11.9
    stage.feed(tick())
    assert stage.batches == []
    stage.days = 12.0
    stage.feed(tick())
    assert len(stage.batches) == 1


def test_event_time_does_not_age_a_bucket() -> None:
    stage = CurateRun(aged_target=1)
    stage.feed(*(rewarded(number, event_time="2020-01-01T00:00:00Z") for number in range(5)))
    assert stage.batches == []


def test_nothing_is_cut_while_all_requirements_are_satisfied() -> None:
    stage = CurateRun(target_effective_size=3)
    stage.feed(tracked(True), *(rewarded(number) for number in range(10)))
    assert (stage.batches, stage.bucket.fill) == ([], 10.0)
    stage.feed(tracked(False, "r2"))
    assert [len(batch.members) for batch in stage.batches] == [10]
    assert stage.counters == {"admitted": 10, "tracked": 2}


def test_a_bucket_that_is_good_enough_is_not_cut() -> None:
    stage = CurateRun(target_effective_size=20, good_enough_evidence=20, good_enough_margin=0.0)
    right = {"quality": 0.9, "correction": None, "score": 100.0}
    stage.feed(*(rewarded(number, **right) for number in range(30)))
    assert stage.batches == []
    stage.feed(*(rewarded(number, quality=-0.9) for number in range(30, 32)))
    [batch] = stage.batches
    assert batch.statistics.success_rate == pytest.approx(30 / 32)


def test_how_well_another_model_does_says_nothing_about_the_base() -> None:
    stage = CurateRun(target_effective_size=20, good_enough_evidence=20)
    stage.feed(*(rewarded(number, quality=0.9, model="huge") for number in range(20)))
    assert len(stage.batches) == 1
    assert stage.batches[0].statistics.success_rate is None


@pytest.mark.parametrize(("version", "counted"), [(2, 12), (3, 2)])
def test_how_an_exam_goes_says_nothing_of_what_is_worth_learning_since_version_3(version: int, counted: int) -> None:
    stage = CurateRun(version=version, target_effective_size=2, good_enough_evidence=10)
    stage.feed(*(rewarded(number, quality=0.9, train=False) for number in range(10)), rewarded(10), rewarded(11))
    assert stage.bucket.trials.value == pytest.approx(counted)
    assert stage.bucket.answers.answers == counted
    assert len(stage.batches) == 1  # 10 of 12 are right, or none of 2
    stage.feed(*(rewarded(number, revision=2, quality=0.5) for number in (10, 11)))
    assert stage.bucket.successes.value == pytest.approx(counted), "a revision takes the place of what was said before"


def test_evidence_starts_anew_when_something_else_is_served() -> None:
    stage = CurateRun(target_effective_size=5, good_enough_evidence=10)
    stage.feed(*(rewarded(number, quality=0.9) for number in range(12)))
    assert [len(batch.members) for batch in stage.batches] == [5]
    stage.feed(tracked(False, "r2"), *(rewarded(number, quality=0.9) for number in range(12, 17)))
    assert [len(batch.members) for batch in stage.batches] == [5, 7, 5]
    stage.feed(rewarded(3, revision=2, quality=-0.9))
    assert stage.bucket.trials.value == pytest.approx(6), "an answer of before counts once it is judged again"


def test_a_revision_in_an_open_bucket_takes_the_place_of_the_older() -> None:
    stage = CurateRun(target_effective_size=2)
    newer = rewarded(1, revision=2, reward=0.9)
    stage.feed(rewarded(1), newer, rewarded(2))
    [batch] = stage.batches
    assert (batch.members[0].revision, batch.members[0].sha256) == (2, sha256(newer))
    assert stage.counters == {"admitted": 2, "replaced": 1}


def test_a_revision_is_filtered_again() -> None:
    stage = CurateRun(target_effective_size=2)
    stage.feed(rewarded(1), rewarded(1, revision=2, correction=None, score=50.0))
    assert (stage.bucket.train.size, stage.reasons, stage.bucket.opened_ms) == (0, ["low_score"], None)
    stage.feed(rewarded(1, revision=3))
    assert stage.counters == {"admitted": 2, "rejected": 1}
    stage.feed(negative(1, revision=4))
    assert (stage.bucket.train.size, stage.bucket.negative.size, stage.bucket.fill) == (0, 1, 0.0)
    assert stage.bucket.admitted == 1, "one example, however often"


def test_a_withdrawn_example_leaves_an_open_bucket() -> None:
    stage = CurateRun(target_effective_size=2)
    stage.feed(rewarded(1), withdrawn(1), rewarded(2), rewarded(3))
    [batch] = stage.batches
    assert len(batch.members) == 2
    assert stage.counters == {"admitted": 3, "withdrawn": 1}


def test_a_batch_stays_as_it_was_and_a_small_revision_is_only_noted() -> None:
    stage = CurateRun(target_effective_size=2)
    stage.feed(rewarded(1), rewarded(2), rewarded(1, revision=2, reward=0.7))
    [note] = stage.superseded
    assert (note.batch_id, note.revision, note.interaction_id) == (stage.batches[0].batch_id, 2, "i1")
    assert stage.counters == {"admitted": 2, "replaced": 1}
    assert stage.bucket.train.size == 0


@pytest.mark.parametrize("change", [{"reward": 0.71}, {"target": "select 1 again"}])
def test_a_revision_that_matters_is_eligible_again(change: dict[str, object]) -> None:
    stage = CurateRun(target_effective_size=2)
    stage.feed(rewarded(1), rewarded(2), rewarded(1, revision=2, **change), rewarded(3))
    assert len(stage.superseded) == 1
    assert [sorted(row.revision for row in batch.members) for batch in stage.batches] == [[1, 1], [1, 2]]
    assert stage.counters == {"admitted": 4}


def test_many_small_moves_add_up() -> None:
    stage = CurateRun(target_effective_size=2)
    stage.feed(rewarded(1), rewarded(2), rewarded(1, revision=2, reward=0.65), rewarded(1, revision=3, reward=0.8))
    assert stage.bucket.train.size == 1


def test_a_withdrawal_after_the_cut_is_noted_once() -> None:
    stage = CurateRun(target_effective_size=2)
    stage.feed(rewarded(1), rewarded(2), withdrawn(1, "erased"), withdrawn(1, "erased"))
    assert [note.batch_id for note in stage.superseded] == [stage.batches[0].batch_id]
    assert stage.counters == {"admitted": 2, "withdrawn": 2}


def test_members_stay_in_line_while_many_come_and_go() -> None:
    stage = CurateRun(target_effective_size=400, open_limit=400)
    stage.feed(rewarded(0))
    for number in range(1, 300):
        stage.feed(rewarded(number), withdrawn(number))
    slots = stage.bucket.train
    assert (slots.size, slots.next - slots.first < 150) == (1, True)
    assert sum(key.startswith("~slot:") for key in stage.state) == 1
    stage.feed(withdrawn(0))
    assert stage.bucket.opened_ms is None


def test_taking_away_the_newest_leaves_what_the_old_ones_are_worth() -> None:
    stage = CurateRun(target_effective_size=50, decay_floor=0.0)
    stage.feed(*(rewarded(number, event_time="2010-01-01T00:00:00Z") for number in range(10)), rewarded(10))
    assert stage.bucket.fill == pytest.approx(1.0)
    stage.feed(withdrawn(10))
    assert stage.bucket.fill == pytest.approx(10.0)


def test_an_event_that_is_none_of_its_inputs_is_an_error() -> None:
    stage = CurateRun(target_effective_size=1)
    [output] = stage.feed(rewarded(1))
    with pytest.raises(ValueError, match="BatchReady"):
        stage.feed(encode(output.value))


def test_people_can_read_how_full_a_bucket_is() -> None:
    stage = CurateRun(target_effective_size=4)
    stage.feed(rewarded(1), negative(2), rewarded(3, split="test"))
    [described] = describe_buckets(stage.dumped())
    assert described == {
        "bucket": BUCKET, "fill": 1.0, "target": 4.0, "batches": 0, "examples": 1, "negatives": 1, "test_rows": 1,
            "prompts": 0,
        "note": "filling",
        "recorded": described["recorded"],
    }  # fmt: skip
    stage = CurateRun()
    stage.feed(negative(1), rewarded(2, split="test"))
    assert describe_buckets(stage.dumped())[0]["note"] == "nothing to learn from yet: wrong answers alone fill nothing"
