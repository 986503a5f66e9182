"""The Recorder on a real broker: what it accepted arrives, whatever happens to it, to the broker or to its process."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import MessageSizeTooLargeError

import headrace
from headrace_streams.broker_clock import BrokerClock
from headrace_streams.kafka import admin, clients
from headrace_streams.local_kafka.process import LocalKafka
from headrace_streams.settings import Settings
from support.recording import consume

pytestmark = pytest.mark.kafka

FIELDS: dict[str, Any] = {"artifact_type": "sql", "model": "tiny-sql", "prompt": "how many?"}


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def ids(settings: Settings) -> list[str]:
    return [event["data"]["interaction_id"] for _, event in consume(settings.bootstrap, f"{settings.deployment}.interactions")]


def next_start(settings: Settings, outbox: Path, **options: Any) -> headrace.Recorder:
    """A Recorder that sends what another one left, which knew no broker."""
    return headrace.Recorder(
        settings.bootstrap, agent="bot", outbox=outbox, deployment=settings.deployment, rebind_outbox=True, **options
    )


@pytest.fixture
def python(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a program that imports the door; whatever still runs at the end of the test is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(program: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)]
        started.append(subprocess.Popen(command, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_what_is_recorded_is_what_others_read(settings: Settings, tmp_path: Path) -> None:
    question, sql, digest = "how many?", "SELECT 1", "sha256:" + "0" * 64
    with headrace.Recorder(
        settings.bootstrap, agent="sql-bot", outbox=tmp_path / "o.db", deployment=settings.deployment
    ) as recorder:
        call = recorder.interaction(artifact_type="sql", model="tiny-sql", prompt=question, output=sql, adapter=digest)
        feedback_id = recorder.feedback(call, kind="success", score=100)
        recorder.feedback(interaction_id=call.interaction_id, kind="rating", score=4, scale=[1, 5])
        recorder.feedback(ref=("jira", "OPS-7"), kind="explicit_negative", comment="no")
        recorder.link(call, ("jira", "OPS-7"))
        assert recorder.flush(30)
        assert (recorder.pending, recorder.refused, recorder.trouble) == (0, 0, None)
    interactions = dict(
        (event["type"], (key, event)) for key, event in consume(settings.bootstrap, f"{settings.deployment}.interactions")
    )
    key, recorded = interactions["headrace.interaction.recorded.v1"]
    assert key == call.interaction_id == recorded["data"]["interaction_id"]
    assert (recorded["specversion"], recorded["source"]) == ("1.0", "agent:sql-bot")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", recorded["time"])
    assert recorded["data"] == {
        "interaction_id": call.interaction_id,
        "agent": {"name": "sql-bot"},
        "artifact_type": "sql",
        "model": "tiny-sql",
        "prompt": question,
        "output": sql,
        "adapter": digest,
    }
    assert interactions["headrace.interaction.linked.v1"][0] == call.interaction_id
    feedback = {
        event["data"]["kind"]: (key, event) for key, event in consume(settings.bootstrap, f"{settings.deployment}.feedback")
    }
    assert {kind: key for kind, (key, _) in feedback.items()} == {
        "success": call.interaction_id,
        "rating": call.interaction_id,
        "explicit_negative": "jira:OPS-7",
    }
    assert feedback["success"][1]["id"] == feedback_id


def test_the_async_recorder_is_the_same(settings: Settings, tmp_path: Path) -> None:
    async def record() -> list[str]:
        async with headrace.AsyncRecorder(
            settings.bootstrap, agent="bot", outbox=tmp_path / "o.db", deployment=settings.deployment
        ) as recorder:
            calls = await asyncio.gather(*(recorder.interaction(**FIELDS, output=str(n)) for n in range(100)))
            await recorder.feedback(calls[0], kind="success", score=1)
            await recorder.link(calls[0], ("jira", "1"))
            await recorder.retract_feedback("f", calls[0])
            await recorder.retract(calls[0])
            await recorder.forget("someone")
            assert await recorder.flush(30)
            return [call.interaction_id for call in calls]

    made = asyncio.run(record())
    events = [event for _, event in consume(settings.bootstrap, f"{settings.deployment}.interactions")]
    assert sorted(e["data"]["interaction_id"] for e in events if e["type"].endswith("recorded.v1")) == sorted(made)
    assert {e["type"].split(".")[-2] for e in events} == {"recorded", "linked", "retracted", "erased"}
    assert len(consume(settings.bootstrap, f"{settings.deployment}.feedback")) == 2


def test_without_an_outbox_flush_means_acknowledged(settings: Settings) -> None:
    with headrace.Recorder(settings.bootstrap, agent="bot", deployment=settings.deployment) as recorder:
        calls = [recorder.interaction(**FIELDS, output=str(n)).interaction_id for n in range(50)]
        assert recorder.flush(30)
        assert sorted(ids(settings)) == sorted(calls)


RECORD_FOR_EVER = """
    import sys, headrace
    recorder = headrace.Recorder(sys.argv[1], agent="bot", outbox="outbox.db", deployment=sys.argv[2])
    for number in range(10**9):
        call = recorder.interaction(artifact_type="sql", model="m", prompt="p", output=str(number))
        print(call.interaction_id, flush=True)  # only now: it was accepted
"""


def test_kill_9_loses_nothing_that_was_accepted(
    settings: Settings, tmp_path: Path, python: Callable[..., subprocess.Popen[str]]
) -> None:
    accepted: list[str] = []
    for _ in range(3):
        process = python(RECORD_FOR_EVER, settings.bootstrap, settings.deployment)
        assert process.stdout is not None
        for _ in range(200):
            accepted.append(process.stdout.readline().strip())
        process.kill()
        accepted += process.communicate()[0].split()[:-1]  # the last line may be cut; an id that is whole was accepted
    with headrace.Recorder(
        settings.bootstrap, agent="bot", outbox=tmp_path / "outbox.db", deployment=settings.deployment
    ) as recorder:
        assert recorder.flush(30)
    arrived = ids(settings)
    assert set(accepted) <= set(arrived)
    assert len(accepted) >= 600


@pytest.mark.slow(seconds=10)
def test_the_broker_goes_and_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kafka = LocalKafka(tmp_path / "kafka")
    with kafka:
        settings = Settings(bootstrap=kafka.bootstrap, deployment="away", partitions=2, data_dir=tmp_path)
        asyncio.run(admin.declare(settings))
        with headrace.Recorder(kafka.bootstrap, agent="bot", outbox=tmp_path / "o.db", deployment="away") as recorder:
            made = [recorder.interaction(**FIELDS, output=str(n)).interaction_id for n in range(20)]
            assert recorder.flush(30)
            kafka.stop()
            made += [recorder.interaction(**FIELDS, output=str(n)).interaction_id for n in range(20, 40)]
            assert not recorder.flush(1)
            until(lambda: kafka.bootstrap in (recorder.trouble or ""), seconds=10)
            assert recorder.pending == 20
            kafka.start()
            made += [recorder.interaction(**FIELDS, output=str(n)).interaction_id for n in range(40, 60)]
            assert recorder.flush(60)
            until(lambda: recorder.trouble is None)
            assert sorted(set(ids(settings))) == sorted(made)
        assert [
            record for record in caplog.records if record.name.startswith("aiokafka") and "recorder" in str(record.threadName)
        ] == []


def test_what_could_not_be_sent_is_there_at_the_next_start(settings: Settings, tmp_path: Path) -> None:
    recorder = headrace.Recorder("127.0.0.1:1", agent="bot", outbox=tmp_path / "o.db", deployment=settings.deployment)
    call = recorder.interaction(**FIELDS, output="1")
    recorder.close(timeout=0.1)
    with next_start(settings, tmp_path / "o.db") as recorder:
        assert recorder.flush(30)
    assert ids(settings) == [call.interaction_id]


def test_a_topic_that_is_missing_is_waited_for(settings: Settings, tmp_path: Path) -> None:
    late = Settings(bootstrap=settings.bootstrap, deployment=f"{settings.deployment}late", partitions=1, data_dir=tmp_path)
    with headrace.Recorder(late.bootstrap, agent="bot", outbox=tmp_path / "o.db", deployment=late.deployment) as recorder:
        call = recorder.interaction(**FIELDS, output="1")
        until(lambda: "topics create" in (recorder.trouble or ""))
        asyncio.run(admin.declare(late))
        assert recorder.flush(30)
    assert ids(late) == [call.interaction_id]
    asyncio.run(admin.delete(late))


def test_a_topic_that_is_missing_keeps_back_nothing_of_another(settings: Settings, tmp_path: Path) -> None:
    half = Settings(bootstrap=settings.bootstrap, deployment=f"{settings.deployment}half", partitions=1, data_dir=tmp_path)

    async def delete_interactions() -> None:
        await admin.declare(half)
        async with clients.connected(clients.admin(half)) as client:
            await client.delete_topics([f"{half.deployment}.interactions"])
        async with asyncio.timeout(30):
            while True:
                with suppress(clients.BrokerUnavailable):
                    try:
                        await clients.partition_counts(half, ["interactions"])
                    except clients.TopicMissing:
                        return
                await asyncio.sleep(0.05)

    asyncio.run(delete_interactions())
    with headrace.Recorder(half.bootstrap, agent="bot", outbox=tmp_path / "o.db", deployment=half.deployment) as recorder:
        call = recorder.interaction(**FIELDS, output="1")
        recorder.feedback(call, kind="success", score=1)
        until(lambda: len(consume(half.bootstrap, f"{half.deployment}.feedback")) == 1)
        assert f"{half.deployment}.interactions takes no records" in (recorder.trouble or "")
        asyncio.run(admin.declare(half))
        assert recorder.flush(30)
    assert ids(half) == [call.interaction_id]
    asyncio.run(admin.delete(half))


def test_what_the_broker_refuses_for_good_steps_aside(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    topic = f"{settings.deployment}.interactions"

    async def shrink() -> None:
        async with clients.connected(clients.admin(settings)) as client:
            await client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": "20000"})])
        probe = b'{"data": {"interaction_id": "probe"}, "fill": "%s"}' % (b"x" * 30_000)
        for partition in (0, 1):  # the broker answers before the new limit holds everywhere
            async with asyncio.timeout(30), clients.connected(clients.producer(settings)) as producer:
                with suppress(MessageSizeTooLargeError):
                    while True:
                        await producer.send_and_wait(topic, probe, b"probe", partition)

    asyncio.run(shrink())
    recorder = headrace.Recorder("127.0.0.1:1", agent="bot", outbox=tmp_path / "o.db", deployment=settings.deployment)
    good = [recorder.interaction(**FIELDS, output=str(n)).interaction_id for n in range(5)]
    large = recorder.interaction(**FIELDS, output="x" * 30_000)
    good += [recorder.interaction(**FIELDS, output=str(n)).interaction_id for n in range(5)]
    recorder.close(0)  # nothing was sent: the next start finds them together, as one batch
    with next_start(settings, tmp_path / "o.db") as recorder:
        assert recorder.flush(30)
        assert (recorder.pending, recorder.refused) == (0, 1)
        [refusal] = recorder.refusals
        assert refusal.entry.key.decode() == large.interaction_id
        assert "Too" in refusal.error
        good.append(recorder.interaction(**FIELDS, output="after").interaction_id)
        assert recorder.flush(30)
    assert sorted(set(ids(settings)) - {"probe"}) == sorted(good)
    assert "refuses a record of 30" in caplog.text


def test_a_full_outbox_says_so_and_empties(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    recorder = headrace.Recorder("127.0.0.1:1", agent="bot", outbox=path, deployment=settings.deployment, max_rows=10)
    made = [recorder.interaction(**FIELDS, output=str(n)).interaction_id for n in range(10)]
    with pytest.raises(headrace.OutboxFull, match="10 records"):
        recorder.interaction(**FIELDS, output="one too many")
    recorder.close(0)
    with next_start(settings, path, max_rows=10) as recorder:
        assert recorder.flush(30)
        made.append(recorder.interaction(**FIELDS, output="room again").interaction_id)
    assert sorted(ids(settings)) == sorted(made)


def test_a_clock_far_ahead_is_noticed_and_what_would_be_refused_waits(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = timedelta(minutes=11)
    monkeypatch.setattr("headrace.recorder.BrokerClock", lambda: BrokerClock(lambda: time.time() + ahead.total_seconds()))
    recorder = headrace.Recorder("127.0.0.1:1", agent="bot", outbox=tmp_path / "o.db", deployment=settings.deployment)
    before = [recorder.interaction(**FIELDS, output=str(n)).interaction_id for n in range(3)]
    recorder.close(0)
    with next_start(settings, tmp_path / "o.db") as recorder:
        until(lambda: "2 records wait" in (recorder.trouble or ""))
        assert "about 11 minutes ahead" in (recorder.trouble or "")
        after = recorder.interaction(**FIELDS, output="after").interaction_id
        until(lambda: after in ids(settings))
        assert sorted(ids(settings)) == sorted([before[0], after])
        assert recorder.pending == 2
        recorder.close(0)
    written = [event for _, event in consume(settings.bootstrap, f"{settings.deployment}.interactions")]
    [stamped] = [datetime.fromisoformat(event["time"]) for event in written if event["data"]["interaction_id"] == after]
    assert abs(stamped - datetime.now(UTC)) < timedelta(minutes=5)


def test_two_recorders_of_a_program_share_an_outbox(settings: Settings, tmp_path: Path) -> None:
    def recorder() -> headrace.Recorder:
        return headrace.Recorder(settings.bootstrap, agent="bot", outbox=tmp_path / "o.db", deployment=settings.deployment)

    with recorder() as first:
        made = [first.interaction(**FIELDS, output="1").interaction_id]
        with recorder() as second:
            made.append(second.interaction(**FIELDS, output="2").interaction_id)
            first.close()
            made.append(second.interaction(**FIELDS, output="3").interaction_id)
            assert second.flush(30)
    assert sorted(ids(settings)) == sorted(made)


def test_two_processes_share_an_outbox(settings: Settings, tmp_path: Path, python: Callable[..., subprocess.Popen[str]]) -> None:
    first = python(RECORD_FOR_EVER, settings.bootstrap, settings.deployment)
    assert first.stdout is not None
    accepted = [first.stdout.readline().strip() for _ in range(50)]
    with headrace.Recorder(
        settings.bootstrap, agent="bot", outbox=tmp_path / "outbox.db", deployment=settings.deployment
    ) as second:
        mine = [second.interaction(**FIELDS, output=str(n)).interaction_id for n in range(20)]
        first.send_signal(signal.SIGSTOP)  # the sender is frozen but alive: nobody else may send
        first.send_signal(signal.SIGCONT)
        until(lambda: set(mine) <= set(ids(settings)))  # sent by the first
        first.kill()
        accepted += first.communicate()[0].split()[:-1]
        mine.append(second.interaction(**FIELDS, output="the first is gone").interaction_id)
        assert second.flush(30)
    assert set(accepted) | set(mine) <= set(ids(settings))


FORK = """
    import multiprocessing, sys, headrace
    recorder = headrace.Recorder(sys.argv[1], agent="bot", outbox=sys.argv[3] or None, deployment=sys.argv[2])
    def work(number):
        for _ in range(20):
            recorder.interaction(artifact_type="sql", model="m", prompt="p", output=str(number))
        assert recorder.flush(60)
    work(0)
    children = [multiprocessing.get_context("fork").Process(target=work, args=(n,)) for n in (1, 2, 3)]
    for child in children: child.start()
    work(0)
    for child in children: child.join()
    assert [child.exitcode for child in children] == [0, 0, 0]
    recorder.close(60)
"""


@pytest.mark.parametrize("outbox", ["outbox.db", ""])
def test_forked_children_record_too(settings: Settings, python: Callable[..., subprocess.Popen[str]], outbox: str) -> None:
    process = python(FORK, settings.bootstrap, settings.deployment, outbox)
    _, complaint = process.communicate(timeout=120)
    assert process.returncode == 0, complaint
    assert len(set(ids(settings))) == 100


@pytest.mark.parametrize("outbox", ['"o.db"', "None"])
def test_a_program_that_forgets_to_close_ends_in_time(python: Callable[..., subprocess.Popen[str]], outbox: str) -> None:
    program = f"""
    import headrace
    recorder = headrace.Recorder("127.0.0.1:1", agent="bot", outbox={outbox})
    releases = headrace.Releases("127.0.0.1:1")
    recorder.interaction(artifact_type="sql", model="m", prompt="p", output="o")
    print("done", flush=True)
    """
    process = python(program)
    assert process.stdout is not None
    assert process.stdout.readline() == "done\n"
    began = time.monotonic()
    _, complaint = process.communicate(timeout=60)
    assert time.monotonic() - began < 20
    assert process.returncode == 0
    assert ("are lost" in complaint) == (outbox == "None"), complaint


def test_closing_without_outbox_and_broker_is_no_silent_loss() -> None:
    recorder = headrace.Recorder("127.0.0.1:1", agent="bot")
    recorder.interaction(**FIELDS, output="o")
    with pytest.raises(headrace.Undelivered, match="1 events"):
        recorder.close(0.2)
    recorder.close()
    with pytest.raises(headrace.OutboxError, match="closed"):
        recorder.interaction(**FIELDS, output="o")


def test_settings_that_can_not_be_are_refused() -> None:
    with pytest.raises(ValueError, match="host:port"):
        headrace.Recorder("nowhere", agent="bot")
    with pytest.raises(ValueError, match="sasl_username"):
        headrace.Recorder("127.0.0.1:1", agent="bot", kafka={"protocol": "SASL_SSL"})
