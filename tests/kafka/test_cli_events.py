"""publish, tail and dead-letters against a real broker."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest
from aiokafka import AIOKafkaConsumer

from headrace_schemas.codec import encode
from headrace_schemas.derived import RecordError
from headrace_streams.kafka import clients
from headrace_streams.kafka.partitioner import partition_for
from headrace_streams.kafka.reader import Reader
from headrace_streams.outbox.outbox import Outbox
from headrace_streams.runtime.stage import Record
from headrace_streams.runtime.step import dead_letter
from headrace_streams.settings import Settings
from support.live import publish

pytestmark = pytest.mark.kafka

Run = Callable[..., tuple[int, str, str]]


def event(type_: str, number: int, **data: object) -> bytes:
    return orjson.dumps(
        {"specversion": "1.0", "id": str(number), "source": "t", "type": f"headrace.{type_}.v1", "data": data, "mine": 1}
    )


def interaction(number: int) -> bytes:
    fields = {"agent": {"name": "a"}, "artifact_type": "sql", "model": "m", "prompt": "p", "output": "o"}
    return event("interaction.recorded", number, interaction_id=f"i{number}", **fields)


@contextlib.contextmanager
def _killed(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Whatever fails in between, leaving a Popen waits for its process."""
    try:
        yield
    finally:
        process.kill()


async def _read(settings: Settings, topic: str) -> list[tuple[int, bytes, bytes]]:
    return [(record.partition, record.key, record.value) async for record in Reader(settings).read_topic(topic)]


def test_published_lines_arrive_as_they_are_with_our_key_and_partition(headrace: Run, settings: Settings, tmp_path: Path) -> None:
    lines = [
        interaction(1),
        event("interaction.linked", 2, interaction_id="i1", ref={"system": "jira", "id": "X-1"}),
        event("subject.erased", 3, data_subject="ann"),
        event("feedback.recorded", 4, ref={"system": "jira", "id": "X-1"}, kind="success", score=100),
        event("feedback.retracted", 5, feedback_id="4", interaction_id="i1"),
    ]
    (tmp_path / "one.jsonl").write_bytes(b"\n".join(lines[:2]))
    (tmp_path / "two.jsonl").write_bytes(b"\n\n".join(lines[2:]) + b"\n")
    code, out, _ = headrace("publish", str(tmp_path / "one.jsonl"), str(tmp_path / "two.jsonl"), "--json")
    assert (code, json.loads(out)) == (0, {"interactions": 3, "feedback": 2})
    interactions, feedback = asyncio.run(_read(settings, "interactions")), asyncio.run(_read(settings, "feedback"))
    assert {value: key for _, key, value in interactions} == {lines[0]: b"i1", lines[1]: b"i1", lines[2]: b"ann"}
    assert {value: key for _, key, value in feedback} == {lines[3]: b"jira:X-1", lines[4]: b"i1"}
    assert all(partition == partition_for(key, 2) for partition, key, _ in interactions + feedback)


def test_standard_input_is_a_file_too(settings: Settings) -> None:
    command = [sys.executable, "-c", "from headrace_cli.main import main; main()", "publish", "-"]
    options = ["--bootstrap", settings.bootstrap, "--deployment", settings.deployment]
    done = subprocess.run([*command, *options], input=interaction(1) + b"\n", capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"1 interactions, 0 feedback\n"), done.stderr
    assert len(asyncio.run(_read(settings, "interactions"))) == 1


def test_thousands_of_lines_all_arrive(headrace: Run, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "many.jsonl").write_bytes(b"\n".join(interaction(number) for number in range(4500)))
    assert headrace("publish", str(tmp_path / "many.jsonl"))[:2] == (0, "4500 interactions, 0 feedback\n")
    arrived = asyncio.run(_read(settings, "interactions"))
    assert sorted(key for _, key, _ in arrived) == sorted(f"i{number}".encode() for number in range(4500))


def test_an_outbox_is_emptied(headrace: Run, settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    outbox = Outbox(path)
    outbox.append("interactions", b"i1", interaction(1))
    outbox.append("interactions", b"i2", interaction(2))
    outbox.close()
    code, out, err = headrace("publish", "--outbox", str(path), "--json")
    assert (code, json.loads(out)) == (0, {"delivered": 2, "refused": 0}), err
    assert sorted(value for _, _, value in asyncio.run(_read(settings, "interactions"))) == [interaction(1), interaction(2)]
    assert json.loads(headrace("publish", "--outbox", str(path), "--json")[1]) == {"delivered": 0, "refused": 0}


def test_tail_prints_what_is_there_and_stops(headrace: Run, tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_bytes(b"\n".join(interaction(number) for number in range(5)))
    headrace("publish", str(tmp_path / "events.jsonl"))
    code, out, _ = headrace("tail", "interactions", "feedback", "--from", "start", "--no-follow", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert {row["key"] for row in rows} == {f"i{number}" for number in range(5)}
    assert all(row["event"]["mine"] == 1 and row["topic"] == "interactions" for row in rows)
    assert len(headrace("tail", "interactions", "--from", "1h", "-n", "2")[1].splitlines()) == 2
    first = min(row["timestamp"] for row in rows)
    assert len(headrace("tail", "interactions", "--from", first, "--no-follow")[1].splitlines()) == 5
    assert headrace("tail", "interactions", "--from", "2100-01-01T00:00:00Z", "--no-follow")[:2] == (0, "")
    assert headrace("tail", "interactions", "--from", "end", "--no-follow")[:2] == (0, "")


def test_tail_shows_what_is_nested_deeper_than_it_can_be_written(headrace: Run, settings: Settings) -> None:
    """Found by the fuzzer, seed 5: orjson reads 1024 levels and writes 254."""
    deep = b'{"type":"x","data":' + b"[" * 500 + b"]" * 500 + b"}"
    asyncio.run(publish(settings, "signals", 0, [(b"k", deep)]))
    code, out, err = headrace("tail", "signals", "--from", "start", "--no-follow")
    assert (code, err) == (0, "")
    assert "signals/0/0" in out
    [line] = headrace("tail", "signals", "--from", "start", "--no-follow", "--json")[1].splitlines()
    assert base64.b64decode(json.loads(line)["value_base64"]) == deep


def test_tail_follows_shows_what_is_no_json_and_ends_with_130(settings: Settings) -> None:
    command = [sys.executable, "-c", "from headrace_cli.main import main; main()", "tail", "signals", "--json"]
    options = ["--from", "start", "--bootstrap", settings.bootstrap, "--deployment", settings.deployment]

    async def put(value: bytes | None) -> None:
        async with clients.connected(clients.producer(settings)) as sender:
            await sender.send_and_wait(clients.full_name(settings, "signals"), value, key=b"k", partition=0)

    with (
        subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as follower,
        _killed(follower),
    ):
        assert follower.stdout is not None
        assert follower.stderr is not None
        asyncio.run(put(b"\xff"))
        assert json.loads(follower.stdout.readline())["value_base64"] == "/w=="
        asyncio.run(put(None))
        assert json.loads(follower.stdout.readline())["event"] is None
        os.kill(follower.pid, signal.SIGINT)
        assert follower.wait(20) == 130
        assert follower.stderr.read() == b""


def test_tail_to_the_end_gives_up_on_a_broker_that_stops_answering(
    headrace: Run, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def put() -> None:
        async with clients.connected(clients.producer(settings)) as sender:
            await sender.send_and_wait(clients.full_name(settings, "signals"), b"{}", partition=0)

    async def nothing(*_: object, **__: object) -> dict[object, object]:
        await asyncio.sleep(0.05)
        return {}

    asyncio.run(put())
    monkeypatch.setattr(AIOKafkaConsumer, "getmany", nothing)
    monkeypatch.setattr(clients, "DEADLINE", 2.0)
    code, out, err = headrace("tail", "signals", "--from", "start", "--no-follow")
    assert (code, out) == (3, "")
    assert "signals/0 stands at offset 0 of 1: the broker stopped answering" in err


def test_a_topic_that_is_not_there_is_named(headrace: Run) -> None:
    code, _, err = headrace("tail", "nonsense")
    assert code == 4
    assert ".nonsense: UnknownTopicOrPartitionError" in err


def test_dead_letters_are_listed_and_shown(headrace: Run, settings: Settings) -> None:
    records = [
        Record("interactions", 0, 7, 1_700_000_000_000, 1_700_000_000_000, b"k", b"{", (("h", b"v"),)),
        Record("feedback", 1, 3, 1_700_000_001_000, 1_700_000_001_000, None, None),
    ]
    errors = [RecordError(code="not_json", message="record:\nno JSON"), RecordError(code="null_value", message="null")]

    async def put() -> None:
        async with clients.connected(clients.producer(settings)) as sender:
            for record, error in zip(records, errors, strict=True):
                letter = dead_letter("intake", record, error).value
                value = letter if isinstance(letter, bytes) else encode(letter)
                await sender.send_and_wait(clients.full_name(settings, "dead-letters"), value, partition=record.partition)

    assert headrace("dead-letters", "list")[:2] == (0, "")
    asyncio.run(put())
    rows = [json.loads(line) for line in headrace("dead-letters", "list", "--json")[1].splitlines()]
    assert [(row["at"], row["code"]) for row in rows] == [("interactions/0/7", "not_json"), ("feedback/1/3", "null_value")]
    assert headrace("dead-letters", "list", "--topic", "interactions")[1].splitlines() == [
        "interactions/0/7  2023-11-14T22:13:20.000Z  not_json  -  record: no JSON"
    ]
    assert headrace("dead-letters", "list", "--code", "null_value", "-n", "1")[1].startswith("feedback/1/3")
    code, out, _ = headrace("dead-letters", "show", "interactions/0/7")
    assert (code, out.splitlines()[-1]) == (0, "{")
    assert "key: k" in out
    assert "header h: v" in out
    shown = json.loads(headrace("dead-letters", "show", f"{settings.deployment}.feedback/1/3", "--json")[1])
    assert (shown["offset"], shown.get("value_base64")) == (3, None)
    assert headrace("dead-letters", "show", "interactions/0/8")[0] == 1
