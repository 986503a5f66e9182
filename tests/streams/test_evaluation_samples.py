"""Samples come back as they were written, or are refused by name; they keep to their bounds and leave the store when asked."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from headrace_schemas.canonical import sha256
from headrace_streams.adapter_files import AdapterRefused, StoreError
from headrace_streams.adapter_store import Store
from headrace_streams.evaluation_samples import (
    FILE_BYTES,
    EvaluationSample,
    SampleBounds,
    SamplesRefused,
    bounded,
    read,
    write,
)

SAMPLE = EvaluationSample(
    example_id="e1", revision=2, group="g", prompt_sha256=sha256(b"?"), answer="four", served_answer="fünf", grade=100.0,
    served_grade=0.0, loss=0.25, served_loss=1.5, served_ungraded="no answer within 5 s",
)  # fmt: skip
LEFT_OUT = EvaluationSample(example_id="e2", revision=1, group="h", prompt_sha256=sha256(b"!"), left_out="message_lost")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_samples_come_back_from_the_store_as_they_were_written(store: Store, tmp_path: Path) -> None:
    samples = [SAMPLE, replace(SAMPLE, head="v0", suite="refunds", cut="characters"), LEFT_OUT]
    write(tmp_path / "made.parquet", samples, "run-1")
    digest = store.put_samples(tmp_path / "made.parquet")
    assert store.put_samples(tmp_path / "made.parquet") == digest
    assert read(store.samples(digest, FILE_BYTES), digest) == samples
    assert (tmp_path / "store" / "samples" / f"{digest[7:]}.parquet").is_file()


def test_the_same_samples_of_two_runs_are_two_files(tmp_path: Path) -> None:
    for run in ("run-1", "run-2"):
        write(tmp_path / run, [SAMPLE], run)
    assert (tmp_path / "run-1").read_bytes() != (tmp_path / "run-2").read_bytes()


@given(st.text(), st.text(st.characters(codec=None, categories=["Cs", "L"])))
def test_any_text_can_be_written(answer: str, surrogates: str) -> None:
    sample = replace(SAMPLE, answer=answer, served_answer=surrogates)
    sink = BytesIO()
    write(sink, [sample], "run-1")  # type: ignore[arg-type]
    [back] = read(sink.getvalue(), sha256(sink.getvalue()))
    assert back.answer == answer
    assert back.served_answer == surrogates.encode(errors="replace").decode()


def test_what_was_altered_or_is_no_samples_is_refused_by_name(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "made.parquet"
    write(path, [SAMPLE], "run-1")
    digest = store.put_samples(path)
    kept = tmp_path / "store" / "samples" / f"{digest[7:]}.parquet"
    content = kept.read_bytes()
    with pytest.raises(AdapterRefused, match="more than 10 bytes"):
        store.samples(digest, 10)
    kept.write_bytes(content.replace(b"four", b"five"))
    with pytest.raises(SamplesRefused, match="have another content"):
        read(store.samples(digest, FILE_BYTES), digest)
    kept.unlink()
    kept.symlink_to(path)
    with pytest.raises(AdapterRefused, match="no regular file"):
        store.samples(digest, FILE_BYTES)
    for bad, why in (
        (b"PK\3\4 a pickle", "no Parquet file"),
        (b"PAR1 cut off PAR1", "can't be read"),
        (content[:-9], "no Parquet"),
    ):
        with pytest.raises(SamplesRefused, match=why):
            read(bad, sha256(bad))
    pyarrow.parquet.write_table(pyarrow.table({"example_id": ["e"]}), path)
    with pytest.raises(SamplesRefused, match="another form"):
        read(path.read_bytes(), sha256(path.read_bytes()))
    with pytest.raises(AdapterRefused, match="not the digest"):
        store.samples("sha256:../../etc", FILE_BYTES)


def test_columns_of_a_later_version_are_passed_over_and_a_wrong_type_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "made.parquet"
    write(path, [SAMPLE], "run-1")
    table = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(table.append_column("later", [["x"]]), path)
    assert read(path.read_bytes(), sha256(path.read_bytes())) == [SAMPLE]
    number = table.schema.get_field_index("grade")
    pyarrow.parquet.write_table(table.set_column(number, "grade", [["much"]]), path)
    with pytest.raises(SamplesRefused, match="can't be read"):
        read(path.read_bytes(), sha256(path.read_bytes()))


def test_answers_keep_to_their_bounds_and_figures_stay() -> None:
    long = replace(SAMPLE, answer="ä" * 10, served_answer="b")
    kept = bounded([long, SAMPLE, SAMPLE, LEFT_OUT], SampleBounds(characters=6, bytes=24))
    assert [(each.answer, each.served_answer, each.cut) for each in kept] == [
        ("ä" * 6, "b", "characters"),
        ("four", "fünf", None),
        (None, None, "bytes"),
        (None, None, None),
    ]
    assert [each.grade for each in kept] == [100.0, 100.0, 100.0, None]


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), max_size=20), st.integers(1, 9), st.integers(0, 99))
def test_a_file_never_holds_more_than_its_bytes(texts: list[tuple[str, str]], characters: int, size: int) -> None:
    samples = [replace(SAMPLE, answer=one, served_answer=other) for one, other in texts]
    kept = bounded(samples, SampleBounds(characters, size))
    answers = [text for each in kept for text in (each.answer, each.served_answer) if text is not None]
    assert sum(len(text.encode(errors="replace")) for text in answers) <= size
    assert all(len(text) <= characters for text in answers)
    assert len(kept) == len(samples)


def test_samples_leave_the_store_by_digest_and_by_age(store: Store, tmp_path: Path) -> None:
    digests = []
    for run in ("old", "new"):
        write(tmp_path / run, [SAMPLE], run)
        digests.append(store.put_samples(tmp_path / run))
    old, new = digests
    now = datetime.now(UTC)
    past = (now - timedelta(days=91)).timestamp()
    os.utime(tmp_path / "store" / "samples" / f"{old[7:]}.parquet", (past, past))
    assert store.remove_samples_before(now - timedelta(days=90)) == 1
    with pytest.raises(AdapterRefused, match="not in the store"):
        store.samples(old, FILE_BYTES)
    assert store.remove_samples(new)
    assert not store.remove_samples(new)
    assert Store(tmp_path / "empty").remove_samples_before(now) == 0


def test_a_store_that_cannot_be_written_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    write(tmp_path / "made", [SAMPLE], "run-1")
    with pytest.raises(StoreError, match="could not be stored"):
        Store(tmp_path / "file" / "store").put_samples(tmp_path / "made")


@pytest.mark.parametrize(
    ("grades", "losses", "outcome"),
    [
        ((100.0, 0.0), (2.0, 1.0), "win"),
        ((0.0, 100.0), (1.0, 2.0), "loss"),
        ((50.0, 50.0), (1.0, 2.0), "tie"),
        ((None, None), (1.0, 2.0), "win"),
        ((None, None), (2.0, 1.0), "loss"),
        ((None, None), (1.0, None), None),
    ],
)
def test_the_grade_says_who_won_and_without_grades_the_loss(
    grades: tuple[float | None, float | None], losses: tuple[float | None, float | None], outcome: str | None
) -> None:
    sample = replace(SAMPLE, grade=grades[0], served_grade=grades[1], loss=losses[0], served_loss=losses[1])
    assert sample.outcome == outcome
