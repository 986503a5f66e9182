"""Both answers to each test row of an evaluation, with what was asked: won, lost, tied. Knows the samples in the store and the
texts in the lake.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from headrace_lake.query import LakeQuery
from headrace_lake.read_models.recorded import recorded
from headrace_lake.read_models.text_diff import DiffPart, word_diff
from headrace_lake.views import event
from headrace_schemas.derived import Evaluation
from headrace_schemas.events import ExampleRewarded, PromptDrawn
from headrace_schemas.plain_chat import answer_text, prompt_text
from headrace_streams.adapter_files import StoreError
from headrace_streams.adapter_store import Store
from headrace_streams.evaluation_samples import FILE_BYTES, EvaluationSample, read
from headrace_streams.settings import Settings

SHOWN = 10  # of each outcome on one page
OUTCOMES = ("win", "loss", "tie")


class EvaluationAnswer(Struct, frozen=True, kw_only=True):
    """A row: what was asked, what the version and what was served said, and what each got. `differs`: from the served answer to
    the version's, word by word; empty where one of them is not kept."""

    example_id: str
    revision: int
    outcome: str
    prompt: str | None
    reference: str | None
    answer: str | None
    served_answer: str | None
    differs: list[DiffPart]
    grade: float | None
    served_grade: float | None
    loss: float | None
    served_loss: float | None
    suite: str | None = None
    note: str | None = None


class EvaluationAnswers(Struct, frozen=True, kw_only=True):
    """What is kept of an evaluation's answers. `counts` by outcome, of all rows; `rows`: some of the outcome that was asked for,
    the largest differences first. `missing` says why there are none."""

    outcome: str
    counts: dict[str, int]
    rows: list[EvaluationAnswer]
    offset: int = 0
    missing: str | None = None


def evaluation_answers(
    lake: LakeQuery, settings: Settings, evaluation: Evaluation, outcome: str = "win", offset: int = 0
) -> EvaluationAnswers:
    """Some of the answers with one outcome. A store that can't be read, or samples that are gone, are said and raise nothing."""
    outcome = outcome if outcome in OUTCOMES else "win"
    if evaluation.samples is None:
        return EvaluationAnswers(outcome=outcome, counts={}, rows=[], missing="no samples were kept of this evaluation")
    digest = evaluation.samples.sha256
    try:
        rows = read(Store(settings.store).samples(digest, FILE_BYTES), digest)
    except (StoreError, OSError) as error:
        return EvaluationAnswers(outcome=outcome, counts={}, rows=[], missing=" ".join(str(error).split()))
    own = [row for row in rows if row.head is None and row.left_out is None]
    counts = {name: sum(row.outcome == name for row in own) for name in OUTCOMES}
    wanted = sorted((row for row in own if row.outcome == outcome), key=_distance, reverse=True)[offset : offset + SHOWN]
    asked = _asked(lake, [row.example_id for row in wanted if row.suite is None])
    found = [_answer(row, *asked.get((row.example_id, row.revision), (None, None))) for row in wanted]
    return EvaluationAnswers(outcome=outcome, counts=counts, rows=found, offset=offset)


def _distance(row: EvaluationSample) -> float:
    if row.grade is not None and row.served_grade is not None:
        return abs(row.grade - row.served_grade)
    return abs((row.loss or 0.0) - (row.served_loss or 0.0))


def _asked(lake: LakeQuery, ids: Sequence[str]) -> dict[tuple[str, int], tuple[str, str | None]]:
    """Prompt and target by example and revision; of a drawn prompt there is no target."""
    if not ids:
        return {}
    found: dict[tuple[str, int], tuple[str, str | None]] = {}
    told = recorded(
        lake, "examples", f"{event('example.rewarded', 'prompt.drawn')} AND list_contains($ids, example_id)", {"ids": list(ids)}
    )
    for each in told:
        match each.event:
            case ExampleRewarded(data=example):
                asked = prompt_text(example.content.prompt, example.content.context)
                found[example.example_id, example.revision] = asked, answer_text(example.content.target)
            case PromptDrawn(data=drawn):
                found[drawn.prompt_id, 1] = prompt_text(drawn.content.prompt, drawn.content.context), None
    return found


def _answer(row: EvaluationSample, prompt: str | None, reference: str | None) -> EvaluationAnswer:
    both = row.answer is not None and row.served_answer is not None
    notes = [
        row.ungraded and f"the version's: {row.ungraded}",
        row.served_ungraded and f"the served one's: {row.served_ungraded}",
    ]
    return EvaluationAnswer(
        example_id=row.example_id,
        revision=row.revision,
        outcome=row.outcome or "",
        prompt=prompt,
        reference=reference,
        answer=row.answer,
        served_answer=row.served_answer,
        differs=word_diff(row.served_answer or "", row.answer or "") if both else [],
        grade=row.grade,
        served_grade=row.served_grade,
        loss=row.loss,
        served_loss=row.served_loss,
        suite=row.suite,
        note="; ".join(note for note in notes if note) or None,
    )
