"""Data sets hold what trained a release, exactly, and nothing of the test side."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import pyarrow.parquet
import pytest

from headrace_lake.dataset import DatasetError, DatasetRow, Rule, bucket_examples, release_examples, rows_digest, rows_of
from headrace_lake.dataset_files import write
from headrace_schemas.canonical import sha256
from headrace_schemas.codec import encode
from headrace_schemas.derived import (
    Batch,
    BatchStatistics,
    Components,
    Content,
    Example,
    Locator,
    Member,
    ReleaseDecision,
    TrainingStart,
    Weights,
    Withdrawal,
)
from headrace_schemas.events import BatchReady, Event, ExampleRewarded, ExampleWithdrawn, ReleasePromoted, TrainingStarted
from headrace_schemas.inputs import Agent, Message, RefPart, TextPart, Tool, ToolCall
from headrace_schemas.selection import members_digest
from headrace_streams import signing
from headrace_streams.kafka.partitioner import partition_for
from headrace_streams.settings import Settings
from headrace_streams.signing import TrustedKeys
from headrace_streams.testing import written_headers
from support.keys import key_files
from support.memory_log import MemoryLog

BUCKET = "sql/tiny"


async def bucket_rows(log: MemoryLog, bucket: str, rule: Rule = 2) -> list[DatasetRow]:
    return rows_of((await bucket_examples(log, bucket)).learnt, rule)


async def release_rows(
    log: MemoryLog, bucket: str, release_id: str, trusted: TrustedKeys | None = None, rule: Rule = 2
) -> tuple[list[DatasetRow], int]:
    """Rows, and how many of them were withdrawn since."""
    found = await release_examples(log, bucket, release_id, trusted)
    return rows_of(found.learnt, rule), found.withdrawn


def envelope(**data: object) -> dict[str, Any]:
    return {"specversion": "1.0", "id": "e", "source": "test", "time": "2026-11-21T10:00:00Z", **data}


class BucketLog:
    """Writes what the stages would have written for one bucket."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        self.partition = partition_for(BUCKET.encode(), self.log.count)

    def publish(self, topic: str, event: Event) -> tuple[int, bytes]:
        value = encode(event)
        return self.log.append(topic, self.partition, BUCKET.encode(), value, written_headers(topic)).offset, value

    def example(
        self,
        name: str,
        split: Literal["train", "validation", "test"] = "train",
        revision: int = 1,
        target: str = "select 1",
        reward: float = 0.5,
        weight: float = 1.0,
        content: Content | None = None,
    ) -> Member:
        data = Example(
            example_id=name,
            revision=revision,
            interaction_id=f"i-{name}",
            bucket=BUCKET,
            artifact_type="sql",
            model="tiny",
            agent=Agent(name="bot"),
            prompt_group="g",
            content=content or Content(prompt=f"question {name}", output="select 0", target=target),
            quality=0.5,
            reward=reward,
            components=Components(validation=0, feedback=0, difficulty=0, multiplier=1),
            weights=Weights(balance=1),
            contradicted=False,
            voices=1,
            event_time="2026-11-21T10:00:00Z",
            train=True,
        )
        offset, value = self.publish("examples", ExampleRewarded(**envelope(data=data)))
        return Member(
            example_id=name,
            revision=revision,
            sha256=sha256(value),
            role="train",
            weight=weight,
            difficulty=0.1,
            split=split,
            locator=Locator(topic="examples", partition=self.partition, offset=offset),
        )

    def withdraw(self, name: str) -> None:
        data = Withdrawal(example_id=name, revision=9, interaction_id=f"i-{name}", bucket=BUCKET, reason="erased")
        self.publish("examples", ExampleWithdrawn(**envelope(data=data)))

    def release(
        self, batch: list[Member], rehearsal: list[Member], withdrawn: Sequence[str] = (), taught_by: str | None = None
    ) -> None:
        statistics = BatchStatistics(examples=len(batch), negatives=0, effective_size=1, mean_reward=0)
        cut = Batch(
            batch_id="b1",
            bucket=BUCKET,
            artifact_type="sql",
            base="tiny",
            cause="target",
            target=1,
            members=batch,
            test_pool=[],
            statistics=statistics,
            policy_digests={},
        )
        self.publish("batches", BatchReady(**envelope(data=cut)))
        start = TrainingStart(
            run_id="r1",
            batch_id="b1",
            bucket=BUCKET,
            base="tiny",
            seed=1,
            method="lora",
            hyperparameters={},
            rehearsal=rehearsal,
            policy_digests={},
            withdrawn=list(withdrawn),
        )
        self.publish("runs", TrainingStarted(**envelope(data=start)))
        answer = ReleaseDecision(
            release_id="rel1",
            sequence=1,
            bucket=BUCKET,
            artifact_type="sql",
            base="tiny",
            batch_ids=["b1"],
            reason="better",
            policy_digests={},
            request_id="q",
            dataset_digest=taught_by,
        )
        self.publish("releases.history", ReleasePromoted(**envelope(data=answer)))


@pytest.fixture
def bucket_log() -> BucketLog:
    bucket_log = BucketLog()
    old = bucket_log.example("old")
    members = [bucket_log.example("a"), bucket_log.example("b", split="validation"), bucket_log.example("c", split="test")]
    bucket_log.release(members, [old])
    bucket_log.example("a", revision=2, target="select 2")
    return bucket_log


def test_the_rows_of_a_release_are_those_that_it_names() -> None:
    for named in (None, "right", "sha256:another"):
        log = BucketLog()
        members = [log.example("a"), log.example("b", split="validation")]
        log.release(members, [], taught_by=members_digest(members) if named == "right" else named)
        if named == "sha256:another":
            with pytest.raises(DatasetError, match="'rel1' was trained on sha256:another, and what its batch and its run name"):
                asyncio.run(release_examples(log.log, BUCKET, "rel1"))
        else:
            assert asyncio.run(release_examples(log.log, BUCKET, "rel1")).members == members_digest(members)


def test_a_release_gets_exactly_its_revisions_and_its_rehearsal(bucket_log: BucketLog) -> None:
    rows = asyncio.run(release_rows(bucket_log.log, BUCKET, "rel1"))[0]
    assert [(row.example_id, row.revision, row.split) for row in rows] == [
        ("a", 1, "train"),
        ("b", 1, "validation"),
        ("old", 1, "train"),
    ]
    assert rows[0].messages == [{"role": "user", "content": "question a"}, {"role": "assistant", "content": "select 1"}]


def test_a_release_was_not_trained_on_what_was_withdrawn_before_its_run() -> None:
    bucket_log = BucketLog()
    bucket_log.release([bucket_log.example("a"), bucket_log.example("b")], [], withdrawn=["a"])
    assert [row.example_id for row in asyncio.run(release_rows(bucket_log.log, BUCKET, "rel1"))[0]] == ["b"]


def test_of_what_trained_a_release_nothing_is_exported_that_was_withdrawn_since(bucket_log: BucketLog) -> None:
    """Erased rows, a rehearsal row among them, were exported again. Withdrawn feedback may come again, and the row with it."""
    for name in ("a", "b", "old"):
        bucket_log.withdraw(name)
    bucket_log.example("b", split="validation", revision=2)
    rows, withdrawn = asyncio.run(release_rows(bucket_log.log, BUCKET, "rel1"))
    assert [(row.example_id, row.revision) for row in rows] == [("b", 1)]
    assert withdrawn == 2


def test_a_row_of_no_weight_trained_nothing_and_is_in_no_data_set() -> None:
    bucket_log = BucketLog()
    bucket_log.release([bucket_log.example("a"), bucket_log.example("b", weight=0.0)], [])
    assert [row.example_id for row in asyncio.run(release_rows(bucket_log.log, BUCKET, "rel1"))[0]] == ["a"]
    assert [row.example_id for row in asyncio.run(bucket_rows(bucket_log.log, BUCKET))] == ["a"]


def test_what_somebody_else_put_on_the_log_stands_in_nobodys_way(bucket_log: BucketLog) -> None:
    before = asyncio.run(release_rows(bucket_log.log, BUCKET, "rel1"))[0]
    for topic in ("batches", "runs", "releases.history", "examples"):
        bucket_log.log.append(topic, bucket_log.partition, BUCKET.encode(), b"no event")
    assert asyncio.run(release_rows(bucket_log.log, BUCKET, "rel1"))[0] == before
    assert asyncio.run(bucket_rows(bucket_log.log, BUCKET))


def test_what_somebody_else_says_of_a_release_is_not_what_trained_it(bucket_log: BucketLog, tmp_path: Path) -> None:
    before = asyncio.run(release_rows(bucket_log.log, BUCKET, "rel1"))
    [said] = bucket_log.log.records["releases.history", bucket_log.partition]
    assert said.value is not None
    forged = said.value.replace(b'"b1"', b'"b2"')
    assert forged != said.value
    bucket_log.log.append("releases.history", bucket_log.partition, said.key, forged)
    assert asyncio.run(release_rows(bucket_log.log, BUCKET, "rel1")) == before
    files = key_files(tmp_path, "ours")
    ours = Settings(signing_key=files.private, trusted_keys=(str(files.public),))
    key, trusted = signing.signing_key(ours), signing.trusted_keys(ours)
    assert key is not None
    with pytest.raises(DatasetError, match="rel1"):
        asyncio.run(release_rows(bucket_log.log, BUCKET, "rel1", trusted))
    signature = key.header("releases.history", said.key or b"", said.value)
    bucket_log.log.append("releases.history", bucket_log.partition, said.key, said.value, (*said.headers, signature))
    assert asyncio.run(release_rows(bucket_log.log, BUCKET, "rel1", trusted)) == before


def test_a_bucket_gets_newest_revisions_without_what_was_withdrawn(bucket_log: BucketLog) -> None:
    gone = Withdrawal(example_id="b", revision=2, interaction_id="i-b", bucket=BUCKET, reason="retracted")
    bucket_log.publish("examples", ExampleWithdrawn(**envelope(data=gone)))
    rows = asyncio.run(bucket_rows(bucket_log.log, BUCKET))
    assert [(row.example_id, row.revision) for row in rows] == [("a", 2)]


def test_what_turned_out_to_be_wrong_is_no_training_data_any_more(bucket_log: BucketLog) -> None:
    bucket_log.example("a", revision=3, reward=-0.4)
    assert [row.example_id for row in asyncio.run(bucket_rows(bucket_log.log, BUCKET))] == ["b"]


def test_a_row_that_is_not_what_was_trained_on_is_refused(bucket_log: BucketLog) -> None:
    records = bucket_log.log.records["examples", bucket_log.partition]
    records[1] = records[1]._replace(value=b"{}")
    with pytest.raises(DatasetError, match="example 'a' revision 1"):
        asyncio.run(release_rows(bucket_log.log, BUCKET, "rel1"))


def test_an_unknown_release_is_named(bucket_log: BucketLog) -> None:
    with pytest.raises(DatasetError, match="'rel9'"):
        asyncio.run(release_rows(bucket_log.log, BUCKET, "rel9"))


def test_both_formats_hold_the_same_rows(bucket_log: BucketLog, tmp_path: Path) -> None:
    rows = asyncio.run(release_rows(bucket_log.log, BUCKET, "rel1"))[0]
    lines = [json.loads(line) for line in write(rows, tmp_path, "chat").read_text().splitlines()]
    table = pyarrow.parquet.read_table(write(rows, tmp_path, "parquet")).to_pylist()
    assert [line["messages"] for line in lines] == [
        [{"role": message["role"], "content": message["content"]} for message in row["messages"]] for row in table
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.jsonl", "train.parquet"]
    assert rows_digest(rows).startswith("sha256:")


WEATHER = Tool(name="weather", parameters={"type": "object", "properties": {"city": {"type": "string"}}})
CALLING = Content(
    prompt=[
        Message(role="user", content=[TextPart(text="How warm"), TextPart(text="here?"), RefPart(media_type="image/png", uri="s3://b/a")]),
        Message(role="assistant", tool_calls=[ToolCall(id="c1", name="weather", arguments='{"city": "Oslo"}')]),
        Message(role="tool", content="3", tool_call_id="c1"),
    ],
    output="",
    target=Message(role="assistant", content="It is", tool_calls=[ToolCall(id="c2", name="weather", arguments={"city": "Rome"})]),
    context="It snows.",
    tools=[WEATHER],
)  # fmt: skip


@pytest.fixture
def calling_log() -> BucketLog:
    bucket_log = BucketLog()
    bucket_log.release([bucket_log.example("a", content=CALLING), bucket_log.example("b")], [])
    return bucket_log


def test_tools_arguments_and_references_are_in_both_formats_and_in_the_digest(calling_log: BucketLog, tmp_path: Path) -> None:
    rows = asyncio.run(release_rows(calling_log.log, BUCKET, "rel1"))[0]
    called, plain = (json.loads(line) for line in write(rows, tmp_path, "chat").read_text().splitlines())
    assert json.loads(called["tools"]) == [
        {
            "type": "function",
            "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
        }
    ]
    assert plain["tools"] is None
    assert called["messages"][0]["content"] == "It snows.\n\nHow warm\nhere?\n[image/png s3://b/a]"
    arguments = [
        json.loads(call["function"]["arguments"]) for message in called["messages"] for call in message.get("tool_calls", ())
    ]
    assert arguments == [{"city": "Oslo"}, {"city": "Rome"}]
    table = pyarrow.parquet.read_table(write(rows, tmp_path, "parquet")).to_pylist()
    assert [row["tools"] for row in table] == [called["tools"], None]
    without = [msgspec.structs.replace(row, tools=None) for row in rows]
    assert rows_digest(without) != rows_digest(rows)


def test_a_digest_of_before_is_made_again_by_its_rule(calling_log: BucketLog, bucket_log: BucketLog) -> None:
    """These were printed before rows held tools."""
    for log, noted in (
        (calling_log, "sha256:52cc7c27aae1dafc174e0536687e36100f7975ef63bffb84d76c659ea0f44b63"),
        (bucket_log, "sha256:9c0ee560dc776a1627efa70bdb04aad428279a5c14476c6c6168eef8c82d7267"),
    ):
        rows = asyncio.run(release_rows(log.log, BUCKET, "rel1", rule=1))[0]
        assert rows_digest(rows) == noted
    rows = asyncio.run(release_rows(bucket_log.log, BUCKET, "rel1"))[0]
    assert rows_digest(rows) == "sha256:9c0ee560dc776a1627efa70bdb04aad428279a5c14476c6c6168eef8c82d7267", (
        "rows that both rules write alike have one digest"
    )
    assert rows_digest(asyncio.run(bucket_rows(bucket_log.log, BUCKET))) == rows_digest(
        asyncio.run(bucket_rows(bucket_log.log, BUCKET, 1))
    )
