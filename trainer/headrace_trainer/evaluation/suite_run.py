"""Asks a model the tasks of a suite, one at a time as it would be served, and measures each answer. Knows models, no log.

One at a time, because a latency out of a batch is that of its slowest row: so it takes longer than the same suite in an
evaluation, which needs grades alone.
"""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from transformers import AutoModel, AutoTokenizer

from headrace_trainer.data.rows import RowTokeniser
from headrace_trainer.evaluation.asked import suite_rows
from headrace_trainer.evaluation.checks import CHECKS
from headrace_trainer.evaluation.generate import generate, serving
from headrace_trainer.evaluation.grader import Grader
from headrace_trainer.evaluation.metrics import MeasuredAnswer
from headrace_trainer.model.base import Base, BaseMissing
from headrace_trainer.model.precision import Precision
from headrace_trainer.model.stops import stop_ids
from headrace_trainer.policy import EvaluationPolicy
from headrace_trainer.suites import Suite, SuiteTask

Embed = Callable[[Sequence[str]], torch.Tensor]
_LONGEST = 1 << 20  # tokens of a prompt where the base says nothing


class SuiteAnswers(NamedTuple):
    """`left_out`: tasks that the base cannot be asked, by reason; `ungraded`: answers that got no grade, by what happened."""

    answers: list[MeasuredAnswer]
    left_out: dict[str, int]
    ungraded: dict[str, int]


class TokenClock:
    """What generation tells each token to: when the first came, and how many there are."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.first: float | None = None
        self.tokens = -1  # the prompt is told, too

    def put(self, value: Any) -> None:
        self.tokens += 1
        if self.tokens == 1:
            self.first = time.perf_counter() - self.began

    def end(self) -> None:
        return


def ask(
    model: Any,
    base: Base,
    suite: Suite,
    *,
    policy: EvaluationPolicy,
    adapter: str | None = None,
    precision: Precision = "fp32",
    embed: Embed | None = None,
    on_task: Callable[[int, int], None] = lambda done, whole: None,
) -> SuiteAnswers:
    """`model`: a PeftModel that answers with its `adapter`, or a base. GraderMissing where no check can be run."""
    tokeniser = RowTokeniser(base.tokenizer, base.positions or _LONGEST, stop_ids(base.tokenizer, base.model))
    asked = suite_rows(suite, f"{suite.artifact_type or 'suite'}/suite", tokeniser)
    found: list[MeasuredAnswer] = []
    with Grader(CHECKS) as checker, _served(model, adapter):
        for number, row in enumerate(asked.rows):
            task, clock = suite.task_of(row.example), TokenClock()
            [answer] = generate(model, [row.row], base, policy, precision, streamer=clock)
            seconds = time.perf_counter() - clock.began
            passed, reason = None, None
            if task.check is not None:
                grade = checker.grade(answer, row.example, task.check)
                passed, reason = grade.value >= CHECKS.pass_mark, grade.reason
            found.append(
                MeasuredAnswer(
                    task=task.name, answer=answer, reference=_text(task), role=suite.role,
                    artifact_type=task.artifact_type or suite.artifact_type, language=task.language, level=task.level,
                    passed=passed, reason=reason, seconds=seconds, first_token_seconds=clock.first,
                    tokens=max(0, clock.tokens), embedding=_cosine(embed, answer, _text(task)), peak_bytes=_peak(base.device),
                )
            )  # fmt: skip
            on_task(number + 1, len(asked.rows))
        ungraded = dict(checker.failures)
    return SuiteAnswers(found, dict(Counter(reason for _, reason in asked.unfit)), ungraded)


def _served(model: Any, adapter: str | None) -> AbstractContextManager[None]:
    return nullcontext() if adapter is None else serving(model, adapter)


def _text(task: SuiteTask) -> str | None:
    return task.reference if isinstance(task.reference, str) else None


def _peak(device: str) -> int:
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _cosine(embed: Embed | None, answer: str, reference: str | None) -> float | None:
    if embed is None or reference is None:
        return None
    ours, theirs = embed([answer, reference])
    return float(ours @ theirs)


def embedder(folder: str) -> Embed:
    """Unit vectors by an encoder in a local folder: the mean of its last states over the tokens of a text. BaseMissing."""
    try:
        model: Any = AutoModel.from_pretrained(folder, local_files_only=True).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        raise BaseMissing(f"embedding model {folder!r} cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    limit = getattr(model.config, "max_position_embeddings", None) or 512

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> torch.Tensor:
        made = []
        for text in texts:
            ids = tokenizer(text or " ", truncation=True, max_length=limit, return_tensors="pt")
            states = model(**{name: ids[name] for name in ("input_ids", "attention_mask")}).last_hidden_state[0].float()
            mean = states.mean(dim=0)
            made.append(mean / mean.norm().clamp_min(1e-12))
        return torch.stack(made)

    return embed
