"""The data of a batch in figures against targets, and a sample that people judge and that comes back as their feedback."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from headrace_cli.main import invoke
from headrace_lake import quality_cli
from headrace_lake.dataset import DatasetExample
from headrace_lake.quality import SampleInvalid, evenness, feedback_of, quality_of, sample_of
from headrace_lake.quality_cli import batch_examples
from headrace_processors.quality_policy import QualityPolicy
from headrace_schemas.codec import encode
from headrace_schemas.derived import Batch, Components, Content
from headrace_schemas.events import BatchReady
from headrace_schemas.inputs import Agent
from headrace_streams.kafka.partitioner import partition_for
from headrace_streams.policy import PolicyError, parse_policy
from support import training_data
from support.memory_log import MemoryLog

PLAIN = Components(validation=0.0, feedback=0.5, difficulty=0.2, multiplier=1.3)
POLICY = QualityPolicy(task_types={"sums": r"\d \+ \d", "joins": r"\bjoin\b"})


def content(prompt: str, target: str) -> Content:
    return Content(prompt=prompt, output="?", target=target)


ROWS = [
    training_data.recorded(0, score=90.0, voices=2, principals=["human:ana", "test:unit"], components=PLAIN),
    training_data.recorded(1, score=40.0, voices=2, contradicted=True, components=PLAIN, agent=Agent(name="a", role="coder")),
    training_data.recorded(2, content=content("what now", "the sum is three."), prompt_group="g0"),
    training_data.recorded(3, content=content("3 + 1 ?", '{"sum": 4}'), components=PLAIN),
]  # fmt: skip


def cut() -> Batch:
    batch = training_data.batch([row.member for row in ROWS])
    return structs.replace(batch, statistics=structs.replace(batch.statistics, left_out={"near_duplicate": 1, "over_share": 9}))


def examples() -> list[DatasetExample]:
    return [DatasetExample(row.example, row.member) for row in ROWS]


def test_every_figure_is_what_a_small_batch_gives_by_hand() -> None:
    found = quality_of(cut(), examples(), POLICY, known_roles=["tester"])
    figures = {figure.name: figure.value for figure in found.figures}
    assert found.task_types == {"sums": 3, "other": 1}
    assert found.roles == {"adder": 3, "coder": 1}
    assert figures["task_types"] == 0.5, "nothing joins"
    assert figures["task_entropy"] == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(2))
    assert figures["roles"] == pytest.approx(2 / 3), "the bucket once had a tester"
    assert figures["group_entropy"] == pytest.approx(-(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25)) / math.log(3))
    assert figures["verified"] == 0.5, "a score of 90, and a correction"
    assert (figures["corrected"], figures["contradicted"], figures["agreement"]) == (0.25, 0.25, 0.5)
    assert (figures["duplicates"], found.dropped) == (0.2, {"near_duplicate": 1})
    assert found.styles == {"one line, open end": 2, "one line, full stop": 1, "json": 1}
    assert (figures["style"], figures["looked_at"]) == (0.5, 0.25)
    assert "looked_at" not in found.missed
    assert {"task_types", "verified", "style", "agreement"} <= set(found.missed)


def test_what_nothing_tells_has_no_value_and_misses_no_target() -> None:
    found = quality_of(training_data.batch([]), [], QualityPolicy())
    assert {figure.name for figure in found.figures if figure.value is not None} == set()
    assert found.missed == []
    assert evenness({"a": 3}) == 1.0
    assert evenness({}) is None


def test_a_pattern_that_is_none_is_one_line() -> None:
    with pytest.raises(PolicyError, match=r"quality\.task_types = .*sums = '\(' is no regular expression"):
        parse_policy(QualityPolicy, {"task_types": {"sums": "("}}, "policy file p", "quality.")


def lines(*changed: dict[str, Any]) -> list[str]:
    rows = sample_of(cut(), examples(), 1.0)
    return [json.dumps({**row, **change}) for row, change in zip(rows, [*changed, *[{}] * 4], strict=False)]


def test_a_sample_is_the_same_at_every_call_and_what_is_filled_in_comes_back_as_feedback() -> None:
    assert len(sample_of(cut(), examples(), 0.1)) == 1
    assert sample_of(cut(), examples(), 0.5) == sample_of(cut(), list(reversed(examples())), 0.5)
    said = lines({"score": 80}, {"corrected_output": "the sum is 9", "comment": "off"}, {"kind": "explicit_negative"})
    found = feedback_of(said, cut(), examples(), "ana")
    assert [each.line for each in found] == [1, 2, 3], "a line that nobody filled in says nothing"
    assert [each.feedback.kind for each in found] == ["rating", "user_correction", "explicit_negative"]
    assert (found[0].feedback.score, found[1].feedback.corrected_output) == (80, "the sum is 9")
    assert {each.feedback.principal and (each.feedback.principal.kind, each.feedback.principal.id) for each in found} == {
        ("human", "ana")
    }
    again = feedback_of(said, cut(), examples(), "ana")
    assert [each.feedback.feedback_id for each in again] == [each.feedback.feedback_id for each in found]
    assert {each.feedback.feedback_id for each in feedback_of(said, cut(), examples(), "ben")}.isdisjoint(
        each.feedback.feedback_id for each in found
    )
    [better] = feedback_of(lines({"score": 30}), cut(), examples(), "ana")
    assert better.feedback.feedback_id != found[0].feedback.feedback_id, "or the first verdict would stay"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"interaction_id": "nobody's", "score": 3}, 'line 1: interaction_id = "nobody\'s": no row of batch'),
        ({"score": 101}, "line 1: score = 101: a number from 0 to 100"),
        ({"score": True}, "line 1: score = True"),
        ({"corrected_output": ""}, "line 1: corrected_output = ''"),
        ({"kind": "user_correction"}, "line 1: kind = 'user_correction' needs corrected_output"),
        ({"comment": "hm"}, "line 1: a comment alone judges nothing"),
        ({"score": 5, "comment": "hm " * 10_000}, "line 1: no feedback: "),
        ({"kind": "much better"}, "line 1: no feedback: "),
    ],
)
def test_a_file_that_cannot_come_back_is_one_line_and_nothing_of_it_is_feedback(change: dict[str, Any], said: str) -> None:
    with pytest.raises(SampleInvalid) as refused:
        feedback_of(lines(change), cut(), examples(), "ana")
    assert said in str(refused.value)
    with pytest.raises(SampleInvalid, match="line 2: no JSON"):
        feedback_of([lines()[0], "{"], cut(), examples(), "ana")


def test_a_batch_is_read_with_the_rows_that_it_names_and_the_roles_that_its_bucket_had() -> None:
    log, partition = MemoryLog(), partition_for(training_data.BUCKET.encode(), 2)
    members = []
    for row in ROWS:
        record = log.append("examples", partition, training_data.BUCKET.encode(), row.value)
        locator = structs.replace(row.member.locator, partition=partition, offset=record.offset)
        members.append(structs.replace(row.member, locator=locator))
    batch = training_data.batch(members)
    event = BatchReady(specversion="1.0", id="b", source="headrace:curate", time="2026-11-21T10:00:00Z", data=batch)
    log.append("batches", partition, training_data.BUCKET.encode(), encode(event))
    found, rows, roles = asyncio.run(batch_examples(log, batch.batch_id))
    assert (found, [row.example for row in rows], roles) == (batch, [row.example for row in ROWS], {"adder", "coder"})
    with pytest.raises(Exception, match="there is no batch b9: `headrace batches list` shows all"):
        asyncio.run(batch_examples(log, "b9"))


def test_the_command_measures_writes_a_sample_and_reads_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def read(*_: Any) -> Any:
        return cut(), examples(), set()

    published: list[Any] = []

    async def publish(_: Any, feedback: list[Any]) -> None:
        published.extend(feedback)

    monkeypatch.setattr(quality_cli, "_read", read)
    monkeypatch.setattr(quality_cli, "_publish", publish)
    file = tmp_path / "sample.jsonl"
    assert invoke(["quality", "b1", "--sample", str(file)]) == 1
    out, err = capsys.readouterr()
    assert "verified       0.500  >= 0.95 not met" in out
    assert "1 of 4 rows in" in err
    assert invoke(["quality", "b1", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], "verified" in told["missed"]) == (4, True)
    row = json.loads(file.read_text())
    separated = {**row, "target": "one line\u2028for JSON, two for others", "score": 55}
    file.write_text(json.dumps(separated, ensure_ascii=False) + "\n", encoding="utf-8")
    assert invoke(["quality", "b1", "--sample", str(file)]) == 2, "what people filled in is not written over"
    assert "it is there already" in capsys.readouterr().err
    assert invoke(["quality", "b1", "--read", str(file), "--rater", "ana"]) == 0
    assert [(each.score, each.principal.id) for each in published] == [(55, "ana")]
    assert invoke(["quality", "b1", "--read", str(file), "--sample", str(file)]) == 2
