"""What became of all feedback: every row is in one box, whatever happened to it, and the boxes add up."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from headrace_lake.feedback_account import FeedbackAccount, account_of
from headrace_processors.stages import STAGES
from headrace_schemas.codec import decode, encode
from headrace_schemas.derived import Batch, TrainingCompletion
from headrace_schemas.events import BatchReady, TrainingCompleted, make
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

    def account(self) -> FeedbackAccount:
        for name in ("intake", "reward", "curate"):
            policy = BY_NAME[name].policy(**(self._curate if name == "curate" else {}))
            self.log.run(BY_NAME[name], policy.body())
        return asyncio.run(account_of(self.log))


def batches_of(log: MemoryLog) -> list[Batch]:
    decoded = [decode(record.value or b"") for record in log.records.get(("batches", 0), [])]
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
            ("waiting", "an open bucket"): 2,
            ("left out", "repeated"): 1,
            ("left out", "generic"): 1,
            ("waiting", "its interaction"): 1,
            ("left out", "retracted"): 1,
            ("left out", "no event"): 1,
        }
    )
    assert found.examples == Counter(
        {("waiting", "an open bucket"): 2, ("left out", "generic"): 1, ("left out", "feedback_retracted"): 1}
    )


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


def test_rows_of_a_trained_batch_are_learnt_and_what_its_run_left_out_is_counted_beside() -> None:
    said = Published(target_effective_size=6.0, fresh_share=0.0)
    for number in range(40):
        said.interaction(
            f"i{number}", output=f"select {'abcdefgh'[number % 8] * 9} from t{number * 7919}", prompt_group=f"g{number}"
        )
        said.feedback(f"i{number}", f"f{number}", score=100)
        said.feedback(f"i{number}", f"g{number}", "explicit_positive")
    before = said.account()
    [batch, *_] = batches_of(said.log)
    completion = TrainingCompletion(
        run_id="r", batch_id=batch.batch_id, bucket=batch.bucket, version_id="v", evaluation_id="e", seconds=1.0,
        left_out={"training": {"answer_too_long": 1}, "test": {"message_lost": 2}},
    )  # fmt: skip
    said.log.append("runs", 0, None, encode(make(TrainingCompleted, completion, id="c", writer="train", time_ms=said.log.time)))
    after = said.account()
    assert before.feedback.total() == after.feedback.total() == 80
    assert after.examples.total() == 40
    learnt = sum(member.split == "train" for member in batch.members)
    assert learnt > 0
    assert (before.examples["learnt", ""], after.examples["learnt", ""]) == (0, learnt)
    assert after.feedback["learnt", ""] == 2 * learnt
    assert after.not_tokenised == Counter({"answer_too_long": 1})
    assert "left out: no event" not in after.to_builtins()["feedback"]
