"""What became of all feedback: every row is in one box, whatever happened to it, and the boxes add up."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from headrace_lake.feedback_account import FeedbackAccount, account_of
from headrace_processors.stages import STAGES
from headrace_schemas.codec import decode, encode
from headrace_schemas.derived import Batch, Locator, Member, Redrive, TrainingCompletion, TrainingStart
from headrace_schemas.events import BatchReady, ExampleRejected, RecordRedriven, TrainingCompleted, TrainingStarted, make
from headrace_schemas.selection import training_members
from headrace_streams.testing import event
from support.memory_log import MemoryLog

BY_NAME = {stage.name: stage for stage in STAGES}


class Published:
    """A log with what agents said, through intake, reward and curate."""

    def __init__(self, **curate: Any) -> None:
        self.log, self.number, self._curate = MemoryLog(1), 0, curate

    def say(self, what: str, /, **data: Any) -> None:
        self.number += 1
        topic = "interactions" if what.startswith("interaction") else "feedback"
        value = event(f"headrace.{what}.v1", data, id=f"e{self.number}", source="agent:a", time="2026-09-01T10:00:00Z")
        self.log.append(topic, 0, None, value)

    def interaction(self, name: str, **changed: Any) -> None:
        data = {
            "interaction_id": name,
            "agent": {"name": "a"},
            "artifact_type": "sql",
            "model": "tiny",
            "prompt": f"how many {name}?",
        }
        self.say("interaction.recorded", **{**data, "output": f"select {name}", **changed})

    def feedback(self, interaction: str, name: str, kind: str = "success", **changed: Any) -> None:
        self.say("feedback.recorded", interaction_id=interaction, feedback_id=name, kind=kind, **changed)

    def account(self, **policies: dict[str, Any]) -> FeedbackAccount:
        for name in ("intake", "attribute", "reward", "curate"):
            policy = BY_NAME[name].policy(**(self._curate if name == "curate" else policies.get(name, {})))
            self.log.run(BY_NAME[name], policy.body())
        return asyncio.run(account_of(self.log))


def batches_of(log: MemoryLog) -> list[Batch]:
    decoded = [decode(record.value or b"") for record in log.of("batches")]
    return [found.data for found in decoded if isinstance(found, BatchReady)]


def test_every_row_of_feedback_is_in_one_box() -> None:
    said = Published()
    said.interaction("good", prompt_group="a group to learn from")
    said.feedback("good", "f1", score=100)
    said.feedback("good", "f1", score=100)
    said.interaction("bad", prompt_group="another group to learn from")
    said.feedback("bad", "f2", "explicit_negative")
    said.interaction("generic", output="As an AI I cannot", prompt_group="a group to learn from, too")
    said.feedback("generic", "f3", score=90)
    said.feedback("nobody", "f4")
    said.interaction("regretted")
    said.feedback("regretted", "f5")
    said.say("feedback.retracted", interaction_id="regretted", feedback_id="f5")
    said.say("feedback.recorded", interaction_id="good", feedback_id="f6", kind="no such kind")
    said.interaction("alone")
    found = said.account()
    assert found.feedback == Counter(
        {
            ("waiting", "an open bucket"): 1,
            ("waiting", "an open bucket, negative: supervised training learns from none"): 1,
            ("left out", "repeated"): 1,
            ("left out", "generic"): 1,
            ("waiting", "its interaction"): 1,
            ("left out", "retracted"): 1,
            ("left out", "no event"): 1,
        }
    )
    assert found.examples == Counter(
        {
            ("waiting", "an open bucket"): 1,
            ("waiting", "an open bucket, negative: supervised training learns from none"): 1,
            ("left out", "generic"): 1,
            ("left out", "feedback_retracted"): 1,
        }
    )


def test_a_word_on_a_session_is_one_row_and_what_a_derivation_saw_is_none() -> None:
    said = Published()
    for name in ("one", "two"):
        said.interaction(name, session_id="s", prompt="total sales by region", prompt_group="a group to learn from")
    word = {"kind": "success", "score": 100}
    said.say("feedback.recorded", session_id="s", feedback_id="f1", **word)
    said.say("feedback.recorded", session_id="s", feedback_id="f1", **word)
    said.say("feedback.recorded", session_id="s", feedback_id="f2", **word)
    said.say("feedback.retracted", session_id="s", feedback_id="f2")
    said.say("feedback.recorded", session_id="nobody", feedback_id="f3", **word)
    said.say("feedback.recorded", session_id="s", feedback_id="f4", kind="content_reported", content="select all of them")
    found = said.account(intake={"sessions": True, "sketches": True}, attribute={"credit": "all", "derive": {"rephrased": {}}})
    assert found.feedback == Counter(
        {
            ("waiting", "an open bucket"): 1,
            ("waiting", "an interaction of its session"): 1,
            ("left out", "repeated"): 1,
            ("left out", "retracted"): 1,
            ("left out", "a report"): 1,
        }
    )
    assert sum(found.feedback.values()) == 5
    assert found.derived == Counter({"rephrased@1": 1})


def test_what_was_redriven_is_counted_where_it_went() -> None:
    said = Published()
    said.interaction("good", prompt_group="a group to learn from")
    said.say("feedback.recorded", interaction_id="good", feedback_id="f1", kind="no such kind")
    said.account()
    where = Redrive(
        topic="feedback", partition=0, offset=0, published=Locator(topic="feedback", partition=0, offset=1), reason="a typo"
    )
    mark = make(RecordRedriven, where, id="r", writer="operator", time_ms=said.log.time)
    said.log.append("dead-letters", 0, b"feedback/0/0", encode(mark))
    said.feedback("good", "f1", score=100)
    assert said.account().feedback == Counter({("waiting", "an open bucket"): 1})


def test_rows_of_the_pools_of_a_batch_are_test_and_validation() -> None:
    said = Published(target_effective_size=6.0, fresh_share=0.0, near_duplicate=None, graded=("sql",))
    for number in range(120):
        said.interaction(f"i{number}", output=f"select {number}", prompt_group=f"g{number}")
        said.feedback(f"i{number}", f"f{number}", "explicit_negative" if number % 5 == 4 else "success")
    found = said.account()
    batches = batches_of(said.log)
    tested = {row.example_id for batch in batches for row in (*batch.test_pool, *(batch.prompts or ()))}
    watched = {row.example_id for batch in batches for row in batch.validation_pool or ()} - tested
    assert {not prompt.drawn for batch in batches for prompt in batch.prompts or ()} == {True}
    assert (found.examples["test", ""], found.examples["validation", ""]) == (len(tested), len(watched))
    assert min(len(tested), len(watched)) > 3


def trained(said: Published, batch: Batch, *, named: bool, rehearsal: Sequence[Member] = (), **pins: Any) -> None:
    """A run of the batch that ended with a version, and left out its first row and one test row, which it `named` or not."""
    run_id = f"r-{batch.batch_id}"
    start = TrainingStart(
        run_id=run_id, batch_id=batch.batch_id, bucket=batch.bucket, base=batch.base, seed=1, method="lora", hyperparameters={},
        rehearsal=list(rehearsal), policy_digests={}, **pins,
    )  # fmt: skip
    names = {
        "training": {"answer_too_long": [training_members(batch.members)[0].example_id]},
        "test": {"message_lost": [row.example_id for row in batch.test_pool[:1]]},
    }
    completion = TrainingCompletion(
        run_id=run_id, batch_id=batch.batch_id, bucket=batch.bucket, version_id="v", evaluation_id="e", seconds=1.0,
        left_out={side: {why: len(ids) for why, ids in found.items()} for side, found in names.items()},
        left_out_examples=names if named else None,
    )  # fmt: skip
    times: dict[str, Any] = {"writer": "train", "time_ms": said.log.time}
    for event_ in (
        make(TrainingStarted, start, id=f"s-{run_id}", **times),
        make(TrainingCompleted, completion, id=f"c-{run_id}", **times),
    ):
        said.log.append("runs", 0, None, encode(event_))


def learning() -> Published:
    """Two batches and some rows more; two rows of feedback on each interaction."""
    said = Published(target_effective_size=6.0, fresh_share=0.0, near_duplicate=None)
    for number in range(60):
        said.interaction(f"i{number}", output=f"select {number}", prompt_group=f"g{number}")
        said.feedback(f"i{number}", f"f{number}", score=100)
        said.feedback(f"i{number}", f"g{number}", "explicit_positive")
    return said


def test_rows_of_a_trained_batch_are_learnt_but_those_that_the_run_left_out() -> None:
    said = learning()
    before = said.account()
    [first, second, *_] = batches_of(said.log)
    assert before.examples["learnt", ""] == 0
    trained(said, first, named=True)
    after = said.account()
    assert before.feedback.total() == after.feedback.total() == 120
    assert after.examples.total() == 60
    assert after.examples["learnt", ""] == len(training_members(first.members)) - 1 > 0
    assert after.feedback["learnt", ""] == 2 * after.examples["learnt", ""]
    assert after.examples["left out", "answer_too_long"] == 1
    assert after.not_named == Counter()
    assert "left out: no event" not in after.to_builtins()["feedback"]
    left = training_members(first.members)[:1]
    trained(said, second, named=True, rehearsal=left)
    assert said.account().examples["left out", "answer_too_long"] == 1, "of the second batch; the first's is learnt now"


def test_what_an_older_trainer_left_out_without_names_is_counted_beside() -> None:
    said = learning()
    said.account()
    batch = batches_of(said.log)[0]
    trained(said, batch, named=False)
    found = said.account()
    assert found.not_named == Counter({"answer_too_long": 1})
    assert found.examples["learnt", ""] == len(training_members(batch.members))


def test_rows_that_were_withdrawn_before_their_run_are_not_learnt() -> None:
    said = learning()
    said.account()
    batch = batches_of(said.log)[0]
    gone = training_members(batch.members)[1].example_id
    trained(said, batch, named=True, withdrawn=[gone])
    assert said.account().examples["learnt", ""] == len(training_members(batch.members)) - 2


def test_negatives_are_learnt_by_a_run_that_learns_from_them_and_left_out_by_another() -> None:
    said = Published(target_effective_size=6.0, fresh_share=0.0, near_duplicate=None)
    for number in range(60):
        said.interaction(f"i{number}", output=f"select {number}", prompt_group=f"g{number}")
        said.feedback(f"i{number}", f"f{number}", "explicit_negative" if number % 5 == 4 else "success")
    said.account()
    batch = next(batch for batch in batches_of(said.log) if batch.statistics.negatives)
    trained(said, batch, named=True)
    before, supervised = said.account(), "negative: supervised training learns from none"
    assert before.examples["left out", supervised] >= batch.statistics.negatives
    trained(said, batch, named=True, avoids=True)
    after = said.account()
    assert after.examples["learnt", ""] == before.examples["learnt", ""] + batch.statistics.negatives
    assert after.examples.total() == before.examples.total()


def test_rows_of_a_held_batch_are_learnt_once_a_later_run_has_learnt_them() -> None:
    said = learning()
    said.account()
    [held, later, *_] = batches_of(said.log)
    assert said.account().examples["waiting", "its batch: waits"] >= len(training_members(held.members))
    trained(said, later, named=True, rehearsal=training_members(held.members))
    learnt = len(training_members(held.members)) + len(training_members(later.members)) - 1
    assert said.account().examples["learnt", ""] == learnt


def test_rows_that_leave_a_full_pool_before_any_batch_are_left_out_and_do_not_wait_for_ever() -> None:
    said = Published(test_pool=2, validation_pool=2, prompt_pool=2, near_duplicate=None, graded=("sql",))
    for number in range(150):
        said.interaction(f"i{number}", output=f"select {number}", prompt_group=f"g{number}")
        said.feedback(f"i{number}", f"f{number}", "explicit_negative" if number % 3 == 2 else "success")
    found = said.account()
    rejected = [decode(record.value or b"") for record in said.log.of("rejections")]
    full = [event for event in rejected if isinstance(event, ExampleRejected) and event.data.reason == "pool_full"]
    assert len(full) > 10
    assert found.feedback["left out", "pool_full"] >= len(full) - 6, "but those that a batch had before"
    assert found.feedback.total() == 150
