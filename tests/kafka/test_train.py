"""The train stage on a real broker: a batch becomes one version and one evaluation, whoever trains it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import torch

from headrace_processors.stages import STAGES
from headrace_schemas.canonical import sha256
from headrace_schemas.codec import encode
from headrace_schemas.derived import Batch, Comparison, Gain, HeadReference, Locator, Member, ModelVersion
from headrace_schemas.events import (
    EvaluationCompleted,
    ModelVersionCreated,
    ReleaseDeclined,
    ReleasePromoted,
    RulesActivated,
    TrainingCompleted,
    TrainingFailed,
    TrainingProgressed,
    TrainingStarted,
)
from headrace_streams.adapter_store import Store, fetch
from headrace_streams.evaluation_samples import FILE_BYTES, EvaluationSample, read, write
from headrace_streams.kafka.partitioner import partition_for
from headrace_streams.kafka.reader import Reader
from headrace_streams.runtime.fold_task import FoldTask
from headrace_streams.runtime.journal import Fenced
from headrace_streams.runtime.provenance import provenance_of
from headrace_streams.runtime.stage import Record
from headrace_streams.settings import Settings
from headrace_trainer.data.members import MemberKey, key_of
from headrace_trainer.job.process import Hardware
from headrace_trainer.model import lora
from headrace_trainer.model.base import load_base
from headrace_trainer.policy import RequirementPolicy, TrainerPolicy
from headrace_trainer.spec import EvaluationReport, JobResult, SamplesFile
from headrace_trainer.stage import catalogue
from headrace_trainer.stage.by_hand import evaluate_version, train_batch
from headrace_trainer.stage.context import TrainerContext
from headrace_trainer.stage.events import Origin
from headrace_trainer.stage.task import TrainTask
from support import tiny, training_data
from support.live import publish, until
from support.train_log import TrainLog, policy_of

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tiny.build(tmp_path_factory.mktemp("base"))


def task(settings: Settings, policy: TrainerPolicy, bucket: str = training_data.BUCKET, *, once: bool = False) -> TrainTask:
    return TrainTask(
        TrainerContext(settings, policy, Hardware("cpu", "fp32")), partition_for(bucket.encode(), settings.partitions), once=once
    )


@asynccontextmanager
async def running(*tasks: TrainTask) -> AsyncIterator[list[asyncio.Task[None]]]:
    started = [asyncio.create_task(task.run()) for task in tasks]
    try:
        yield started
    finally:
        for each in started:
            each.cancel()
        for each in started:
            with contextlib.suppress(asyncio.CancelledError, Fenced):
                await each


@pytest.mark.slow(seconds=15)
def test_a_batch_becomes_a_version_and_an_evaluation(settings: Settings, base: Path, tmp_path: Path) -> None:
    train_log = TrainLog(settings)
    policy = policy_of(base, requirements=(RequirementPolicy(name="low", metric="loss", target=0.001, direction="at_most"),))

    async def scenario() -> None:
        batch = await train_log.publish_batch("b1", range(24))
        await asyncio.wait_for(task(settings, policy, once=True).run(), 120)
        (start,) = await train_log.events(TrainingStarted, "runs")
        (version,) = await train_log.events(ModelVersionCreated, "versions")
        (evaluation,) = await train_log.events(EvaluationCompleted, "outcomes")
        (completion,) = await train_log.events(TrainingCompleted, "runs")
        (rules, *_) = await train_log.events(RulesActivated, "rules")
        assert (start.batch_id, start.parent_adapter, start.rehearsal) == (batch.batch_id, None, [])
        assert start.policy_digests == {**batch.policy_digests, "train": policy.digest}
        assert (rules.stage, rules.digest) == ("train", policy.digest)
        assert rules.body == policy.model_dump(mode="json")
        assert evaluation.adapter == version.adapter
        assert evaluation.comparison.loss_gain.low > 0
        assert evaluation.comparison.n == 32
        assert [requirement.satisfied for requirement in evaluation.requirements] == [False]
        assert (evaluation.samples.rows, evaluation.samples.batch_id) == (32, batch.batch_id)
        samples = read(Store(settings.store).samples(evaluation.samples.sha256, FILE_BYTES), evaluation.samples.sha256)
        assert [sample.example_id for sample in samples] == [member.example_id for member in batch.test_pool]
        assert (completion.version_id, completion.evaluation_id) == (version.version_id, evaluation.evaluation_id)
        assert version.rows == 24
        assert version.tokens > 0
        steps = await train_log.events(TrainingProgressed, "runs")
        assert {step.phase for step in steps} >= {"training", "evaluation"}
        folder = fetch(Store(settings.store), version.adapter.digest, tmp_path / "cache", version.adapter.files)
        assert lora.load(load_base(str(base)).model, folder)
        assert {file.path for file in version.adapter.files} == {"adapter_config.json", "adapter_model.safetensors"}
        assert not list((settings.data_dir / "trainer").rglob("checkpoint*"))
        records = [record async for record in Reader(settings).read_topic("outcomes")]
        assert records[0].key == batch.bucket.encode()
        source = provenance_of(records[0].headers)
        assert source is not None
        assert source[:2] == ("train", "batches")
        assert b"0af7651916cd43dd8448eb211c80319c" in records[0].value

    asyncio.run(scenario())


@pytest.mark.slow(seconds=12)
def test_the_next_batch_waits_for_the_answer_and_goes_on_from_it(
    settings: Settings, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_log = TrainLog(settings)
    reads: Counter[MemberKey] = Counter()
    values_of = catalogue.values_of

    async def counted(reader: Reader, members: Iterable[Member]) -> dict[MemberKey, bytes]:
        wanted = list(members)
        reads.update(map(key_of, wanted))
        return await values_of(reader, wanted)

    monkeypatch.setattr(catalogue, "values_of", counted)

    async def scenario() -> None:
        first = await train_log.publish_batch("b1", range(24))
        learner = task(settings, policy_of(base, training_data.HYPER.model_copy(update={"rehearsal": 0.9})))
        async with running(learner):
            (evaluation,) = await train_log.wait_for(EvaluationCompleted, "outcomes")
            gone = first.members[0]
            await train_log.withdraw(training_data.recorded(0))
            fixed = (await train_log.publish_examples([training_data.recorded(1, revision=2)]))[0]
            await train_log.publish_batch("b2", range(100, 124))
            await train_log.withdraw(erased := training_data.recorded(100))
            await until(lambda: _phase(learner, "waiting for release"))
            assert len(await train_log.events(TrainingStarted, "runs")) == 1
            release = await train_log.publish_release(evaluation)
            _, second = await train_log.wait_for(EvaluationCompleted, "outcomes", 2)
            await until(lambda: _keeps(settings, evaluation.adapter.digest))  # and no copy of the moments
            _, start = await train_log.events(TrainingStarted, "runs")
        assert (start.parent_adapter, start.parent_release_id) == (evaluation.adapter.digest, release)
        assert second.parent_release_id == release
        assert second.incumbent["loss"].value < evaluation.incumbent["loss"].value
        rehearsed = {member.example_id: member for member in start.rehearsal}
        learnt = {member.example_id: member for member in first.members if member.split == "train"}
        assert rehearsed.keys() == learnt.keys() - {gone.example_id}
        assert rehearsed.pop(fixed.member.example_id) == fixed.member
        assert all(member == learnt[name] for name, member in rehearsed.items())
        before, version = await train_log.events(ModelVersionCreated, "versions")
        assert version.hyperparameters["warm_started"] is True
        assert before.optimiser is not None
        assert start.optimiser == before.optimiser != version.optimiser, "it goes on with the moments, too"
        assert start.withdrawn == [erased.example.example_id], "cut already, but not begun"
        assert version.rows == 23 + 23
        second_reads = {key: count - (key in map(key_of, first.members)) for key, count in reads.items()}
        assert set(second_reads.values()) <= {0, 1}, "a run reads each record once, the rehearsal rows that it verified too"
        assert all(reads[key_of(member)] for member in start.rehearsal)

    asyncio.run(scenario())


async def _keeps(settings: Settings, *adapters: str) -> bool:
    """Whether these and no others are in the trainer's cache."""
    cached = {path.name for path in (settings.data_dir / "trainer").glob("*/cache/adapters/*")}
    return cached == {adapter.removeprefix("sha256:") for adapter in adapters}


async def _phase(task: TrainTask, phase: str) -> bool:
    return task.describe().phase == phase


@pytest.mark.slow(seconds=20)
def test_two_trainers_on_one_batch_make_one_result(settings: Settings, base: Path, tmp_path: Path) -> None:
    """Each has a data folder of its own, so nothing but the log can hold them apart."""
    train_log = TrainLog(settings)
    hyper = training_data.HYPER.model_copy(update={"steps": 200})
    other = settings.model_copy(update={"data_dir": tmp_path / "other"})

    async def scenario() -> None:
        first, second = task(settings, policy_of(base, hyper)), task(other, policy_of(base, hyper))
        async with running(first) as (running_first,):
            await train_log.publish_batch("b1", range(24))
            await train_log.wait_for(TrainingProgressed, "runs")
            async with running(second):
                with pytest.raises(Fenced):
                    await asyncio.wait_for(running_first, 60)
                await train_log.wait_for(EvaluationCompleted, "outcomes")
        assert len(await train_log.events(TrainingStarted, "runs")) == 1
        assert len(await train_log.events(ModelVersionCreated, "versions")) == 1
        assert len(await train_log.events(EvaluationCompleted, "outcomes")) == 1

    asyncio.run(scenario())


def test_a_wrong_member_fails_at_once_and_the_next_batch_is_trained(settings: Settings, base: Path) -> None:
    train_log = TrainLog(settings)

    def spoil(batch: Batch) -> Batch:
        wrong = msgspec.structs.replace(batch.members[3], sha256=sha256(b"something else"))
        return msgspec.structs.replace(batch, members=[*batch.members[:3], wrong, *batch.members[4:]])

    async def scenario() -> None:
        bad = await train_log.publish_batch("b1", range(24), change=spoil)
        good = await train_log.publish_batch("b2", range(100, 124))
        learner = task(settings, policy_of(base), once=True)
        await asyncio.wait_for(learner.run(), 120)
        (failure,) = await train_log.events(TrainingFailed, "runs")
        assert (failure.batch_id, failure.attempts) == (bad.batch_id, 1)
        assert f"member {bad.members[3].example_id} revision 1" in failure.error
        assert sha256(b"something else") in failure.error
        (version,) = await train_log.events(ModelVersionCreated, "versions")
        assert version.batch_id == good.batch_id
        assert learner.describe().counters == {"in": 2, "failed": 1, "trained": 1}

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "strange", [("examples", 0, 10**9), ("examples", 99, 0), ("nothing-like-this", 0, 0), ("examples", -1, -1)]
)
def test_a_locator_to_nowhere_fails_its_batch_with_a_reason(
    settings: Settings, base: Path, strange: tuple[str, int, int]
) -> None:
    train_log = TrainLog(settings)
    topic, partition, offset = strange

    def spoil(batch: Batch) -> Batch:
        nowhere = msgspec.structs.replace(batch.members[3], locator=Locator(topic=topic, partition=partition, offset=offset))
        return msgspec.structs.replace(batch, members=[*batch.members[:3], nowhere, *batch.members[4:]])

    async def scenario() -> None:
        await train_log.publish_batch("b1", range(24), change=spoil)
        key = training_data.BUCKET.encode()
        number = partition_for(key, settings.partitions)
        deep = b'{"type":"headrace.example.rewarded.v1","data":' + b"[" * 10_000 + b"]" * 10_000 + b"}"
        await publish(settings, "examples", number, [(key, deep)])
        learner = task(settings, policy_of(base).model_copy(update={"attempts": 1}), once=True)
        await asyncio.wait_for(learner.run(), 120)
        (failure,) = await train_log.events(TrainingFailed, "runs")
        assert f"at {topic}/{partition}/{offset}: there is no such record" in failure.error
        assert learner.describe().counters == {"in": 1, "failed": 1}

    asyncio.run(scenario())


def test_without_weights_examples_wait_for_the_first_run_that_has_them(settings: Settings, base: Path) -> None:
    train_log = TrainLog(settings)

    async def scenario() -> None:
        early = await train_log.publish_batch("b1", range(24))
        await task(settings, TrainerPolicy(), once=True).run()
        (failure,) = await train_log.events(TrainingFailed, "runs")
        assert failure.attempts == 0
        assert failure.error.startswith("no_weights: no weights are mapped to base 'tiny'")
        await train_log.publish_batch("b2", range(100, 124))
        await asyncio.wait_for(task(settings, policy_of(base), once=True).run(), 120)
        (start,) = await train_log.events(TrainingStarted, "runs")
        wanted = {member.example_id for member in early.members if member.split == "train"}
        assert {member.example_id for member in start.rehearsal} == wanted
        assert len(await train_log.events(EvaluationCompleted, "outcomes")) == 1

    asyncio.run(scenario())


def test_no_samples_are_kept_of_an_evaluation_whose_rows_were_taken_back_while_it_ran(
    settings: Settings, base: Path, tmp_path: Path
) -> None:
    train_log = TrainLog(settings)
    context = TrainerContext(settings, policy_of(base), Hardware("cpu", "fp32"))

    async def scenario() -> None:
        batch = await train_log.publish_batch("b1", range(24))
        known = catalogue.Catalogue(context.reader, await context.reader.partition_of("batches", batch.bucket))
        start = training_data.start(batch)
        sample = EvaluationSample(
            example_id=batch.test_pool[3].example_id, revision=1, group="g", prompt_sha256="", answer="private"
        )
        write(tmp_path / "samples", [sample], start.run_id)
        report = EvaluationReport({}, {}, Comparison(loss_gain=Gain(value=0.0, low=0.0, high=0.0), n=0), [])
        result = JobResult(tmp_path, 1, False, 1.0, report, None, samples=SamplesFile(tmp_path / "samples", 1))
        kept = await context.store_samples(batch, start, result, known)
        assert kept is not None, "and then the trainer dies"
        await train_log.withdraw(training_data.recorded(2003, "test"))
        assert await context.store_samples(batch, start, result, known) is None
        assert not Store(settings.store).remove_samples(kept.sha256)

    asyncio.run(scenario())


def test_rows_are_new_when_no_batch_before_had_their_group_whatever_became_of_it(settings: Settings, base: Path) -> None:
    train_log = TrainLog(settings)
    context = TrainerContext(settings, policy_of(base), Hardware("cpu", "fp32"))

    async def scenario() -> None:
        first = await train_log.publish_batch("b1", range(24))
        again = [training_data.recorded(200, prompt_group="g3"), training_data.recorded(205, revision=2, prompt_group="g4")]
        await train_log.publish_examples(again)
        await train_log.withdraw(training_data.recorded(5))
        regrouped = training_data.recorded(201, prompt_group="g5")  # of a task that was withdrawn, and learnt all the same
        only_wrong = training_data.recorded(300, prompt_group="g100", role="negative")  # a task whose first answer taught nobody
        [only_wrong] = await train_log.publish_examples([only_wrong])

        def with_negative(batch: Batch) -> Batch:
            return msgspec.structs.replace(batch, members=[*batch.members, only_wrong.member])

        await train_log.publish_batch("b1b", range(400, 424), change=with_negative)

        def with_known_groups(batch: Batch) -> Batch:
            added = [regrouped.member, *(each.member for each in again)]
            return msgspec.structs.replace(batch, members=[*batch.members, *first.members[:9], *added])

        await train_log.publish_examples([regrouped, training_data.recorded(205, prompt_group="g205")])
        second = await train_log.publish_batch("b2", range(100, 124), change=with_known_groups)
        known = catalogue.Catalogue(context.reader, await context.reader.partition_of("batches", second.bucket))
        await known.refresh(second.bucket)
        assert [member.example_id for member in known.members_of_new_groups(second, 2)] == [
            training_data.example(number).example_id for number in range(100, 124)
        ]
        assert known.members_of_new_groups(second, 3) == [], "a batch that is trained again is no news"

    asyncio.run(scenario())


def test_rows_that_were_taken_back_are_no_new_ones(settings: Settings, base: Path, tmp_path: Path) -> None:
    train_log = TrainLog(settings)
    context = TrainerContext(settings, policy_of(base), Hardware("cpu", "fp32"))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")

    async def scenario() -> None:
        await train_log.publish_batch("b1", range(24))
        batch = await train_log.publish_batch("b2", range(100, 124))
        await train_log.withdraw(gone := training_data.recorded(103))
        head = HeadReference(version_id="v1", adapter=context.store.put(tmp_path / "adapter").digest)
        start = training_data.start(batch, withdrawn=[gone.member.example_id], heads=[head])
        known = catalogue.Catalogue(context.reader, await context.reader.partition_of("batches", batch.bucket))
        origin = Origin(Record("batches", 0, 1, 0, 0, None, None), batch)
        spec = await context.job_spec(origin, start, await context.base_of("tiny"), {}, known)
        assert len(spec.window) == 23
        assert {key_of(member) for member in spec.window} <= spec.values.keys()

    asyncio.run(scenario())


def test_a_bucket_goes_on_without_an_optimiser_that_is_not_in_the_store_any_more(
    settings: Settings, base: Path, tmp_path: Path
) -> None:
    train_log = TrainLog(settings)
    context = TrainerContext(settings, policy_of(base), Hardware("cpu", "fp32"))
    (tmp_path / "optimiser").mkdir()
    (tmp_path / "optimiser" / "state.json").write_text("{}")

    async def scenario() -> None:
        kept = context.store.put(tmp_path / "optimiser")
        for digest, adapter in ((kept.digest, "sha256:1"), (f"sha256:{'0' * 64}", "sha256:2"), (None, "sha256:3")):
            event = ModelVersionCreated(
                specversion="1.0", id=adapter, source="headrace:train", time="2026-11-21T10:00:00Z",
                data=ModelVersion(
                    version_id=adapter, bucket=training_data.BUCKET, artifact_type="sums", base="tiny",
                    adapter=msgspec.structs.replace(kept, digest=adapter), batch_id="b", run_id="r", method="lora",
                    hyperparameters={}, rows=1, tokens=1, seconds=1.0, optimiser=digest,
                ),
            )  # fmt: skip
            await train_log.write("versions", training_data.BUCKET, encode(event))
        found = [await context.optimiser_of(training_data.BUCKET, f"sha256:{number}", "sft") for number in (1, 2, 3)]
        assert found == [kept.digest, None, None]

    asyncio.run(scenario())


def test_by_hand_gives_the_recorded_digest(settings: Settings, base: Path, tmp_path: Path) -> None:
    train_log = TrainLog(settings)
    policy = tmp_path / "policy.toml"
    policy.write_text(
        f'[train]\nthreads = 1\n[train.bases.tiny]\nweights = "{base}"\n'
        "[train.defaults]\nr = 4\nalpha = 8\nlearning_rate = 0.02\nepochs = 4\nrows_per_step = 8\nvalidation_rows = 2\n"
        'precision = "fp32"\n'
    )
    ours = settings.model_copy(update={"policy": policy})

    async def scenario() -> None:
        from headrace_trainer.policy import load

        batch = await train_log.publish_batch("b1", range(24))
        await task(ours, load(policy), once=True).run()
        (version,) = await train_log.events(ModelVersionCreated, "versions")
        shown: list[str] = []
        trained = await train_batch(ours, batch.batch_id, "cpu", shown.append)
        assert trained.adapter == trained.recorded == version.adapter.digest
        assert any(line.startswith("training ") for line in shown)
        evaluated = await evaluate_version(ours, version.version_id, "cpu", shown.append, publish=True)
        recorded, published = await train_log.events(EvaluationCompleted, "outcomes")
        assert evaluated.report.candidate == recorded.candidate == published.candidate
        assert published.evaluation_id == evaluated.published != recorded.evaluation_id
        assert recorded.samples.sha256 != published.samples.sha256, "each has its own, so that one can go without the other"
        Store(settings.store).samples(published.samples.sha256, FILE_BYTES)
        assert len(await train_log.events(ModelVersionCreated, "versions")) == 1
        await train_log.withdraw(training_data.recorded(3))
        await evaluate_version(ours, version.version_id, "cpu", shown.append, publish=True)
        [_, _, last] = await train_log.events(EvaluationCompleted, "outcomes")
        assert not (published.heads[-1].invalid or "").startswith("taken_back")
        assert (
            last.heads[-1].invalid == f"taken_back: version {version.version_id} has learnt 1 examples that were taken back since"
        )

    asyncio.run(scenario())


@pytest.mark.slow(seconds=25)
def test_the_learner_goes_on_from_its_newest_head_while_what_is_served_waits_for_evidence(settings: Settings, base: Path) -> None:
    """The train stage and the release stage on one log: heads, pins and evaluations of two batches, and a promotion of the older
    head by what the second brought."""
    train_log = TrainLog(settings)
    [stage] = [stage for stage in STAGES if stage.name == "release"]
    policy = stage.policy.model_validate({"evidence": {"accept_selected_rows": True, "max_groups": 9}}).body()
    number = partition_for(training_data.BUCKET.encode(), settings.partitions)

    async def scenario() -> None:
        releasing = asyncio.create_task(FoldTask(stage, policy, "outcomes", number, settings).run())
        try:
            async with running(task(settings, policy_of(base))):
                await train_log.publish_batch("b1", range(24))
                [first] = await train_log.wait_for(EvaluationCompleted, "outcomes")
                [pending] = await train_log.wait_for(ReleaseDeclined, "releases.history")
                await train_log.publish_batch("b2", range(100, 124))
                [_, second] = await train_log.wait_for(EvaluationCompleted, "outcomes", 2)
                [released] = await train_log.wait_for(ReleasePromoted, "releases")
        finally:
            releasing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await releasing
        assert (first.measure, [head.version_id for head in first.heads]) == ("loss", [first.version_id])
        assert {(group.rows, group.samples, group.selected) for group in first.heads[0].groups} == {(1, 0, True)}
        assert len(first.heads[0].groups) == 32
        assert pending.reason.startswith("pending: few_groups: loss gain")
        [_, start] = await train_log.events(TrainingStarted, "runs")
        assert (start.parent_adapter, start.learner_adapter) == (None, first.adapter.digest)
        assert [(head.version_id, head.adapter) for head in start.heads] == [(first.version_id, first.adapter.digest)]
        assert [head.version_id for head in second.heads] == [first.version_id, second.version_id]
        sides = [Counter(group.side for group in head.groups) for head in second.heads]
        assert sides == [{"test": 32, "train": 24}, {"test": 32}], "what only the second has learnt tells of the first"
        [_, version] = await train_log.events(ModelVersionCreated, "versions")
        assert (version.parent_adapter, version.hyperparameters["warm_started"]) == (first.adapter.digest, True)
        assert [head.groups for head in released.evidence] == [18, 9]
        assert (released.version_id, released.adapter) == (first.version_id, first.adapter)
        assert released.reason.startswith("evidence: loss gain")

    asyncio.run(scenario())


@pytest.mark.slow(seconds=30)
def test_a_head_that_has_learnt_what_was_taken_back_is_left_and_what_it_learnt_is_learnt_anew(
    settings: Settings, base: Path
) -> None:
    train_log = TrainLog(settings)
    [stage] = [stage for stage in STAGES if stage.name == "release"]
    number = partition_for(training_data.BUCKET.encode(), settings.partitions)

    async def scenario() -> None:
        releasing = asyncio.create_task(FoldTask(stage, stage.policy().body(), "outcomes", number, settings).run())
        try:
            async with running(task(settings, policy_of(base))):
                batch = await train_log.publish_batch("b1", range(24))
                [first] = await train_log.wait_for(EvaluationCompleted, "outcomes")
                await train_log.wait_for(ReleaseDeclined, "releases.history")
                await train_log.withdraw(training_data.recorded(3))
                await train_log.publish_batch("b2", range(100, 124))
                [_, second] = await train_log.wait_for(EvaluationCompleted, "outcomes", 2)
                [_, answer] = await train_log.wait_for(ReleaseDeclined, "releases.history", 2)
        finally:
            releasing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await releasing
        [_, start] = await train_log.events(TrainingStarted, "runs")
        assert (start.learner_adapter, start.heads) == (None, None)
        assert [(head.version_id, head.adapter) for head in start.taken_back] == [(first.version_id, first.adapter.digest)]
        trained = {member.example_id for member in batch.members if member.split == "train"}
        assert {member.example_id for member in start.rehearsal} == trained - {training_data.recorded(3).member.example_id}
        [left, own] = second.heads
        assert (left.version_id, left.groups, own.version_id) == (first.version_id, [], second.version_id)
        assert left.invalid == f"taken_back: version {first.version_id} has learnt 1 examples that were taken back since"
        verdicts = [(head.version_id, head.verdict == "invalid", head.waits) for head in answer.evidence]
        assert verdicts == [(first.version_id, True, False), (second.version_id, False, True)]

    asyncio.run(scenario())
