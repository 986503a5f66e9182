"""Data sets in every form, filtered, as of a time, from log or lake: the same rows have one digest, a column has one type."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.json
import pytest

from headrace_cli.main import invoke
from headrace_lake.as_of import LogAsOf
from headrace_lake.dataset import DatasetExample, Selected, bucket_examples, release_examples, rows_digest, rows_of
from headrace_lake.dataset_files import DatasetFile, preferences, write, write_alpaca, write_dpo, write_kto
from headrace_lake.dataset_filter import DatasetFilter
from headrace_lake.lake_log import LakeLog
from headrace_lake.log import LogRecord
from headrace_schemas.canonical import sha256
from headrace_schemas.codec import decode
from headrace_schemas.derived import Components, Content, Example, Locator, Member, Weights
from headrace_schemas.events import BatchReady, ReleasePromoted, TrainingStarted
from headrace_schemas.inputs import Agent, Message, Tool, ToolCall
from headrace_schemas.selection import dataset_members, members_digest
from headrace_schemas.times import rfc3339
from support.memory_log import MemoryLog
from support.memory_ring import BUCKET, MemoryRing, lake_of


def example(
    name: str,
    prompt: Any = "how many?",
    output: Any = "one",
    *,
    target: Any = None,
    quality: float = 0.8,
    split: Any = "train",
    **more: Any,
) -> DatasetExample:
    data = Example(
        example_id=name, revision=1, interaction_id=f"i-{name}", bucket=BUCKET, artifact_type="sql", model="tiny",
        agent=more.pop("agent", Agent(name="bot")), prompt_group="g",
        content=Content(prompt=prompt, output=output, target=output if target is None else target, tools=more.pop("tools", None)),
        quality=quality, reward=quality,
        components=Components(validation=0, feedback=0, difficulty=0, multiplier=1, correction=more.pop("correction", None)),
        weights=Weights(balance=1), contradicted=False, voices=1, train=True,
        **{"event_time": "2026-11-21T10:00:00Z", **more},
    )  # fmt: skip
    member = Member(
        example_id=name, revision=1, sha256=sha256(name.encode()), role="train" if quality > 0 else "negative", weight=1.0,
        difficulty=0.1, split=split, locator=Locator(topic="examples", partition=0, offset=0),
    )  # fmt: skip
    return DatasetExample(data, member)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def ring() -> MemoryRing:
    ring = MemoryRing(4)
    for _ in range(3):
        ring.round(25)
    return ring


def events(ring: MemoryRing, topic: str, kind: type[Any]) -> list[Any]:
    """Data of the events of a kind."""
    return [event.data for event in (decode(record.value) for record in ring.log.of(topic)) if isinstance(event, kind)]


def releases(ring: MemoryRing) -> list[str]:
    return [release.release_id for release in events(ring, "releases.history", ReleasePromoted)]


def test_a_lake_and_the_log_give_the_same_data_sets(ring: MemoryRing, tmp_path: Path) -> None:
    folder = lake_of(ring.log, tmp_path / "lake", rows=8)

    async def both(name: str | None) -> tuple[Selected, Selected]:
        with folder.open() as manifest:
            lake = LakeLog(folder, manifest)
            if name is None:
                return await bucket_examples(ring.log, BUCKET), await bucket_examples(lake, BUCKET)
            return await release_examples(ring.log, BUCKET, name), await release_examples(lake, BUCKET, name)

    for name in (None, *releases(ring)):
        from_log, from_lake = asyncio.run(both(name))
        assert from_log == from_lake
        assert rows_digest(rows_of(from_log.learnt)) == rows_digest(rows_of(from_lake.learnt))
        assert from_log.learnt


def test_the_digest_of_a_release_is_that_of_what_its_run_selected(ring: MemoryRing) -> None:
    batches = {batch.batch_id: batch for batch in events(ring, "batches", BatchReady)}
    starts = {start.batch_id: start for start in events(ring, "runs", TrainingStarted)}
    promoted = events(ring, "releases.history", ReleasePromoted)
    for release in promoted:
        [batch] = release.batch_ids
        found = asyncio.run(release_examples(ring.log, BUCKET, release.release_id))
        assert found.members == members_digest(dataset_members(batches[batch], starts[batch]))
        assert found.members == members_digest([one.member for one in found.learnt])
    assert len(promoted) > 3


def test_as_of_a_time_is_what_one_would_have_known_then(ring: MemoryRing) -> None:
    """Every append time of the log: the rows are those of a log that ends there."""
    times = sorted({record.timestamp for records in ring.log.records.values() for record in records})
    known = []
    for time in times[:: len(times) // 12]:
        early = MemoryRing().log
        early.records = {
            place: [record for record in records if record.timestamp <= time] for place, records in ring.log.records.items()
        }
        now = asyncio.run(bucket_examples(early, BUCKET))
        assert asyncio.run(bucket_examples(LogAsOf(ring.log, time), BUCKET)) == now
        known.append(len(now.learnt))
    assert known[0] == 0
    assert known[-1] > known[len(known) // 2] > 0


def test_a_log_that_is_read_as_of_a_time_is_closed_where_that_ends(ring: MemoryRing) -> None:
    closed: list[bool] = []

    class Closing(MemoryLog):
        async def read(
            self, topic: str, partition: int, start: int = 0, end: int | None = None
        ) -> AsyncGenerator[LogRecord, None]:
            try:
                async for record in super().read(topic, partition, start, end):
                    yield record
            finally:
                closed.append(True)

    log = Closing()
    log.records = ring.log.records
    place, records = next((place, records) for place, records in log.records.items() if len(records) > 2)

    async def read() -> tuple[list[LogRecord], list[bool]]:
        found = [record async for record in LogAsOf(log, records[0].timestamp).read(*place)]
        return found, list(closed)

    assert asyncio.run(read()) == (records[:1], [True])


def test_filters_hold_all_at_once() -> None:
    examples = [
        example("a", agent=Agent(name="x", role="coder"), principals=["human:ann"]),
        example("b", agent=Agent(name="x"), principals=["test:ci", "human:bob"], quality=0.3),
        example("c", event_time="2026-11-22T10:00:00+02:00", split="validation"),
    ]

    def names(**wanted: Any) -> list[str]:
        return [one.example.example_id for one in DatasetFilter(**wanted).apply(examples)]

    assert names() == ["a", "b", "c"]
    assert names(agent="x") == ["a", "b"]
    assert names(agent="x", role="coder") == ["a"]
    assert names(rater="bob") == names(rater="human:bob") == ["b"]
    assert names(rater="ci", max_reward=0.2) == []
    assert names(min_reward=0.3, max_reward=0.5) == ["b"]
    assert names(split="validation") == ["c"]
    assert names(since="2026-11-22T08:00:00Z") == ["c"]
    assert names(before="2026-11-22T08:00:00Z") == ["a", "b"]
    assert DatasetFilter(agent="x", min_reward=0.5).given() == {"agent": "x", "min_reward": "0.5"}


def test_a_pair_is_the_best_answer_over_one_that_is_clearly_worse_or_a_correction_over_its_output(tmp_path: Path) -> None:
    learnt = [
        example("good", output="one"),
        example("near", output="uno", quality=0.65),
        example("mended", prompt="and now?", output="wrong", target="right", correction=0.6),
        example("other", prompt="else?"),
        example("aside", output="three", quality=0.1, split="validation"),
    ]
    avoided = [example("bad", output="none", quality=-0.4), example("same", output="one", quality=-0.9)]
    found = {tuple(one.of): one for one in preferences(learnt, avoided)}
    assert set(found) == {("mended",), ("good", "bad")}
    assert [found[key].margin for key in (("good", "bad"), ("mended",))] == pytest.approx([0.6, 0.6])
    written = write_dpo(learnt, avoided, tmp_path)
    rows = lines(written.path)
    assert (written.rows, written.left_out) == (2, {"nothing to compare with": 4})
    pair = next(row for row in rows if row["kind"] == "answers")
    assert pair["prompt"] == [{"role": "user", "content": "how many?"}]
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == ("one", "none")


def test_kto_says_of_each_answer_whether_it_is_right(tmp_path: Path) -> None:
    written = write_kto(
        [example("a"), example("b", output="wrong", target="right")], [example("c", output="bad", quality=-0.5)], tmp_path
    )
    said = [(row["example_id"], row["completion"][0]["content"], row["label"]) for row in lines(written.path)]
    assert said == [("a", "one", True), ("b", "right", True), ("b", "wrong", False), ("c", "bad", False)]


def test_alpaca_keeps_system_and_history_and_leaves_out_what_it_can_not_say(tmp_path: Path) -> None:
    talk = [
        Message(role="system", content="be brief"),
        Message(role="user", content="hello"),
        Message(role="assistant", content="hi"),
        Message(role="user", content="how many?"),
    ]
    call = Message(role="assistant", tool_calls=[ToolCall(id="c", name="count", arguments={})])
    written = write_alpaca([example("a", talk), example("b", output=call), example("c", "plain")], tmp_path)
    assert (written.rows, written.left_out) == (2, {"tools": 1})
    first, second = lines(written.path)
    assert (first["instruction"], first["system"], first["history"], first["output"]) == (
        "how many?",
        "be brief",
        [["hello", "hi"]],
        "one",
    )
    assert (second["instruction"], second["system"], second["history"]) == ("plain", "", [])


def clashing() -> list[DatasetExample]:
    """Arguments and parameters of other types in each row."""
    found = []
    for number, value in enumerate((1, "two", [3], {"four": 4}, None, 5.5)):
        tool = Tool(name="f", parameters={"type": "object", "properties": {"x": {"type": "object", "default": value}}})
        call = Message(role="assistant", tool_calls=[ToolCall(id=str(number), name="f", arguments={"x": value})])
        found.append(example(f"e{number}", output=call, target=f"said {number}", tools=[tool]))
        found.append(example(f"c{number}", output=call, prompt=f"call {number}", tools=[tool]))
        found.append(example(f"p{number}", prompt=f"plain {number}"))
    return found


def write_chat(learnt: Sequence[DatasetExample], avoided: Sequence[DatasetExample], out: Path) -> DatasetFile:
    return DatasetFile(write(rows_of(learnt), out, "chat"), len(learnt), {})


@pytest.mark.parametrize("written", [write_chat, write_dpo, write_kto])
def test_no_column_has_two_types_whatever_tools_are_called_with(
    tmp_path: Path, written: Callable[[Sequence[DatasetExample], Sequence[DatasetExample], Path], DatasetFile]
) -> None:
    file = written(clashing(), [], tmp_path)
    table = pyarrow.json.read_json(file.path)
    assert table.num_rows == file.rows
    assert table.schema.field("tools").type == "string"
    assert duckdb.execute(f"SELECT count(*) FROM read_json('{file.path}')").fetchall() == [(file.rows,)]
    for row in lines(file.path):
        for message in (*row.get("messages", ()), *row.get("rejected", ()), *row.get("completion", ())):
            for called in message.get("tool_calls", ()):
                assert isinstance(json.loads(called["function"]["arguments"]), dict)


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def dataset(ring: MemoryRing, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    folder = lake_of(ring.log, tmp_path / "lake")

    def run(*arguments: str) -> tuple[int, str, str]:
        given = ["--from", "lake", "--lake", str(folder.path), "--out", str(tmp_path / "out")]
        return invoke(["dataset", BUCKET, *given, *arguments]), *capsys.readouterr()

    return run


@pytest.mark.parametrize("form", ["chat", "alpaca", "dpo", "kto", "parquet"])
def test_the_command_writes_each_form_with_a_card_and_one_digest(
    ring: MemoryRing, dataset: Run, tmp_path: Path, form: str
) -> None:
    release = releases(ring)[1]
    expected = rows_digest(rows_of(asyncio.run(release_examples(ring.log, BUCKET, release)).learnt))
    code, out, error = dataset("--format", form, "--release", release, "--json")
    assert code == 0, error
    found = json.loads(out)
    assert (found["digest"], found["rows"] > 0, Path(found["file"]).exists()) == (expected, True, True)
    page = (tmp_path / "out" / "dataset-card.md").read_text()
    for words in (
        release,
        expected,
        found["members"],
        f"{form}, {found['rows']} rows",
        "a lake up to",
        "## Erasure",
        "## Licence",
    ):
        assert words in page


def test_the_command_says_in_a_line_what_is_wrong(ring: MemoryRing, dataset: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code, words in (
        (["--as-of", "yesterday"], 2, "--as-of 'yesterday' is no RFC 3339 time with an offset"),
        (["--since", "1"], 2, "--since '1' is no RFC 3339 time"),
        (["--agent", "nobody"], 1, "has no row that the filters let pass"),
        (["--as-of", "2020-01-01T00:00:00Z"], 1, "has no batch yet"),
        (["--release", "nothing"], 4, "release 'nothing' of bucket"),
    ):
        found, out, error = dataset(*arguments)
        assert (found, out, error.count("\n"), words in error) == (code, "", 1, True), error
    assert invoke(["dataset", BUCKET, "--out", "x", "--lake", "y"]) == 2
    assert "--lake goes with --from lake" in capsys.readouterr().err
    last = max(record.timestamp for records in ring.log.records.values() for record in records)
    code, now, _ = dataset("--json")
    assert dataset("--json", "--as-of", rfc3339(last))[1] == now
