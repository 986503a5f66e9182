"""What is wrong with a deployment, from its log and groups, as a person is told."""

from __future__ import annotations

from typing import Any

import pytest

from headrace_lake.status import StageStatus, TaskStatus
from headrace_lake.troubles import Trouble, failed_batches, stage_troubles, task_troubles
from headrace_schemas.derived import BatchRetryRequest, TrainingCompletion, TrainingFailure
from headrace_schemas.events import BatchRetryRequested, Event, TrainingCompleted, TrainingFailed
from headrace_streams.kafka.groups import GroupView
from headrace_streams.runtime.status import TaskNote, decode_note, encode_note

HOST = "10.0.0.7"


def task(
    stage: str = "reward", topic: str = "signals", partition: int = 0, lag: int = 0, waited: float | None = None
) -> TaskStatus:
    return TaskStatus(stage, topic, partition, 10, lag, waited, None)


def group(*places: tuple[str, int], unseen: str | None = None, **note: Any) -> GroupView:
    return GroupView(dict.fromkeys(places, HOST), dict.fromkeys(places, encode_note(TaskNote(**note))), unseen)


SIGNALS = ("signals", 0)


@pytest.mark.parametrize(
    ("told", "found"),
    [
        (group(SIGNALS, phase="running"), []),
        (group(SIGNALS, phase="stopped", ended="refused", error="do this"), [("refused", f"on {HOST}: do this")]),
        (
            group(SIGNALS, phase="running", recent=3, error="no leader"),
            [("looping", f"on {HOST}, started again 3 times in ten minutes: no leader")],
        ),
        (group(SIGNALS, phase="running", recent=2, error="no leader"), []),
        (GroupView({SIGNALS: HOST}, {SIGNALS: "somebody else's metadata"}), []),
        (GroupView({}, {SIGNALS: encode_note(TaskNote(ended="refused", error="long ago"))}), [("absent", None)]),
        (group(unseen="GroupAuthorizationFailedError"), [("unseen", None)]),
    ],
)
def test_a_task_is_as_its_worker_says_and_absent_when_nobody_has_it(told: GroupView, found: list[tuple[str, str | None]]) -> None:
    troubles = task_troubles([task()], {"reward": told}, 300)
    assert [(trouble.kind, trouble.detail if said else None) for trouble, (_, said) in zip(troubles, found, strict=True)] == found


def test_a_task_is_behind_when_a_record_has_waited_for_too_long() -> None:
    groups = {"reward": group(SIGNALS, phase="running"), "train": group(("batches", 0), phase="training")}
    assert task_troubles([task(lag=5, waited=299.0)], groups, 300) == []
    assert task_troubles([task(lag=5, waited=301.4)], groups, 300) == [
        Trouble("behind", "reward/signals/0", "5 records wait, the first of them for 301 s")
    ]
    assert task_troubles([task("train", "batches", lag=1, waited=9000.0)], groups, 300) == [], "a training takes its time"


def test_absent_partitions_are_one_line_a_topic_and_a_trainer_may_be_away_until_something_waits() -> None:
    groups = {"reward": GroupView({("signals", 1): HOST}), "train": GroupView()}
    tasks = [task(partition=number, lag=2, waited=1000.0) for number in range(4)]
    troubles = task_troubles(tasks, groups, 1e6)
    assert troubles == [
        Trouble("absent", "reward/signals", "no worker has partitions 0, 2, 3; 6 records wait: is `headrace worker` running?")
    ]
    assert task_troubles([task("train", "batches")], groups, 300) == []
    assert task_troubles([task("train", "batches", lag=1, waited=1.0)], groups, 300) == [
        Trouble("absent", "train/batches", "no trainer has partition 0; 1 records wait: is `headrace trainer` running?")
    ]


def test_what_holds_a_training_up_is_told() -> None:
    groups = {"train": group(("batches", 0), phase="held", held="no space left")}
    assert task_troubles([task("train", "batches", lag=1, waited=5.0)], groups, 300) == [
        Trouble("held", "train/batches/0", f"on {HOST}: no space left")
    ]


def failed(batch: str, attempts: int = 1, bucket: str = "sql/tiny") -> Event:
    data = TrainingFailure(run_id=f"r{batch}", batch_id=batch, bucket=bucket, attempts=attempts, error="bad rows")
    return TrainingFailed(specversion="1.0", id=f"f{batch}", source="headrace:train", data=data)


def completed(batch: str, bucket: str = "sql/tiny") -> Event:
    data = TrainingCompletion(run_id=f"r{batch}", batch_id=batch, bucket=bucket, version_id="v", evaluation_id="e", seconds=1.0)
    return TrainingCompleted(specversion="1.0", id=f"c{batch}", source="headrace:train", data=data)


def retry(batch: str, bucket: str = "sql/tiny") -> Event:
    data = BatchRetryRequest(bucket=bucket, batch_id=batch)
    return BatchRetryRequested(specversion="1.0", id=f"a{batch}", source="headrace:command", data=data)


@pytest.mark.parametrize(
    ("runs", "batches", "left"),
    [
        ([], [], []),
        ([failed("1")], [], ["1"]),
        ([failed("1", attempts=0)], [], []),  # held: its rows wait for the next run
        ([failed("1"), completed("2")], [], []),
        ([failed("1"), completed("2", "code/tiny")], [], ["1"]),
        ([completed("2"), failed("1")], [], ["1"]),
        ([failed("1")], [retry("1")], []),
        ([failed("1"), failed("1")], [retry("1")], ["1"]),
        ([failed("1"), failed("2")], [retry("2")], ["1"]),
    ],
)
def test_a_batch_is_failed_until_it_is_asked_for_again_or_a_later_one_was_trained(
    runs: list[Event], batches: list[Event], left: list[str]
) -> None:
    assert list(failed_batches(runs, batches)) == left


def test_counters_that_do_not_add_up_are_a_trouble() -> None:
    wrong = StageStatus("link", 0, 5, {"resolved": 3, "waiting": 1, "dead": 0}, False)
    right = StageStatus("intake", 0, 5, {"signals": 5, "dead": 0}, True)
    assert stage_troubles([right, wrong]) == [Trouble("unaccounted", "link", "5 input records, 4 in its counters")]


@pytest.mark.parametrize("text", ["\x00" * 10_000, "🜂" * 10_000, '"\\' * 10_000, "a\n  b"])
def test_a_note_is_one_line_and_fits_into_what_brokers_keep(text: str) -> None:
    note = encode_note(TaskNote(error=text, held=text))
    assert len(note.encode()) < 4096 * 2
    told = decode_note(note)
    assert told is not None
    assert told.error is not None
    assert len(told.error.splitlines()) == 1


def test_two_long_texts_fit_into_one_note() -> None:
    for character in ("🜂", "\\", "x"):
        assert len(encode_note(TaskNote(error=character * 10_000, held=character * 10_000)).encode()) < 4096
