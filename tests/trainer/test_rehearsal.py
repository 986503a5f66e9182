"""Rehearsal takes rows of earlier batches that still hold: a share of all rows, the same for anybody, no more than fit."""

from msgspec import structs

from headrace_schemas.codec import encode
from headrace_schemas.events import TrainingStarted
from headrace_streams.runtime.step import DERIVED_LIMIT
from headrace_trainer.stage.rehearsal import PINNED_LIMIT, LatestRevisions, rehearsal_rows
from support import training_data


def test_rehearsal_is_a_share_of_all_rows_and_the_same_for_anybody() -> None:
    batch = training_data.batch(training_data.recorded(number).member for number in range(30))
    pool = [training_data.recorded(number).member for number in range(20, 90)]
    rows = rehearsal_rows(batch, pool, 0.25)
    assert len(rows) == 10  # a quarter of 40
    assert rows == rehearsal_rows(batch, pool[::-1], 0.25)
    assert not {row.example_id for row in rows} & {member.example_id for member in batch.members}
    assert rehearsal_rows(batch, pool, 0.0) == []
    assert len(rehearsal_rows(batch, pool, 0.9)) == 60  # no more than there are
    whole = rehearsal_rows(batch, pool[20:], 0.25, whole=pool[10:20])
    assert {member.example_id for member in pool[10:20]} <= {row.example_id for row in whole}
    assert len(whole) == 10 + round(40 / 3)


def test_rehearsal_follows_revisions_and_leaves_out_what_was_withdrawn() -> None:
    latest = LatestRevisions()

    def add(recorded: training_data.RecordedExample, offset: int) -> None:
        learnable = recorded.example.train and recorded.example.reward > 0
        latest.add(recorded.example.example_id, recorded.example.revision, learnable, offset, recorded.value)

    old = [training_data.recorded(number) for number in range(6)]
    for recorded in old[:5]:
        add(recorded, recorded.member.locator.offset)
    better = training_data.recorded(1, revision=2, offset=77)
    add(better, 77)
    latest.withdraw(old[2].example.example_id, 2, for_ever=True)
    add(old[2], 90)  # a late repeat brings nothing back
    add(training_data.recorded(3, revision=2, reward=-0.4), 91)
    add(training_data.recorded(4, revision=2, train=False), 92)
    add(training_data.recorded(0), 93)  # an older or equal revision changes nothing
    assert latest.current([recorded.member for recorded in (*old, old[0])]) == [old[0].member, better.member]


def test_feedback_that_was_taken_back_may_come_again_and_an_erased_subject_not() -> None:
    latest, first, second = LatestRevisions(), training_data.recorded(1), training_data.recorded(1, revision=3, offset=9)
    example_id = first.example.example_id
    latest.add(example_id, 1, True, 1, first.value)
    latest.withdraw(example_id, 2, for_ever=False)
    assert latest.current([first.member]) == []
    assert latest.withdrawn([first.member]) == [example_id]
    latest.add(example_id, 3, True, 9, second.value)
    assert latest.current([first.member]) == [second.member]
    assert latest.withdrawn([first.member]) == []
    latest.withdraw(example_id, 4, for_ever=True)
    latest.withdraw(example_id, 5, for_ever=False)
    latest.add(example_id, 6, True, 10, second.value)
    assert latest.current([first.member]) == []
    assert latest.withdrawn([training_data.recorded(2).member, first.member, first.member]) == [example_id]


def test_pins_fit_into_a_record_however_much_waited_for_weights() -> None:
    batch, member = (
        training_data.batch(training_data.recorded(number).member for number in range(10)),
        training_data.recorded(99).member,
    )
    locator = structs.replace(member.locator, partition=1000, offset=10**12)
    longest = structs.replace(member, weight=0.123456789012, difficulty=0.123456789012, split="train", locator=locator)
    waited = [structs.replace(longest, example_id=f"{number:032}") for number in range(40_000)]
    rows = rehearsal_rows(batch, waited[:5000], 0.9, whole=waited)
    assert {row.example_id for row in rows} == {member.example_id for member in waited[-PINNED_LIMIT:]}
    start = training_data.start(batch, rehearsal=rows)
    event = TrainingStarted(specversion="1.0", id="s", source="headrace:train", data=start)
    assert len(encode(event)) < 0.9 * DERIVED_LIMIT
    assert len(rehearsal_rows(batch, waited, 0.9999)) == PINNED_LIMIT
