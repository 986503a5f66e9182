"""Every metric of the table is what a small example gives by hand, and a slice is measured as a set of its own."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from headrace_trainer.evaluation.metrics import METRICS, MeasuredAnswer, measured, rouge_l_of, slices

CAT = MeasuredAnswer(task="cat", answer="the cat sat on the mat", reference="the cat lay on a mat")
OF = {metric.name: metric.of for metric in METRICS}


def said(answer: str, reference: str | None = None, **more: object) -> MeasuredAnswer:
    return MeasuredAnswer(task="t", answer=answer, reference=reference, **more)  # type: ignore[arg-type]


def bleu_by_hand(answers: list[str], references: list[str]) -> float:
    """Modified precisions of one to four words over the corpus, and the penalty for brevity."""
    logs = 0.0
    for n in range(1, 5):
        matched = total = 0
        for answer, reference in zip(answers, references, strict=True):
            ours, theirs = answer.split(), reference.split()
            grams = Counter(tuple(ours[i : i + n]) for i in range(len(ours) - n + 1))
            known = Counter(tuple(theirs[i : i + n]) for i in range(len(theirs) - n + 1))
            matched, total = matched + (grams & known).total(), total + grams.total()
        logs += math.log(matched / total) / 4
    length, wanted = sum(len(each.split()) for each in answers), sum(len(each.split()) for each in references)
    return math.exp(logs + min(0.0, 1 - wanted / length))


def chrf_by_hand(answer: str, reference: str) -> float:
    """F2 of the mean precision and recall of one to six characters without blanks."""
    scores = []
    ours, theirs = answer.replace(" ", ""), reference.replace(" ", "")
    for n in range(1, 7):
        grams = Counter(ours[i : i + n] for i in range(len(ours) - n + 1))
        known = Counter(theirs[i : i + n] for i in range(len(theirs) - n + 1))
        same = (grams & known).total()
        scores.append((same / grams.total(), same / known.total()))
    precision, recall = (sum(each[side] for each in scores) / 6 for side in (0, 1))
    return 5 * precision * recall / (4 * precision + recall)


def test_bleu_of_a_corpus_is_the_product_of_its_precisions_and_its_brevity() -> None:
    answers = ["we ship the small parcel on monday morning", "it is late and we go home"]
    references = ["we ship the small parcel on tuesday morning early", "it is late and we walk home now"]
    found = OF["bleu"]([said(a, b) for a, b in zip(answers, references, strict=True)])
    assert found == pytest.approx(bleu_by_hand(answers, references), abs=1e-9)


def test_chrf_weighs_recall_twice() -> None:
    assert OF["chrf"]([CAT]) == pytest.approx(chrf_by_hand(CAT.answer, str(CAT.reference)), abs=1e-9)


def test_rouge_l_is_the_f1_of_the_longest_common_subsequence_of_words() -> None:
    assert rouge_l_of(CAT.answer, str(CAT.reference)) == pytest.approx(2 * 4 / (6 + 6))  # the cat on mat
    assert rouge_l_of("", "") == 1.0
    assert rouge_l_of("", "word") == 0.0


def test_edit_similarity_counts_single_characters() -> None:
    assert OF["edit"]([said("kitten", "sitting")]) == pytest.approx(1 - 3 / 7)


def test_success_counts_only_what_was_checked() -> None:
    assert OF["success"]([said("a", passed=True), said("b", passed=False), said("c")]) == 0.5
    assert OF["success"]([said("c")]) is None


def test_similarity_leaves_out_the_embedding_where_there_is_none() -> None:
    pair = ("kitten", "sitting")
    edit, overlap = 1 - 3 / 7, chrf_by_hand(*pair)
    assert OF["similarity"]([said(*pair)]) == pytest.approx((0.4 * edit + 0.3 * overlap) / 0.7)
    assert OF["similarity"]([said(*pair, embedding=0.5)]) == pytest.approx(0.4 * edit + 0.3 * overlap + 0.3 * 0.5)


def test_seconds_tokens_and_bytes_are_those_of_the_whole_set() -> None:
    answers = [
        said("x", seconds=float(n), first_token_seconds=n / 10, tokens=10 * n, peak_bytes=100 - n) for n in (1, 2, 3, 4, 10)
    ]
    found = measured(answers)
    assert (found["latency_p50"], found["first_token_p50"], found["peak_memory"]) == (3.0, 0.3, 99.0)
    assert found["latency_p95"] == pytest.approx(4 + 0.8 * 6)  # linear between the two of rank 3.8
    assert found["tokens_per_second"] == 10.0


def test_codebleu_sees_through_layout_and_is_absent_for_what_is_no_code() -> None:
    pytest.importorskip("codebleu")
    same = said("def f(a):\n    return a + 1", "def f(a):\n    return a + 1", language="python")
    assert OF["codebleu"]([same]) == pytest.approx(1.0)
    other = said("def f(a):\n    while a: a -= 1", "def f(a):\n    return a + 1", language="python")
    assert 0 < (OF["codebleu"]([other]) or 0) < 0.6
    assert OF["codebleu"]([said("x", "x", language="english")]) is None


def test_a_slice_is_measured_alone_and_what_nothing_is_known_of_is_not_told() -> None:
    answers = [
        said("a", "a", role="coder", level="easy", passed=True),
        said("b", "a", role="coder", level="hard", passed=False),
        said("c", None, role="tester", passed=True),
    ]
    table = {(each.by, each.value): each for each in slices(answers)}
    assert list(table) == [("all", ""), ("role", "coder"), ("role", "tester"), ("level", "easy"), ("level", "hard")]
    assert (table["role", "coder"].n, table["role", "coder"].metrics["success"]) == (2, 0.5)
    assert table["level", "easy"].metrics["exact"] == 1.0
    assert set(table["role", "tester"].metrics) == {"success"}
