"""Samples of an evaluation: what candidate and served said to each test row, and what they got for it, as a Parquet file. Knows
their form and bounds; no store, no model, and decides nothing.

A file is named by the sha256 of its bytes. Prompts are not in it: a row names its example, which is on the log as long as the log
keeps it. Answers are, so a file goes when an example of it is taken back, and when it is old (docs/runbook.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

from msgspec import Struct, ValidationError, convert
from msgspec.structs import asdict, fields, replace

from headrace_schemas.canonical import sha256
from headrace_schemas.root_error import FAILED
from headrace_streams.adapter_files import StoreError

FORMAT = "headrace-samples-1"
FILE_BYTES = 256 << 20  # a reader takes no more
_MAGIC = b"PAR1"


class SamplesRefused(StoreError):
    """Samples that are not what their digest says, or no samples."""

    exit_code = FAILED


class SampleBounds(NamedTuple):
    """`characters` of one answer, `bytes` (UTF-8) of all answers of a file; figures are always whole."""

    characters: int
    bytes: int


class EvaluationSample(Struct, frozen=True, kw_only=True):
    """One test row under one head and under what was served. Losses in nats a token, grades 0-100; what is None was not measured.
    `head`: an earlier head's version; None: the version that was evaluated. `group` as in the evaluation's groups; `example_id`
    and `revision`: the example, or the task of a suite. `ungraded`: why a grade is 0 that the grader did not give. `left_out`:
    why nothing was measured. `cut`: an answer is not whole because of its characters or of the file's bytes."""

    example_id: str
    revision: int
    group: str
    prompt_sha256: str
    side: Literal["test", "train", "validation"] = "test"
    head: str | None = None
    suite: str | None = None
    answer: str | None = None
    served_answer: str | None = None
    grade: float | None = None
    served_grade: float | None = None
    loss: float | None = None
    served_loss: float | None = None
    ungraded: str | None = None
    served_ungraded: str | None = None
    left_out: str | None = None
    cut: Literal["characters", "bytes"] | None = None

    @property
    def outcome(self) -> Literal["win", "loss", "tie"] | None:
        """Of the head against what was served: by grades, without any by losses; None when it has neither."""
        ours, theirs = self.grade, self.served_grade
        if ours is None or theirs is None:
            if self.loss is None or self.served_loss is None:
                return None
            ours, theirs = -self.loss, -self.served_loss
        return "win" if ours > theirs else "loss" if ours < theirs else "tie"


_COLUMNS = tuple(field.name for field in fields(EvaluationSample))
_NUMBERS = ("grade", "served_grade", "loss", "served_loss")


def bounded(samples: Iterable[EvaluationSample], bounds: SampleBounds) -> list[EvaluationSample]:
    """The same samples with answers that keep to the bounds: each is cut at its characters; once all bytes are spent, the rest
    have none."""
    kept, left = [], bounds.bytes
    for sample in samples:
        answer, served = (_head(text, bounds.characters) for text in (sample.answer, sample.served_answer))
        if (answer, served) != (sample.answer, sample.served_answer):
            sample = replace(sample, answer=answer, served_answer=served, cut="characters")
        size = sum(len(text.encode(errors="replace")) for text in (answer, served) if text is not None)
        if size > left:
            left = 0
            sample = replace(sample, answer=None, served_answer=None, cut="bytes")
        else:
            left -= size
        kept.append(sample)
    return kept


def _head(text: str | None, characters: int) -> str | None:
    return None if text is None else text[:characters]


def write(path: Path, samples: Sequence[EvaluationSample], run_id: str) -> None:
    """Writes them to a new file. `run_id` makes the files of two runs two, so that one can go without the other. OSError."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist([_row(sample) for sample in samples], schema=_schema(run_id))
    pyarrow.parquet.write_table(table, path, compression="zstd")


def read(content: bytes, digest: str) -> list[EvaluationSample]:
    """The samples in the bytes of the file `digest`. SamplesRefused when they are another's, or no samples of a form that we
    know; columns of a later version are passed over."""
    import pyarrow
    import pyarrow.parquet

    if (found := sha256(content)) != digest:
        raise SamplesRefused(f"samples {digest} have another content: {found}")
    if content[:4] != _MAGIC or content[-4:] != _MAGIC:
        raise SamplesRefused(f"samples {digest} are no Parquet file")
    try:
        file = pyarrow.parquet.ParquetFile(BytesIO(content))
        told = (file.schema_arrow.metadata or {}).get(b"format", b"").decode(errors="replace")
        if told != FORMAT:
            raise SamplesRefused(f"samples {digest} are a Parquet file of another form: {told[:40]!r}, expected {FORMAT}")
        rows = file.read([name for name in file.schema_arrow.names if name in _COLUMNS]).to_pylist()
        return [convert(row, EvaluationSample) for row in rows]
    except (pyarrow.ArrowException, OSError, ValidationError) as error:
        raise SamplesRefused(f"samples {digest} can't be read: {' '.join(str(error).split())[:300]}") from error


def _row(sample: EvaluationSample) -> dict[str, Any]:
    """A lone surrogate, which a byte-level tokenizer can make, is no UTF-8."""
    return {
        name: value.encode(errors="replace").decode() if isinstance(value, str) else value
        for name, value in asdict(sample).items()
    }


def _schema(run_id: str) -> Any:
    import pyarrow

    types = {name: pyarrow.float64() if name in _NUMBERS else pyarrow.string() for name in _COLUMNS}
    types["revision"] = pyarrow.int64()
    return pyarrow.schema(list(types.items()), metadata={"format": FORMAT, "run_id": run_id})
