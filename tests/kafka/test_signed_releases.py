"""Signed releases on a real broker: the release stage signs what it commits, and what others put there is served by nobody."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import headrace as door
from headrace_cli.main import invoke
from headrace_processors.stages import STAGES
from headrace_schemas.codec import encode
from headrace_schemas.derived import Adapter, Comparison, Evaluation, Gain, Measure
from headrace_schemas.events import EvaluationCompleted, ReleasePromoted
from headrace_streams import release_log, signing
from headrace_streams.background import Background
from headrace_streams.kafka import clients
from headrace_streams.kafka.reader import Reader
from headrace_streams.runtime.fold_task import FoldTask
from headrace_streams.runtime.journal import Refused
from headrace_streams.settings import Settings
from headrace_streams.testing import written_headers
from headrace_trainer.stage.catalogue import wait_until_answered
from support.keys import KeyFiles, key_files
from support.live import until
from support.released import BUCKET, adapter, event, release, write
from support.ring import Ring

pytestmark = pytest.mark.kafka

[STAGE] = [stage for stage in STAGES if stage.name == "release"]
GATE = STAGE.policy.model_validate({"rule": "gate"}).body()
TOPICS = ("releases", "releases.history")


def with_keys(settings: Settings, signing_key: KeyFiles | None = None, trusted: tuple[KeyFiles, ...] = ()) -> Settings:
    changed: Mapping[str, Any] = {
        "signing_key": signing_key and signing_key.private,
        "trusted_keys": tuple(str(files.public) for files in trusted) or None,
    }
    return settings.model_copy(update=changed)


@contextmanager
def release_stage(settings: Settings) -> Iterator[None]:
    """The release stage, running."""

    async def work() -> None:
        await asyncio.gather(*(FoldTask(STAGE, GATE, "outcomes", number, settings).run() for number in (0, 1)))

    running = Background("release-stage", work)
    yield
    assert running.stop(30)


@contextmanager
def worker(settings: Settings, files: KeyFiles, folder: Path) -> Iterator[None]:
    """A worker process with a key, until it has ended as it should."""
    policy = folder / "policy.toml"
    policy.write_text('[release]\nrule = "gate"\n')
    with Ring(settings.model_copy(update={"policy": policy}), folder / files.id) as ring:
        ring.environment["HEADRACE_SIGNING_KEY"] = str(files.private)
        ring.start("worker --stages release")
        yield
        ring.stop()
        assert f"releases are signed by key {files.id}" in ring.log("worker")
        assert ring.children.popitem()[1].returncode == 0


def evaluated(settings: Settings, number: int, made: Adapter, *, parent: door.Release | None = None) -> None:
    """An evaluation that the gate lets pass."""
    measure = Measure(value=1.0, low=0.9, high=1.1, n=100)
    evaluation = Evaluation(
        evaluation_id=f"e{number}",
        version_id=f"v{number}",
        batch_id=f"b{number}",
        run_id=f"r{number}",
        bucket=BUCKET,
        artifact_type="sql",
        base="tiny-sql",
        adapter=made,
        candidate={"loss": measure},
        incumbent={"loss": measure},
        comparison=Comparison(loss_gain=Gain(value=0.1, low=0.09, high=0.11), n=100),
        requirements=[],
        policy_digests={},
        parent_adapter=parent.digest if parent else None,
        parent_release_id=parent.id if parent else None,
    )
    write(settings, "outcomes", BUCKET, event(EvaluationCompleted, evaluation, f"e{number}"))


def reading(settings: Settings, *trusted: KeyFiles) -> door.Releases:
    keys = [files.public for files in trusted] or None
    return door.Releases(settings.bootstrap, deployment=settings.deployment, store=settings.store, trusted_keys=keys)


def wait_for(releases: door.Releases, sequence: int) -> door.Release:
    deadline = time.monotonic() + 60
    while (served := releases.current(BUCKET)) is None or served.sequence < sequence:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return served


async def put(settings: Settings, topic: str, value: bytes, headers: Sequence[tuple[str, Any]]) -> None:
    """A record exactly where the stage would put it."""
    partition = await Reader(settings).partition_of(topic, BUCKET)
    async with clients.connected(clients.producer(settings)) as producer:
        full = clients.full_name(settings, topic)
        await producer.send_and_wait(full, value, BUCKET.encode(), partition, headers=list(headers))


def header(settings: Settings, files: KeyFiles, topic: str, value: bytes) -> tuple[str, bytes]:
    key = signing.signing_key(with_keys(settings, files))
    assert key is not None
    return key.header(topic, BUCKET.encode(), value)


def on_log(settings: Settings, topic: str) -> list[Any]:
    async def read() -> list[Any]:
        return [record async for record in Reader(settings).read_topic(topic)]

    return asyncio.run(read())


def test_what_somebody_else_writes_exactly_as_the_stage_does_is_served_by_nobody(
    settings: Settings,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ours, foreign = key_files(tmp_path, "ours"), key_files(tmp_path, "foreign")
    one, two, evil = (adapter(settings, tmp_path / str(seed), seed) for seed in (1, 2, 3))
    command = ["--bootstrap", settings.bootstrap, "--deployment", settings.deployment]
    with reading(settings, ours) as releases, release_stage(with_keys(settings, ours)):
        evaluated(settings, 1, one)
        first = wait_for(releases, 1)
        assert first.digest == one.digest
        for topic in TOPICS:
            [record] = on_log(settings, topic)
            assert [name for name, _ in record.headers] == ["content-type", "headrace-origin", "headrace-signature"]
            assert dict(record.headers)["headrace-signature"].startswith(f"{ours.id}:".encode())
        for topic in ("examples", "rules"):
            for record in on_log(settings, topic):
                assert "headrace-signature" not in dict(record.headers)
        assert invoke(["replay", "--verify", *command]) == 0, "verify needs no key, and leaves the signature out"

        forged = encode(event(ReleasePromoted, release(9, evil)))
        from_history = on_log(settings, "releases.history")[0].headers
        for topic in TOPICS:
            asyncio.run(put(settings, topic, forged, written_headers(topic)))
            asyncio.run(put(settings, topic, forged, (*written_headers(topic), header(settings, foreign, topic, forged))))
            asyncio.run(put(settings, topic, forged, tuple(from_history)))
        evaluated(settings, 2, two, parent=first)
        second = wait_for(releases, 2)
        assert (second.sequence, second.digest, releases.skipped) == (2, two.digest, 3)
        with reading(settings) as gullible:
            assert wait_for(gullible, 9).digest == evil.digest, "whoever trusts no key takes what is written so"
        with reading(settings, ours) as late:
            served = late.current(BUCKET)
            assert served is not None
            assert (served.digest, late.skipped) == (two.digest, 3), "who comes later, too"

    trusting = with_keys(settings, trusted=(ours,))
    now = asyncio.run(release_log.served(Reader(trusting)))
    assert release_log.adapter_digest(now[BUCKET]) == two.digest
    assert [decision.data.sequence for decision in asyncio.run(release_log.history(Reader(trusting)))] == [1, 2]
    capsys.readouterr()
    caplog.clear()
    monkeypatch.setenv("HEADRACE_TRUSTED_KEYS", str(ours.public))
    assert invoke(["releases", "--json", *command]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["sequence"], row["served"]) for row in rows] == [(1, False), (2, True)]
    assert {message.rpartition("skipped: ")[2] for message in caplog.messages} == {
        "it is not signed",
        f"it is signed by the key '{foreign.id}', which is not trusted",
        f"its signature is not one that key {ours.id} made for it",
    }
    assert invoke(["replay", "--verify", *command]) == 1, "and verify finds what no stage wrote"
    for until_, code in ((f"{BUCKET}-9", 1), (second.id, 0)):
        assert invoke(["replay", "--out", str(tmp_path / "rebuilt"), "--until", until_, *command]) == code
    monkeypatch.delenv("HEADRACE_TRUSTED_KEYS")
    assert invoke(["replay", "--out", str(tmp_path / "again"), "--until", f"{BUCKET}-9", *command]) == 0


@pytest.mark.slow(seconds=8)
def test_one_key_follows_the_other(settings: Settings, tmp_path: Path) -> None:
    old, new = key_files(tmp_path, "old"), key_files(tmp_path, "new")
    one, two = adapter(settings, tmp_path / "1", 1), adapter(settings, tmp_path / "2", 2)
    with reading(settings, old, new) as both, reading(settings, new) as new_only, reading(settings, old) as old_only:
        with worker(settings, old, tmp_path):
            evaluated(settings, 1, one)
            first = wait_for(both, 1)
        with worker(settings, new, tmp_path):
            evaluated(settings, 2, two, parent=first)
            assert wait_for(both, 2).digest == two.digest
        assert wait_for(new_only, 2).digest == two.digest
        served = wait_for(old_only, 1)
        deadline = time.monotonic() + 30
        while old_only.skipped < 1:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert served.digest == one.digest, "the last good one"
        assert (both.skipped, new_only.skipped) == (0, 1)
    command = ["--bootstrap", settings.bootstrap, "--deployment", settings.deployment]
    assert invoke(["replay", "--verify", *command]) == 0


def test_a_task_whose_key_cannot_be_read_writes_nothing_and_says_what_to_do(settings: Settings, tmp_path: Path) -> None:
    files = key_files(tmp_path, "ours")
    files.private.write_text("damaged")
    task = FoldTask(STAGE, GATE, "outcomes", 0, with_keys(settings, files))
    with pytest.raises(Refused, match=r"^release/outcomes/0: signing_key = .*: no private key in PEM, or a damaged one$"):
        asyncio.run(task.run())
    assert on_log(settings, "rules") == []


def test_the_trainer_waits_for_an_answer_that_a_trusted_key_has_signed(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours = key_files(tmp_path, "ours")
    value = encode(event(ReleasePromoted, release(1, None, evaluation_id="e1")))
    headers = written_headers("releases.history")

    async def answered() -> None:
        waiting = asyncio.create_task(wait_until_answered(Reader(with_keys(settings, trusted=(ours,))), BUCKET, "e1"))
        await put(settings, "releases.history", value, headers)

        async def skipped() -> bool:
            return waiting.done() or any("it is not signed" in message for message in caplog.messages)

        await until(skipped)
        assert not waiting.done()
        await put(settings, "releases.history", value, (*headers, header(settings, ours, "releases.history", value)))
        await asyncio.wait_for(waiting, 60)

    with caplog.at_level(logging.ERROR):
        asyncio.run(answered())


Run = Callable[..., tuple[int, str, str]]


def test_a_command_with_a_damaged_key_is_one_line(headrace: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "damaged.pub").write_text("damaged")
    monkeypatch.setenv("HEADRACE_TRUSTED_KEYS", str(tmp_path / "damaged.pub"))
    code, out, error = headrace("releases")
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert "trusted_keys[0] = " in error
    assert "no public key in PEM, or a damaged one" in error
