"""`headrace evaluations` shows both answers to each test row, and what was taken back leaves the store."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from msgspec import structs

from headrace_schemas.codec import decode
from headrace_schemas.derived import PromptMember, SamplesReference
from headrace_schemas.events import BatchReady
from headrace_schemas.ids import derive_id
from headrace_streams.adapter_store import Store
from headrace_streams.evaluation_samples import EvaluationSample, write
from headrace_streams.settings import Settings
from support import released, training_data
from support.examples import BUCKET
from support.outcomes import evaluation
from support.training_data import RecordedExample

pytestmark = pytest.mark.kafka

Run = Callable[..., tuple[int, str, str]]
LEARNT, ASKED, OTHER = (
    training_data.recorded(1, bucket=BUCKET),
    training_data.recorded(2, "test", bucket=BUCKET, data_subject="user-7"),
    training_data.recorded(3, "test", bucket=BUCKET),
)


@pytest.fixture(autouse=True)
def _store(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_STORE", settings.store)
    monkeypatch.setenv("HEADRACE_DATA_DIR", str(settings.data_dir))


def sample(recorded: RecordedExample, grade: float, served: float) -> EvaluationSample:
    example = recorded.example
    return EvaluationSample(
        example_id=example.example_id, revision=1, group="g", prompt_sha256=f"sha256:{'0' * 64}",
        answer=f"new\nfor {example.content.prompt}",
        served_answer="old", grade=grade, served_grade=served, loss=0.5, served_loss=1.0,
    )  # fmt: skip


def evaluated(settings: Settings, folder: Path, name: str, *asked: RecordedExample, prompts: Sequence[PromptMember] = ()) -> str:
    """A batch with these test rows and prompts, and its evaluation with samples; their digest."""
    batch = training_data.batch([LEARNT.member], [each.member for each in asked], bucket=BUCKET, name=name)
    batch = structs.replace(batch, prompts=list(prompts) or None)
    samples = [sample(each, 100.0, 0.0 if number == 0 else 100.0) for number, each in enumerate(asked)]
    samples.append(
        EvaluationSample(example_id="odd", revision=1, group="h", prompt_sha256="sha256:" + "1" * 64, left_out="message_lost")
    )
    write(folder / name, samples, name)
    digest = Store(settings.store).put_samples(folder / name)
    kept = SamplesReference(sha256=digest, rows=len(samples), batch_id=batch.batch_id)
    released.write(settings, "batches", BUCKET, released.event(BatchReady, batch, derive_id("ready", name)))
    released.write(settings, "outcomes", BUCKET, decode(evaluation(name, samples=kept)))
    return digest


def test_samples_are_shown_with_both_answers_and_leave_when_their_example_is_taken_back(
    headrace: Run, settings: Settings, tmp_path: Path
) -> None:
    for recorded in (LEARNT, ASKED, OTHER):
        released.write(settings, "examples", BUCKET, decode(recorded.value))
    first, second = evaluated(settings, tmp_path, "v1", ASKED, OTHER), evaluated(settings, tmp_path, "v2", OTHER)

    code, out, error = headrace("evaluations", "list", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert (code, error) == (0, "")
    assert [(row["version_id"], row["samples"]["sha256"]) for row in rows] == [("v1", first), ("v2", second)]

    code, out, error = headrace("evaluations", "samples", "v1")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["win", "version", "served", "tie", "version", "served", "left-out"]
    assert "grade 100, loss 0.5  'new\\nfor 2 + 1 ?'" in out
    assert "1 win, 1 tie, 1 left-out" in error
    code, out, _ = headrace("evaluations", "samples", "evaluation-v1", "--only", "win", "--json")
    [row] = [json.loads(line) for line in out.splitlines()]
    assert (row["outcome"], row["answer"], row["served_answer"]) == ("win", "new\nfor 2 + 1 ?", "old")
    assert headrace("evaluations", "samples", "v9")[0] == 1

    code, out, error = headrace("retract", LEARNT.example.interaction_id, "--json")
    assert (code, json.loads(out)["samples"]) == (0, []), "what was learnt from is in no answer"
    code, _, error = headrace("forget", "user-7")
    assert code == 0
    assert f"samples of 1 evaluations hold answers to it: 1 removed, 0 not in the store {settings.store}" in error
    code, out, error = headrace("evaluations", "samples", "v1")
    assert (code, out) == (1, "")
    assert error.startswith(f"headrace: samples {first} is not in the store")
    assert headrace("evaluations", "samples", "v2")[0] == 0

    assert headrace("evaluations", "remove", second)[:2] == (0, f"{second}  removed\n")
    assert headrace("evaluations", "remove", second)[0] == 1


def test_a_prompt_that_was_drawn_is_forgotten_too_although_nobody_said_anything_of_it(
    headrace: Run, settings: Settings, tmp_path: Path
) -> None:
    drawn = training_data.drawn(9, bucket=BUCKET, data_subject="user-8")
    released.write(settings, "examples", BUCKET, decode(drawn.value))
    digest = evaluated(settings, tmp_path, "v1", OTHER, prompts=[drawn.member])
    other = evaluated(settings, tmp_path, "v2", OTHER)
    code, out, _ = headrace("forget", "user-8", "--json")
    assert (code, json.loads(out)["samples"], json.loads(out)["examples"]) == (0, [{"sha256": digest, "removed": True}], [])
    assert Store(settings.store).remove_samples(other)


def test_samples_that_cannot_be_removed_are_named_with_what_to_do(
    headrace: Run, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released.write(settings, "examples", BUCKET, decode(OTHER.value))
    digest = evaluated(settings, tmp_path, "v1", OTHER)
    (tmp_path / "broken" / "samples" / f"{digest[7:]}.parquet").mkdir(parents=True)  # a folder can't be removed like a file
    monkeypatch.setenv("HEADRACE_STORE", str(tmp_path / "broken"))
    code, _, error = headrace("retract", OTHER.example.interaction_id)
    assert code == 3
    assert f"to be removed where the store can be written: headrace evaluations remove {digest}" in error
