"""What the agent publishes, and what becomes of it: through the real folds, no held-out combination is ever learnt from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from headrace.fields import Call
from headrace.publishing import EventFactory
from headrace_demo.agent.agent import SqlAgent
from headrace_demo.names import DOCS, SQL
from headrace_demo.run.folder import Place
from headrace_demo.run.policy import MAIN, OTHER
from headrace_demo.shop import database as shop
from headrace_demo.shop import questions
from headrace_demo.shop.exam import ExamPaper
from headrace_demo.shop.questions import is_held_out
from headrace_processors.policy_file import load
from headrace_processors.stages import STAGES
from headrace_schemas.codec import decode
from headrace_schemas.derived import Batch
from headrace_schemas.events import BatchReady, ExampleRewarded, FeedbackRecorded, InteractionRecorded, PromptDrawn
from headrace_trainer.stage.rehearsal import rehearsal_rows
from support.memory_log import MemoryLog

pytestmark = pytest.mark.slow(seconds=12)

SEED = 2
ASKED = 2700
CORRECTED = 0.5
PAPER = ExamPaper(SEED)


class Learner:
    """Knows every third answer; says when it was asked enough."""

    def __init__(self, sql: dict[str, str]) -> None:
        self.sql, self.asked = sql, 0
        self.enough: Callable[[], None] = lambda: None

    def answers(self, prompts: Sequence[str]) -> list[str]:
        self.asked += len(prompts)
        if self.asked >= ASKED:
            self.enough()
        return [self.sql.get(prompt, "") if place % 3 == 0 else "select 1" for place, prompt in enumerate(prompts)]


class Notebook:
    """A Recorder whose outbox is a log in memory."""

    def __init__(self, log: MemoryLog) -> None:
        self.log, self.events = log, EventFactory("sql-bot")

    def interaction(self, **fields: Any) -> Call:
        event, call = self.events.interaction(fields, None, None)
        self.log.append(event.topic, 0, event.key, event.value)
        return call

    def feedback(self, call: Call, **fields: Any) -> str:
        event = self.events.feedback(call, fields, None, None)
        self.log.append(event.topic, 0, event.key, event.value)
        return event.id


def events(log: MemoryLog, topic: str) -> list[Any]:
    return [decode(record.value, record.headers) for record in log.records.get((topic, 0), [])]


@pytest.fixture(scope="module", autouse=True)
def hurried() -> Iterator[None]:
    """A lull takes no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("headrace_demo.agent.agent.LULL_SECONDS", 0.0)
        yield


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory, hurried: None) -> MemoryLog:
    place = Place(tmp_path_factory.mktemp("demo"), SEED)
    shop.create(place.database, SEED)
    values = questions.slot_values(shop.shop_of(SEED))
    asked = [*questions.training_questions(values, SEED), *PAPER.questions(SQL)]
    learner = Learner({question.text: question.sql for question in asked})
    log = MemoryLog(count=1)
    log.time = time.time_ns() // 1_000_000
    notebook: Any = Notebook(log)
    agent = SqlAgent(notebook, place.base, place.database, SEED, CORRECTED, load=lambda base: learner)  # type: ignore[arg-type, return-value]
    learner.enough = agent.stop
    agent.run()
    bodies = load(place.settings("127.0.0.1:1").policy).bodies()
    for name in ("intake", "link", "reward", "curate"):
        (stage,) = (stage for stage in STAGES if stage.name == name)
        log.run(stage, bodies[name])
    return log


def test_what_is_held_out_is_published_for_no_training_and_never_corrected(log: MemoryLog) -> None:
    said = {event.data.interaction_id: event.data for event in events(log, "interactions")}
    held = {name for name, data in said.items() if is_held_out(data.prompt_group)}
    exams = {(data.artifact_type, data.prompt) for name, data in said.items() if name in held}
    assert exams == {(SQL, q.text) for q in PAPER.questions(SQL)} | {(DOCS, q.sql) for q in PAPER.questions(DOCS)}
    assert len(held) == len(exams)
    for name, data in said.items():
        assert isinstance(data.prompt_group, str)
        assert data.train is (name not in held)
    judged = [event.data for event in events(log, "feedback") if isinstance(event, FeedbackRecorded)]
    assert {feedback.interaction_id for feedback in judged} == set(said)
    assert not [feedback for feedback in judged if feedback.interaction_id in held and feedback.corrected_output is not None]


def test_a_share_of_wrong_answers_is_corrected_and_of_the_others_only_known_that_they_are_wrong(log: MemoryLog) -> None:
    said = {event.data.interaction_id: event.data for event in events(log, "interactions") if event.data.train}
    heard = [event.data for event in events(log, "feedback") if event.data.interaction_id in said]
    right = {feedback.interaction_id for feedback in heard if feedback.kind == "success"}
    wrong = {feedback.interaction_id for feedback in heard if feedback.kind == "validation_failure"}
    corrected = {feedback.interaction_id: feedback for feedback in heard if feedback.kind == "user_correction"}
    assert right | wrong == set(said)
    assert not right & wrong
    assert set(corrected) < wrong
    assert 0.4 < len(corrected) / len(wrong) < 0.6
    for name, feedback in corrected.items():
        assert feedback.corrected_output != said[name].output


def test_no_held_out_combination_is_in_a_batch_or_in_rehearsal(log: MemoryLog) -> None:
    groups = {
        event.data.example_id: event.data.prompt_group for event in events(log, "examples") if isinstance(event, ExampleRewarded)
    } | {event.data.prompt_id: event.data.prompt_group for event in events(log, "examples") if isinstance(event, PromptDrawn)}
    batches: list[Batch] = [event.data for event in events(log, "batches") if isinstance(event, BatchReady)]
    assert [batch.bucket for batch in batches].count(MAIN) >= 2
    seen: list[Any] = []
    for batch in batches:
        rehearsal = rehearsal_rows(batch, seen, 0.75)
        for member in (*batch.members, *batch.test_pool, *rehearsal, *(batch.prompts or ())):
            assert not is_held_out(groups[member.example_id])
        seen += batch.members
    assert len(batches[-1].test_pool) >= 30
    assert sum(prompt.drawn for prompt in batches[-1].prompts or ()) >= 30  # whatever was answered and said
    assert len({member.example_id for batch in batches for member in batch.members}) >= 300
    assert any(is_held_out(group) for group in groups.values())


def test_both_buckets_fill_and_the_main_one_faster(log: MemoryLog) -> None:
    counts = {MAIN: 0, OTHER: 0}
    for event in events(log, "interactions"):
        assert isinstance(event, InteractionRecorded)
        if event.data.train:
            counts[f"{event.data.artifact_type}/{event.data.model}"] += 1
    assert counts[MAIN] > 3 * counts[OTHER] > 0


def test_a_release_that_cannot_be_loaded_changes_nothing(tmp_path: Path) -> None:
    shop.create(tmp_path / "shop.duckdb", SEED)
    learner = Learner({})
    book = Notebook(MemoryLog(count=1))

    def refuse(base: Path, adapter: Path | None = None) -> Any:
        if adapter is not None:
            raise OSError("adapter_model.safetensors is damaged")
        return learner

    agent = SqlAgent(book, tmp_path, tmp_path / "shop.duckdb", SEED, CORRECTED, load=refuse)  # type: ignore[arg-type]
    broken = SimpleNamespace(bucket=MAIN, sequence=1, adapter=object(), digest="sha256:" + "b" * 64, fetch=lambda: tmp_path)
    agent.follow(SimpleNamespace(follow=lambda: iter([broken])))  # type: ignore[arg-type]
    learner.enough = agent.stop
    agent.run()
    assert {event.data.adapter for event in events(book.log, "interactions")} == {None}
