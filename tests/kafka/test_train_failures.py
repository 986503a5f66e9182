"""The train stage when a batch can't be trained: what is the batch's own is answered at once, what is around it is waited for,
what failed can be asked for again."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch

from headrace_cli.main import invoke
from headrace_lake.positions import skip
from headrace_schemas.codec import encode
from headrace_schemas.derived import Batch, Content, RecordError
from headrace_schemas.events import (
    EvaluationCompleted,
    ModelVersionCreated,
    TrainingCompleted,
    TrainingFailed,
    TrainingStarted,
)
from headrace_schemas.inputs import Message, RefPart
from headrace_schemas.topology import STAGES_BY_NAME
from headrace_streams.adapter_files import StoreError
from headrace_streams.kafka.partitioner import partition_for
from headrace_streams.runtime.journal import Journal, Position
from headrace_streams.runtime.session import now_ms
from headrace_streams.runtime.stage import Record
from headrace_streams.runtime.step import dead_letter
from headrace_streams.settings import Settings
from headrace_trainer.job.process import Hardware
from headrace_trainer.policy import BasePolicy, TrainerPolicy
from headrace_trainer.stage import task as task_module
from headrace_trainer.stage.context import TrainerContext
from headrace_trainer.stage.task import Held, TrainTask
from support import tiny, training_data
from support.live import until
from support.train_log import TrainLog, policy_of

pytestmark = pytest.mark.kafka
Run = Callable[..., tuple[int, str, str]]
PARTITION = partition_for(training_data.BUCKET.encode(), 2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tiny.build(tmp_path_factory.mktemp("base"))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_module, "BACKOFF_SECONDS", (0.2, 0.5))


def task(settings: Settings, policy: TrainerPolicy, *, once: bool = False) -> TrainTask:
    return TrainTask(TrainerContext(settings, policy, Hardware("cpu", "fp32")), PARTITION, once=once)


@pytest.mark.slow(seconds=12)
def test_a_base_that_can_not_be_had_holds_the_batch_until_it_can_and_is_said_again(
    settings: Settings, base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train_log, missing = TrainLog(settings), tmp_path / "models" / "tiny"
    policy = policy_of(base).model_copy(update={"bases": {"tiny": BasePolicy(weights=str(missing))}})

    async def scenario() -> None:
        batch = await train_log.publish_batch("b1", range(24))
        with pytest.raises(
            Held, match=f"batch {batch.batch_id} of {batch.bucket} is held: BaseMissing: .*it waits for the next start"
        ):
            await task(settings, policy, once=True).run()
        learner = task(settings, policy)
        running = asyncio.create_task(learner.run())

        async def held() -> bool:
            report = learner.describe()
            assert not running.done()
            return report.held is not None and "BaseMissing" in report.held and report.gauges[batch.bucket]["held_batches"] == 1

        async def said_again() -> bool:
            assert not running.done()
            return sum("is held: BaseMissing" in message for message in caplog.messages) >= 2

        try:
            await until(said_again)
            await until(held, every=0.02)
            assert learner.describe().phase == "held"
            missing.parent.mkdir()
            missing.symlink_to(base)
            (version,) = await train_log.wait_for(ModelVersionCreated, "versions")
            assert version.batch_id == batch.batch_id
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        assert await train_log.events(TrainingFailed, "runs") == []
        assert len(await train_log.events(TrainingStarted, "runs")) == 1, "its pins are those of its first start"

    asyncio.run(scenario())


def test_a_store_that_is_away_while_a_run_is_pinned_holds_its_batch(
    settings: Settings, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_arguments: object) -> None:
        raise StoreError("the store is away")

    monkeypatch.setattr(TrainerContext, "choose_pins", away)

    async def scenario() -> None:
        await TrainLog(settings).publish_batch("b1", range(24))
        with pytest.raises(Held, match="is held: the store is away; it waits for the next start"):
            await task(settings, policy_of(base), once=True).run()

    asyncio.run(scenario())


@pytest.mark.slow(seconds=20)
def test_a_base_that_is_another_than_in_the_last_run_is_answered_and_its_rows_are_learnt_when_it_is_back(
    settings: Settings, base: Path, tmp_path: Path
) -> None:
    train_log, folder = TrainLog(settings), tmp_path / "base"
    shutil.copytree(base, folder)
    weights = (folder / "model.safetensors").read_bytes()
    policy = policy_of(folder)

    async def scenario() -> None:
        await train_log.publish_batch("b1", range(24))
        await asyncio.wait_for(task(settings, policy, once=True).run(), 120)
        (first,) = await train_log.events(EvaluationCompleted, "outcomes")
        assert first.base_identity is not None
        assert first.surroundings is not None
        assert first.surroundings.torch == torch.__version__
        await train_log.publish_release(first)

        (folder / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
        changed = await train_log.publish_batch("b2", range(100, 124))
        learner = task(settings, policy, once=True)
        await asyncio.wait_for(learner.run(), 120)
        (failure,) = await train_log.events(TrainingFailed, "runs")
        assert failure.error.startswith(
            f"base_changed: base 'tiny' at {folder} is not what it was in the last run (weights sha256:"
        )
        assert "under train.bases.tiny; its examples are kept" in failure.error
        assert (failure.attempts, learner.describe().counters["held"]) == (0, 1)
        assert len(await train_log.events(TrainingStarted, "runs")) == 1

        (folder / "model.safetensors").write_bytes(weights)
        await train_log.publish_batch("b3", range(200, 224))
        await asyncio.wait_for(task(settings, policy, once=True).run(), 120)
        _, start = await train_log.events(TrainingStarted, "runs")
        assert start.base_identity == first.base_identity
        kept = {member.example_id for member in changed.members if member.split == "train"}
        assert kept <= {member.example_id for member in start.rehearsal}, "its rows are learnt whole"
        (_, version) = await train_log.events(ModelVersionCreated, "versions")
        assert version.base_identity == first.base_identity

    asyncio.run(scenario())


@pytest.mark.slow(seconds=12)
def test_a_batch_that_failed_is_trained_when_it_is_asked_for_again(settings: Settings, base: Path, headrace: Run) -> None:
    train_log = TrainLog(settings)
    wild = training_data.HYPER.model_copy(update={"learning_rate": 1e30, "max_grad_norm": 1e30})

    async def fail() -> str:
        batch = await train_log.publish_batch("b1", range(24))
        await asyncio.wait_for(task(settings, policy_of(base, wild), once=True).run(), 120)
        (failure,) = await train_log.events(TrainingFailed, "runs")
        assert failure.attempts == 1, "the loss diverges however often it is tried"
        return batch.batch_id

    batch_id = asyncio.run(fail())
    code, out, _ = headrace("batches", "list", "--json")
    (row,) = map(json.loads, out.splitlines())
    assert (code, row["batch_id"], row["state"], row["attempts"]) == (0, batch_id, "failed", 1)
    code, out, _ = headrace("status", "--json")
    troubles = {trouble["kind"]: trouble for trouble in json.loads(out)["troubles"]}
    assert code == 1
    assert troubles["failed"]["what"] == f"batch {batch_id}"
    assert row["error"] in troubles["failed"]["detail"]
    assert headrace("batches", "show", batch_id)[0] == 0
    assert headrace("batches", "retry", "nothing")[0] == 1

    assert headrace("batches", "retry", batch_id, "--reason", "a smaller learning rate")[0] == 0
    assert "failed" not in {trouble["kind"] for trouble in json.loads(headrace("status", "--json")[1])["troubles"]}
    code, _, error = headrace("batches", "retry", batch_id)
    assert (code, "did not fail: waits" in error) == (1, True)

    async def again() -> None:
        learner = task(settings, policy_of(base), once=True)
        await asyncio.wait_for(learner.run(), 120)
        first, second = await train_log.events(TrainingStarted, "runs")
        assert first.run_id != second.run_id
        assert second.hyperparameters["learning_rate"] == training_data.HYPER.learning_rate
        (version,) = await train_log.events(ModelVersionCreated, "versions")
        assert (version.batch_id, version.run_id) == (batch_id, second.run_id)
        assert learner.describe().counters == {"in": 2, "failed": 1, "trained": 1}

    asyncio.run(again())
    (row,) = map(json.loads, headrace("batches", "list", "--json")[1].splitlines())
    assert (row["state"], row["error"]) == ("trained", None)
    assert invoke(["batches", "retry"]) == 2


def test_a_batch_that_curate_did_not_cut_is_counted_as_strange_and_not_trained(settings: Settings, base: Path) -> None:
    train_log = TrainLog(settings)

    async def scenario() -> None:
        members = [example.member for example in await train_log.publish_examples([training_data.recorded(1)])]
        await train_log.publish_manifest(training_data.batch(members, [], name="forged"), headers=())
        learner = task(settings, policy_of(base), once=True)
        await asyncio.wait_for(learner.run(), 60)
        assert learner.describe().counters == {"in": 1, "strange": 1}
        assert await train_log.events(TrainingStarted, "runs") == []

    asyncio.run(scenario())


@pytest.mark.slow(seconds=12)
def test_an_evaluation_without_an_answer_is_told_and_one_that_became_a_dead_letter_holds_nobody_up(
    settings: Settings, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_module, "ANSWER_SECONDS", 0.1)
    train_log = TrainLog(settings)

    async def scenario() -> None:
        await train_log.publish_batch("b1", range(24))
        learner = task(settings, policy_of(base))
        running = asyncio.create_task(learner.run())
        try:
            (evaluation,) = await train_log.wait_for(EvaluationCompleted, "outcomes")
            await train_log.publish_batch("b2", range(100, 124))

            async def waits() -> bool:
                report = learner.describe()
                told = f"release has not answered evaluation {evaluation.evaluation_id}"
                return report.phase == "waiting for release" and told in (report.held or "")

            await until(waits)
            event = EvaluationCompleted(specversion="1.0", id="e", source="headrace:train", data=evaluation)
            now = now_ms()
            record = Record("outcomes", 0, 0, now, now, None, encode(event))
            letter = dead_letter("release", record, RecordError(code="stage_error", message="KeyError: 1"))
            value = letter.value if isinstance(letter.value, bytes) else encode(letter.value)
            await train_log.write("dead-letters", "outcomes/0/0", value)
            await train_log.wait_for(EvaluationCompleted, "outcomes", 2)
            assert learner.describe().held is None
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())


@pytest.mark.slow(seconds=12)
def test_an_evaluation_that_release_was_told_to_skip_holds_nobody_up(
    settings: Settings, base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train_log, release = TrainLog(settings), STAGES_BY_NAME["release"]

    async def scenario() -> None:
        await train_log.publish_batch("b1", range(24))
        learner = task(settings, policy_of(base))
        running = asyncio.create_task(learner.run())
        try:
            await train_log.wait_for(EvaluationCompleted, "outcomes")
            journal = Journal(settings, "release", "outcomes", PARTITION, release.outputs)
            await journal.open()
            await journal.commit([], {}, Position(partitions=settings.partitions))
            await journal.close()
            await train_log.publish_batch("b2", range(100, 124))

            async def waits() -> bool:
                return learner.describe().phase == "waiting for release"

            await until(waits)
            await skip(settings, release, "outcomes", PARTITION, "end", reason="it can't be read")
            await train_log.wait_for(EvaluationCompleted, "outcomes", 2)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())
    assert re.search(r"evaluation \w+ was skipped: it can't be read", caplog.text)


@pytest.mark.slow(seconds=12)
def test_what_a_run_left_out_is_in_its_events_and_is_told(settings: Settings, base: Path, headrace: Run) -> None:
    train_log = TrainLog(settings)
    silent = Content(prompt="say nothing", output="", target=" ")
    drawn = Message(role="assistant", content=[RefPart(media_type="image/png", uri="s3://a/b.png")])

    async def scenario() -> Batch:
        odd = await train_log.publish_examples(
            [
                training_data.recorded(500, content=silent),
                training_data.recorded(501, content=Content(prompt="draw it", output="", target=drawn)),
                training_data.recorded(502, "test", content=silent),
            ]
        )
        first, second, test = (each.member for each in odd)
        batch = await train_log.publish_batch(
            "b1",
            range(24),
            change=lambda cut: msgspec.structs.replace(
                cut, members=[*cut.members, first, second], test_pool=[*cut.test_pool, test]
            ),
        )
        await asyncio.wait_for(task(settings, policy_of(base), once=True).run(), 120)
        return batch

    batch = asyncio.run(scenario())
    (version,) = asyncio.run(train_log.events(ModelVersionCreated, "versions"))
    (completion,) = asyncio.run(train_log.events(TrainingCompleted, "runs"))
    (evaluation,) = asyncio.run(train_log.events(EvaluationCompleted, "outcomes"))
    counts = {"training": {"answer_empty": 1, "answer_has_references": 1}, "test": {"answer_empty": 1}}
    assert completion.left_out == counts
    assert evaluation.left_out == {"test": {"answer_empty": 1}}
    learnt = [member for member in batch.members if member.split == "train"]
    assert version.rows + sum(counts["training"].values()) == len(learnt), "every row is accounted for"
    assert evaluation.comparison.n + 1 == len(batch.test_pool)
    assert json.loads(headrace("status", "--json")[1])["left_out"] == {batch.bucket: counts}
    said = "training: 1 answer_empty, 1 answer_has_references; test: 1 answer_empty"
    for command in (("status",), ("batches", "list"), ("batches", "show", batch.batch_id)):
        assert said in headrace(*command)[1]
