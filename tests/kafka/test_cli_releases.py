"""Commands that ask: the real release stage answers them on a real broker."""

from __future__ import annotations

import asyncio
import json
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

import headrace as door
from headrace_cli.main import invoke
from headrace_processors.stages import STAGES
from headrace_schemas.canonical import digest
from headrace_schemas.derived import (
    Adapter,
    Batch,
    BatchStatistics,
    Comparison,
    Components,
    Content,
    Evaluation,
    Example,
    Gain,
    Locator,
    Measure,
    Member,
    ModelVersion,
    RollbackRequest,
    RulesActivation,
    TrainingStart,
    Weights,
)
from headrace_schemas.events import (
    BatchReady,
    BatchRetryRequested,
    EvaluationCompleted,
    ExampleRewarded,
    ModelVersionCreated,
    ReleasePromoted,
    RollbackRequested,
    RulesActivated,
    TrainingStarted,
)
from headrace_schemas.inputs import Agent
from headrace_streams import release_log
from headrace_streams.adapter_store import Store
from headrace_streams.background import Background
from headrace_streams.kafka import clients
from headrace_streams.kafka.partitioner import partition_for
from headrace_streams.kafka.publisher import publish, requested
from headrace_streams.kafka.reader import Reader
from headrace_streams.runtime.fold_task import FoldTask
from headrace_streams.settings import Settings
from support.released import BUCKET, adapter, event, release, write

pytestmark = pytest.mark.kafka

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def worker(settings: Settings) -> Iterator[None]:
    """The release stage, running."""
    stage = next(stage for stage in STAGES if stage.name == "release")
    policy = stage.policy.model_validate({"rule": "gate"}).body()

    async def work() -> None:
        await asyncio.gather(*(FoldTask(stage, policy, "outcomes", number, settings).run() for number in (0, 1)))

    running = Background("release-stage", work)
    yield
    assert running.stop(30)


def member(example_id: str) -> Member:
    return Member(
        example_id=example_id,
        revision=1,
        sha256="sha256:" + "0" * 64,
        role="train",
        weight=1.0,
        difficulty=0.5,
        split="train",
        locator=Locator(topic="examples", partition=0, offset=0),
    )


def train(settings: Settings, number: int, made: Adapter, *, members: tuple[str, ...], parent: Adapter | None = None,
          rehearsal: tuple[str, ...] = (), watched: tuple[str, ...] | None = None, gain: float = 0.1,
          parent_release: str | None = None) -> None:  # fmt: skip
    """What curate and the trainer write for one batch: its manifest, the run's pins, a version and its evaluation."""
    common: dict[str, Any] = {"bucket": BUCKET, "artifact_type": "sql", "base": "tiny-sql"}
    statistics = BatchStatistics(examples=len(members), negatives=0, effective_size=1.0, mean_reward=1.0)
    batch = Batch(
        batch_id=f"b{number}",
        cause="target",
        target=1,
        members=[member(one) for one in members],
        test_pool=[member("held-out")],
        validation_pool=None if watched is None else [member(one) for one in watched],
        statistics=statistics,
        policy_digests={},
        **common,
    )
    start = TrainingStart(
        run_id=f"r{number}",
        batch_id=f"b{number}",
        bucket=BUCKET,
        base="tiny-sql",
        seed=1,
        method="lora",
        hyperparameters={},
        rehearsal=[member(one) for one in rehearsal],
        policy_digests={},
    )
    version = ModelVersion(
        version_id=f"v{number}",
        adapter=made,
        batch_id=f"b{number}",
        run_id=f"r{number}",
        method="lora",
        hyperparameters={},
        rows=1,
        tokens=1,
        seconds=1.0,
        parent_adapter=parent.digest if parent else None,
        **common,
    )
    measure = Measure(value=1.0, low=0.9, high=1.1, n=100)
    evaluation = Evaluation(
        evaluation_id=f"e{number}",
        version_id=f"v{number}",
        batch_id=f"b{number}",
        run_id=f"r{number}",
        adapter=made,
        candidate={"loss": measure},
        incumbent={"loss": measure},
        comparison=Comparison(loss_gain=Gain(value=gain, low=gain - 0.01, high=gain + 0.01), n=100),
        requirements=[],
        policy_digests={},
        parent_adapter=parent.digest if parent else None,
        parent_release_id=parent_release,
        **common,
    )
    write(settings, "batches", BUCKET, event(BatchReady, batch, f"b{number}"))
    write(settings, "runs", BUCKET, event(TrainingStarted, start, f"r{number}"))
    write(settings, "versions", BUCKET, event(ModelVersionCreated, version, f"v{number}"))
    write(settings, "outcomes", BUCKET, event(EvaluationCompleted, evaluation, f"e{number}"))


def example(number: int, data_subject: str | None = None) -> Example:
    return Example(
        example_id=f"x{number}",
        revision=1,
        interaction_id=f"i{number}",
        bucket=BUCKET,
        artifact_type="sql",
        model="tiny-sql",
        agent=Agent(name="bot"),
        prompt_group=f"g{number}",
        content=Content(prompt="p", output="o", target="o"),
        quality=1.0,
        reward=1.0,
        components=Components(validation=1, feedback=1, difficulty=1, multiplier=1),
        weights=Weights(balance=1),
        contradicted=False,
        voices=1,
        event_time="2026-11-21T10:00:00Z",
        train=True,
        data_subject=data_subject,
    )


async def no_longer_kept(settings: Settings, topic: str) -> None:
    """All that stands on a topic goes, as by retention."""
    number = partition_for(BUCKET.encode(), settings.partitions)
    async with clients.connected(clients.admin(settings)) as client:
        await client.delete_records({TopicPartition(clients.full_name(settings, topic), number): RecordsToDelete(-1)})


class Followed:
    """What a `Releases` sees, in a thread."""

    def __init__(self, releases: door.Releases) -> None:
        self._seen: queue.Queue[door.Release] = queue.Queue()
        threading.Thread(target=self._run, args=(releases,), daemon=True).start()

    def _run(self, releases: door.Releases) -> None:
        for one in releases.follow():
            self._seen.put(one)

    def next(self) -> door.Release:
        return self._seen.get(timeout=60)


@pytest.mark.usefixtures("worker")
def test_promote_roll_back_revoke_pause_and_what_agents_see(headrace: Run, settings: Settings, tmp_path: Path) -> None:
    one, two = adapter(settings, tmp_path / "1", 1), adapter(settings, tmp_path / "2", 2)
    with door.Releases(settings.bootstrap, deployment=settings.deployment, cache=tmp_path / "cache") as served:
        seen = Followed(served)
        train(settings, 1, one, members=("x1",))
        first = seen.next()
        assert (first.sequence, first.kind, first.digest) == (1, "promoted", one.digest)
        train(settings, 2, two, members=("x2",), parent=one, gain=-0.1, parent_release=first.id)

        code, out, _ = headrace("promote", "v2", "--reason", "we looked at it")
        assert (code, "promoted" in out, "we looked at it" in out) == (0, True, True)
        assert seen.next().digest == two.digest

        code, out, _ = headrace("evidence", BUCKET, "--json")
        assert (code, json.loads(out)["serving"], json.loads(out)["heads"]) == (0, "v2", [])

        code, out, _ = headrace("promote", "v2", "--json")
        answer = json.loads(out)
        assert (code, answer["kind"], answer["reason"].split(":")[0]) == (1, "declined", "already_served")

        code, out, _ = headrace("rollback", BUCKET, "--request-id", "r1")
        assert (code, "rolled_back" in out) == (0, True)
        assert headrace("rollback", BUCKET, "--request-id", "r1") == (0, out, ""), "asked again, it goes no further back"
        back = seen.next()
        assert (back.digest, back.kind) == (one.digest, "rolled_back")

        code, out, _ = headrace("revoke", one.digest, "--reason", "leaks")
        assert (code, "revoked" in out) == (0, True)
        assert (last := seen.next()).kind == "revoked"
        assert last.adapter is None
        assert headrace("rollback", BUCKET, "--to", first.id)[0] == 1, "what was revoked is never served again"

        code, out, _ = headrace("rollback", BUCKET, "--to", "base")
        assert (code, "already_served: the base is what is served" in out) == (1, True)
        assert headrace("promote", "v2")[0] == 0
        code, out, _ = headrace("rollback", BUCKET, "--to", "base")
        assert (code, "rolled_back" in out) == (0, True)
        assert headrace("pause", BUCKET)[0] == 0
        assert headrace("resume", BUCKET)[0] == 0

    code, out, _ = headrace("releases", "--json", "--all")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [row["sequence"] for row in rows] == list(range(1, len(rows) + 1))
    assert {"promoted", "declined", "rolled_back", "revoked", "paused", "resumed"} == {row["kind"] for row in rows}
    assert sum(row["served"] for row in rows) == 1
    code, out, _ = headrace("releases")
    assert code == 0
    assert out.count("*") == 1
    assert "declined" not in out
    assert headrace("releases", "list")[1] == out
    code, out, _ = headrace("releases", "show", first.id)
    assert code == 0
    assert one.digest in out
    assert "evaluation loss: 1 [0.9, 1.1] of 100 -> 1 [0.9, 1.1] of 100" in out
    shown = json.loads(headrace("releases", "show", first.id, "--json")[1])
    assert (shown["release_id"], shown["evaluation"]["evaluation_id"]) == (first.id, "e1")


def test_what_is_not_there_is_said(headrace: Run) -> None:
    for arguments in (
        ("promote", "v9"),
        ("revoke", "sha256:" + "0" * 64),
        ("releases", "show", "nothing"),
        ("evidence", "no/such"),
    ):
        code, out, error = headrace(*arguments)
        assert (code, out) == (1, "")
        assert arguments[-1] in error
    assert headrace("releases") == (0, "", "")
    code, _, error = headrace("rollback", "x" * 201, "--timeout", "1")
    assert (code, "bucket" in error) == (2, True)


def test_without_a_worker_there_is_no_answer(headrace: Run, settings: Settings) -> None:
    write(settings, "releases.history", BUCKET, event(ReleasePromoted, release(1, adapter(settings, settings.data_dir / "made"))))
    code, out, error = headrace("pause", BUCKET, "--timeout", "0.5", "--request-id", "p1")
    assert (code, out) == (4, "")
    assert "is a worker running? Repeat it with --request-id p1" in error


def test_a_bucket_that_is_not_there_can_not_be_paused(headrace: Run, settings: Settings) -> None:
    assert headrace("pause", "sql/tinny") == (1, "", "headrace: there is no bucket 'sql/tinny': nothing was learnt here yet\n")
    write(settings, "examples", "sql/tiny", event(ExampleRewarded, example(1, None), "x1"))
    for command in ("pause", "resume"):
        told = "headrace: there is no bucket 'sql/tinny'; did you mean sql/tiny?\n"
        assert headrace(command, "sql/tinny", "--timeout", "0.5") == (1, "", told)


def test_every_bucket_is_asked_to_revoke_although_nobody_answers_the_first(headrace: Run, settings: Settings) -> None:
    made = adapter(settings, settings.data_dir / "made")
    for bucket in (BUCKET, "code/other"):
        write(settings, "releases.history", bucket, event(ReleasePromoted, release(1, made, bucket)))
    code, out, error = headrace("revoke", made.digest, "--timeout", "0.5")
    assert (code, out, error.count("is a worker running?")) == (4, "", 2)
    asked = headrace("tail", "outcomes", "--from", "start", "--no-follow", "--json")[1].splitlines()
    assert {json.loads(line)["event"]["data"]["bucket"] for line in asked} == {BUCKET, "code/other"}


def test_junk_on_the_log_keeps_nobody_from_what_is_there(headrace: Run, settings: Settings) -> None:
    async def litter() -> None:
        async with clients.connected(clients.producer(settings)) as producer:
            for topic in ("releases", "releases.history", "versions", "examples", "batches", "runs", "dead-letters"):
                await producer.send_and_wait(clients.full_name(settings, topic), b"junk", b"k", partition=0)

    asyncio.run(litter())
    for arguments in (("releases",), ("status",), ("dead-letters", "list"), ("retract", "i1"), ("positions", "list")):
        code, _, error = headrace(*arguments)
        expected = 1 if arguments == ("status",) else 0  # no worker runs
        assert (arguments, code, "Error" in error) == (arguments, expected, False), error
    code, _, error = headrace("replay", "--verify")
    assert (code, "unexpected: expected a record of" in error, error.count("\n")) == (1, True, 1)
    code, _, error = headrace("dataset", BUCKET, "--out", str(settings.data_dir / "rows"))
    assert (code, error) == (1, f"headrace: bucket {BUCKET!r} has no batch yet: `headrace status` lists the buckets\n")


def test_without_a_broker(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "DEADLINE", 0.5)
    assert invoke(["pause", BUCKET, "--bootstrap", "127.0.0.1:1"]) == 3
    assert "127.0.0.1:1" in capsys.readouterr().err


@pytest.mark.usefixtures("worker")
def test_retract_and_forget_list_the_releases_they_touch(headrace: Run, settings: Settings, tmp_path: Path) -> None:
    one, two, three = (adapter(settings, tmp_path / str(seed), seed) for seed in (1, 2, 3))
    write(
        settings,
        "examples",
        BUCKET,
        *(event(ExampleRewarded, example(number, "user-7" if number == 2 else None), f"x{number}") for number in (1, 2, 3, 4, 5)),
    )
    with door.Releases(settings.bootstrap, deployment=settings.deployment) as served:
        seen = Followed(served)
        train(settings, 1, one, members=("x1",), watched=("x4",))
        first = seen.next()
        train(settings, 2, two, members=("x2",), parent=one, parent_release=first.id)
        second = seen.next()
        train(settings, 3, three, members=("x3",), parent=None, rehearsal=("x2",), parent_release=second.id)
        third = seen.next()
    unreleased = adapter(settings, tmp_path / "4", 4)
    train(settings, 4, unreleased, members=("x5",), parent_release=first.id)  # compared with what is served no more

    rows = json.loads(headrace("retract", "i5", "--json")[1])
    assert rows["releases"] == []
    assert rows["heads"] == [{"version_id": "v4", "bucket": BUCKET, "adapter": unreleased.digest}]
    assert headrace("retract", "i5")[1].splitlines()[-1].endswith("(never released; nothing goes on from it)")

    code, out, error = headrace("retract", "i1", "--json")
    touched = json.loads(out)
    assert (code, error) == (0, "")
    assert (touched["examples"], touched["batches"]) == (["x1"], ["b1"])
    assert [row["release_id"] for row in touched["releases"]] == [first.id]
    assert [row["release_id"] for row in touched["inherited"]] == [second.id], "it was trained on top of the first"

    rows = json.loads(headrace("retract", "i4", "--json")[1])
    assert [row["release_id"] for row in rows["releases"]] == [first.id], "the run was watched on it"

    code, out, error = headrace("forget", "user-7")
    assert code == 0
    assert "1 examples, 2 batches" in error
    assert [line.startswith("*") for line in out.splitlines()] == [False, True]
    assert second.id in out
    assert third.id in out, "x2 was a rehearsal row of the third"

    asyncio.run(no_longer_kept(settings, "runs"))
    code, out, error = headrace("forget", "user-7")
    assert code == 0
    assert [line.rpartition("  (")[2] for line in out.splitlines()] == [
        "trained on it)",
        "may have rehearsed it: its run is no longer on the log)",
        "never released; nothing goes on from it)",
    ]
    assert third.id in out.splitlines()[1]
    rows = json.loads(headrace("retract", "i3", "--json")[1])
    assert ([row["release_id"] for row in rows["releases"]], rows["possible"]) == ([third.id], []), "others were cut before"
    assert rows["retrains"] == [], "nobody has asked for that"
    body = {"retrain_taken_back": True}
    rules = RulesActivation(
        stage="train", topic="batches", partition=0, from_offset=0, version=1, digest=digest(body), body=body
    )  # fmt: skip
    write(settings, "rules", "train/batches/0", event(RulesActivated, rules, "rules"))
    answers = [json.loads(headrace("retract", "i3", "--json")[1])["retrains"] for _ in range(2)]
    assert answers == [[{"bucket": BUCKET, "batch": "b4", "begins": None}], []], "once, and the third began at the base"

    async def asked() -> list[tuple[str, list[str] | None]]:
        events = Reader(settings).events("batches")
        return [(each.source, each.data.without) async for each in events if isinstance(each, BatchRetryRequested)]

    [(source, without)] = asyncio.run(asked())
    assert source.startswith("command:"), "who retracted has asked for it"
    assert without == ["x3"]
    assert json.loads(headrace("status", "--json")[1])["retrains"] == [
        {"bucket": BUCKET, "batch_id": "b4", "begins": None, "examples": 1}
    ]

    code, out, error = headrace("retract", "never-seen")
    assert (code, out) == (0, "")
    assert "0 examples" in error
    assert headrace("retract", "x" * 201)[0] == 2

    async def published() -> list[tuple[bytes, str]]:
        return [(r.key, json.loads(r.value)["type"]) async for r in Reader(settings).read_topic("interactions")]

    assert sorted(asyncio.run(published())) == [
        (b"i1", "headrace.interaction.retracted.v1"),
        *[(b"i3", "headrace.interaction.retracted.v1")] * 3,
        (b"i4", "headrace.interaction.retracted.v1"),
        *[(b"i5", "headrace.interaction.retracted.v1")] * 2,
        (b"never-seen", "headrace.interaction.retracted.v1"),
        *[(b"user-7", "headrace.subject.erased.v1")] * 2,
    ]


def test_follow_prints_each_answer_as_it_comes(settings: Settings, worker: None, tmp_path: Path) -> None:
    train(settings, 1, adapter(settings, tmp_path / "1", 1), members=("x1",))

    async def two() -> list[str]:
        kinds: list[str] = []
        async with aclosing(release_log.follow(Reader(settings))) as batches:
            async for batch in batches:
                if batch and not kinds:
                    await publish(settings, requested(RollbackRequested, RollbackRequest(bucket=BUCKET)))
                kinds += [decision.kind for decision in batch]
                if len(kinds) == 2:
                    break
        return kinds

    assert asyncio.run(asyncio.wait_for(two(), 60)) == ["promoted", "rolled_back"]


@pytest.mark.usefixtures("worker")
def test_store_prune_lists_what_nothing_needs_and_removes_it_when_told_to(
    headrace: Run, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_STORE", settings.store)
    served, left, newest = (adapter(settings, tmp_path / str(seed), seed) for seed in (1, 2, 3))
    with door.Releases(settings.bootstrap, deployment=settings.deployment) as releases:
        seen = Followed(releases)
        train(settings, 1, served, members=("x1",))
        first = seen.next()
        train(settings, 2, left, members=("x2",), parent=served, gain=-1.0, parent_release=first.id)
        train(settings, 3, newest, members=("x3",), parent=served, gain=-1.0, parent_release=first.id)
    store = Store(settings.store)
    assert headrace("store", "prune", "--json")[:2] == (0, ""), "all is younger than the grace"
    code, out, error = headrace("store", "prune", "--days", "0", "--json")
    row = json.loads(out)
    size = next(each.size_bytes for each in store.holdings() if each.digest == left.digest)
    assert (code, row["digest"], row["size_bytes"], row["removed"]) == (0, left.digest, size, False)
    assert "1 of 3" in error
    assert len(store.holdings()) == 3, "a dry run unless it is told otherwise"
    assert headrace("store", "prune", "--days", "0", "--remove")[0] == 0
    assert {each.digest for each in store.holdings()} == {served.digest, newest.digest}
    assert headrace("store", "prune", "--days", "0", "--json")[:2] == (0, "")
