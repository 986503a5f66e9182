"""What became of each batch, as `headrace batches` and `status` tell it from events."""

from __future__ import annotations

import asyncio

from msgspec import structs

from headrace_lake.batches import asked_again, newest_counts, newest_ungraded, rows_of
from headrace_schemas.derived import BatchRetryRequest, TrainingCompletion
from headrace_schemas.events import BatchReady, BatchRetryRequested, TrainingCompleted, make
from headrace_schemas.selection import counts_text
from support import training_data
from support.memory_log import MemoryLog
from support.outcomes import evaluation

BATCH = training_data.batch([training_data.recorded(number).member for number in range(3)])
COUNTS = {"training": {"template_refused": 2, "answer_empty": 1}, "test": {"message_lost": 1}}


def completed(run: str, **changed: object) -> TrainingCompleted:
    data = TrainingCompletion(
        run_id=run, batch_id=BATCH.batch_id, bucket=BATCH.bucket, version_id="v", evaluation_id="e", seconds=1.0, **changed,  # type: ignore[arg-type]
    )  # fmt: skip
    return TrainingCompleted(specversion="1.0", id=run, source="headrace:train", time="2026-11-21T10:00:00Z", data=data)


CUT = BatchReady(specversion="1.0", id="b", source="headrace:curate", time="2026-11-21T10:00:00Z", data=BATCH)


def test_a_batch_says_what_its_run_left_out_and_shortened() -> None:
    (row,) = rows_of([CUT], [completed("r1", left_out=COUNTS, shortened={"training": {"prompt": 1}}, notes=["a stop"])])
    assert (row.state, row.left_out, row.shortened, row.notes) == ("trained", COUNTS, {"training": {"prompt": 1}}, ["a stop"])
    assert counts_text(row.left_out) == "training: 2 template_refused, 1 answer_empty; test: 1 message_lost"
    assert counts_text(None) == ""


def test_a_run_without_what_was_taken_back_that_failed_is_asked_for_again_as_it_was() -> None:
    (row,) = rows_of([CUT], [])
    assert asked_again(row, [CUT]) == BatchRetryRequest(bucket=BATCH.bucket, batch_id=BATCH.batch_id)
    first = BatchRetryRequest(bucket=BATCH.bucket, batch_id=BATCH.batch_id)
    last = structs.replace(first, begins="sha256:a", without=["e-1"])
    other = structs.replace(first, batch_id="another")
    events = [
        make(BatchRetryRequested, data, id=str(number), writer="x", time_ms=0) for number, data in enumerate((first, last, other))
    ]
    assert asked_again(row, events) == last


def test_a_bucket_says_what_its_newest_run_left_out() -> None:
    assert newest_counts([completed("r1", left_out=COUNTS)]) == {BATCH.bucket: COUNTS}
    assert newest_counts([completed("r1", left_out=COUNTS), completed("r2")]) == {}


def test_a_bucket_says_which_answers_of_its_newest_evaluation_got_no_grade() -> None:
    log = MemoryLog()
    log.append("outcomes", 0, b"sql/tiny", evaluation("v1", bucket="sql/tiny", ungraded={"late": 1}))
    log.append("outcomes", 1, b"docs/tiny", evaluation("v1", bucket="docs/tiny", ungraded={"late": 1}))
    log.append("outcomes", 0, b"sql/tiny", evaluation("v2", bucket="sql/tiny", ungraded={"late": 2, "forged": 1}))
    log.append("outcomes", 1, b"docs/tiny", evaluation("v2", bucket="docs/tiny"))
    log.append("outcomes", 0, b"sql/tiny", b"no event, though it names headrace.promote.requested.v1")
    assert asyncio.run(newest_ungraded(log)) == {"sql/tiny": {"late": 2, "forged": 1}}
