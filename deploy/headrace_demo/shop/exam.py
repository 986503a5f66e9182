"""What each release is asked: held-out combinations in known and in new wordings, and held-out SQL to put in words. Knows no
model, and no bucket but by artifact type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from headrace_demo.names import DOCS
from headrace_demo.shop import questions
from headrace_demo.shop.database import shop_of
from headrace_demo.shop.questions import Question

KNOWN, NEW, DESCRIBED = "known wordings", "new wordings", "descriptions"
ASKED, DESCRIPTIONS = 200, 100  # of the families in turn


@dataclass(frozen=True)
class ExamPaper:
    """The exam of one seed's shop: the same for every release."""

    seed: int

    @cached_property
    def _pairs(self) -> list[tuple[Question, Question]]:
        return questions.exam_questions(questions.slot_values(shop_of(self.seed)), self.seed, ASKED)

    def questions(self, artifact_type: str) -> Sequence[Question]:
        """All that are asked of a release of that type, in order: of the two wordings one after the other. Asked at the end, the
        new ones were a fall of the bucket's success that curate took for drift."""
        if artifact_type == DOCS:
            return [known for known, _ in self._pairs[:DESCRIPTIONS]]
        return [question for pair in self._pairs for question in pair]

    def columns(self, artifact_type: str) -> dict[str, str]:
        """Under which heading each prompt of a type's exam is counted."""
        if artifact_type == DOCS:
            return {question.sql: DESCRIBED for question in self.questions(DOCS)}
        return {question.text: heading for pair in self._pairs for heading, question in zip((KNOWN, NEW), pair, strict=True)}
