"""The table of metrics of answers: name, what is needed, which way is better, function; and the same per slice. Knows texts and
seconds; no model, no file.

A metric is a function of a set of answers, so that one that is no mean of rows (BLEU of a corpus, a percentile) has its place in
the same table. None: nothing in the set has what it needs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import numpy as np
from msgspec import Struct

from headrace_schemas.canonical import rounded

Needs = Literal["a check", "a reference", "a language", "a local embedding model", "seconds", "memory"]
Direction = Literal["higher", "lower"]
SLICED_BY = ("role", "artifact_type", "language", "level")
CODE_LANGUAGES = ("python",)  # of whose grammar the pins of codebleu are known to fit
SIMILARITY_PARTS = (("edit", 0.4), ("chrf", 0.3), ("embedding", 0.3))  # renormalised where there is no embedding


class MeasuredAnswer(Struct, frozen=True, kw_only=True):
    """An answer with what is known of it. `passed`: what its check says, and `reason` why not; `seconds` until it was whole,
    `first_token_seconds` until its first token; `tokens`: its length; `embedding`: cosine of the embeddings of answer and
    reference, -1 to 1; `peak_bytes`: most memory that the process or its device had held by then."""

    task: str
    answer: str
    reference: str | None = None
    role: str | None = None
    artifact_type: str | None = None
    language: str | None = None
    level: str | None = None
    passed: bool | None = None
    reason: str | None = None
    seconds: float | None = None
    first_token_seconds: float | None = None
    tokens: int | None = None
    embedding: float | None = None
    peak_bytes: int | None = None


Answers = Sequence[MeasuredAnswer]


class Metric(NamedTuple):
    """A row of the table. `unit`: of its value."""

    name: str
    needs: Needs
    direction: Direction
    unit: str
    of: Callable[[Answers], float | None]


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _pairs(answers: Answers) -> list[tuple[str, str]]:
    return [(each.answer, each.reference) for each in answers if each.reference is not None]


def success(answers: Answers) -> float | None:
    """Share of the checked answers that pass: queries and code are run, never compared as text."""
    return _mean([float(each.passed) for each in answers if each.passed is not None])


def exact(answers: Answers) -> float | None:
    """Share that is the reference but for white space at its ends."""
    return _mean([float(answer.strip() == reference.strip()) for answer, reference in _pairs(answers)])


@cache
def _sacrebleu(kind: str) -> Any:
    """The library's metrics, with its own defaults: 13a tokens and exponential smoothing for BLEU, six characters for chrF."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    return BLEU() if kind == "bleu" else CHRF()


def _of_corpus(kind: str, answers: Answers) -> float | None:
    pairs = _pairs(answers)
    if not pairs:
        return None
    told, references = [answer for answer, _ in pairs], [reference for _, reference in pairs]
    return float(_sacrebleu(kind).corpus_score(told, [references]).score) / 100


def bleu(answers: Answers) -> float | None:
    """BLEU of the corpus (Papineni et al. 2002), by sacrebleu."""
    return _of_corpus("bleu", answers)


def chrf(answers: Answers) -> float | None:
    """chrF of the corpus (Popović 2015), by sacrebleu."""
    return _of_corpus("chrf", answers)


_WORD = re.compile(r"\w+")


def rouge_l_of(answer: str, reference: str) -> float:
    """F1 of the longest common subsequence of lower-cased words (Lin 2004), `2pr / (p + r)`; texts without words are equal."""
    from rapidfuzz.distance import LCSseq

    ours, theirs = _WORD.findall(answer.lower()), _WORD.findall(reference.lower())
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * float(LCSseq.similarity(ours, theirs)) / (len(ours) + len(theirs))


def edit_similarity_of(answer: str, reference: str) -> float:
    """1 - Levenshtein distance / length of the longer, in characters."""
    from rapidfuzz.distance import Levenshtein

    return float(Levenshtein.normalized_similarity(answer, reference))


def rouge_l(answers: Answers) -> float | None:
    """Mean of `rouge_l_of`."""
    return _mean([rouge_l_of(*pair) for pair in _pairs(answers)])


def edit(answers: Answers) -> float | None:
    """Mean of `edit_similarity_of`."""
    return _mean([edit_similarity_of(*pair) for pair in _pairs(answers)])


def codebleu(answers: Answers) -> float | None:
    """Mean over code of CodeBLEU (Ren et al. 2020: n-grams, weighted n-grams, syntax, data flow), by its library. None where that
    is not there: it holds tree-sitter below 0.23, which has no builds for Python above 3.12."""
    coded = [
        (each.answer, each.reference, each.language)
        for each in answers
        if each.language is not None and each.language in CODE_LANGUAGES and each.reference is not None
    ]
    if not coded or find_spec("codebleu") is None:
        return None
    from codebleu import calc_codebleu

    return _mean([calc_codebleu([right], [told], lang=language)["codebleu"] for told, right, language in coded])


def embedding(answers: Answers) -> float | None:
    """Mean cosine of answer and reference under the embedding model, with nothing below 0."""
    return _mean([max(0.0, each.embedding) for each in answers if each.embedding is not None])


def similarity(answers: Answers) -> float | None:
    """The parts of `SIMILARITY_PARTS` in their proportions, over those that are there."""
    known = {"edit": edit, "chrf": chrf, "embedding": embedding}
    found = [(value, weight) for name, weight in SIMILARITY_PARTS if (value := known[name](answers)) is not None]
    return math.fsum(value * weight for value, weight in found) / math.fsum(weight for _, weight in found) if found else None


def _percentile(values: Sequence[float], percent: float) -> float | None:
    return float(np.percentile(values, percent)) if len(values) else None


def _seconds(answers: Answers) -> list[float]:
    return [each.seconds for each in answers if each.seconds is not None]


def latency_p50(answers: Answers) -> float | None:
    """Median seconds until an answer is whole, asked one at a time."""
    return _percentile(_seconds(answers), 50)


def latency_p95(answers: Answers) -> float | None:
    """The 95th percentile of the same, interpolated."""
    return _percentile(_seconds(answers), 95)


def first_token_p50(answers: Answers) -> float | None:
    """Median seconds until the first token of an answer."""
    return _percentile([each.first_token_seconds for each in answers if each.first_token_seconds is not None], 50)


def tokens_per_second(answers: Answers) -> float | None:
    """Tokens of all answers over the seconds of all."""
    timed = [(each.tokens, each.seconds) for each in answers if each.tokens is not None and each.seconds]
    return sum(tokens for tokens, _ in timed) / math.fsum(seconds for _, seconds in timed) if timed else None


def peak_memory(answers: Answers) -> float | None:
    """The most bytes that were held: of the device's memory on a GPU, else of the process."""
    return max((float(each.peak_bytes) for each in answers if each.peak_bytes is not None), default=None)


METRICS = (
    Metric("success", "a check", "higher", "share", success),
    Metric("exact", "a reference", "higher", "share", exact),
    Metric("bleu", "a reference", "higher", "0-1", bleu),
    Metric("chrf", "a reference", "higher", "0-1", chrf),
    Metric("rouge_l", "a reference", "higher", "0-1", rouge_l),
    Metric("edit", "a reference", "higher", "0-1", edit),
    Metric("codebleu", "a language", "higher", "0-1", codebleu),
    Metric("embedding", "a local embedding model", "higher", "0-1", embedding),
    Metric("similarity", "a reference", "higher", "0-1", similarity),
    Metric("latency_p50", "seconds", "lower", "s", latency_p50),
    Metric("latency_p95", "seconds", "lower", "s", latency_p95),
    Metric("first_token_p50", "seconds", "lower", "s", first_token_p50),
    Metric("tokens_per_second", "seconds", "higher", "tokens/s", tokens_per_second),
    Metric("peak_memory", "memory", "lower", "bytes", peak_memory),
)


class Slice(Struct, frozen=True, kw_only=True):
    """The answers that share a value, and what they come to. `by` and `value` of all of them: "all" and ""."""

    by: str
    value: str
    n: int
    metrics: dict[str, float]


def measured(answers: Answers) -> dict[str, float]:
    """Every metric that something is known for."""
    found = {metric.name: metric.of(answers) for metric in METRICS}
    return {name: rounded(value) for name, value in found.items() if value is not None}


def slices(answers: Answers) -> list[Slice]:
    """All answers, then those of each role, artifact type, language and level, each value in the order of its first answer."""
    found = [Slice(by="all", value="", n=len(answers), metrics=measured(answers))]
    for by in SLICED_BY:
        values = [getattr(each, by) for each in answers]
        for value in dict.fromkeys(value for value in values if value is not None):
            chosen = [each for each, its in zip(answers, values, strict=True) if its == value]
            found.append(Slice(by=by, value=value, n=len(chosen), metrics=measured(chosen)))
    return found
