"""How alike two texts are, in [0, 1]: what was answered and what somebody made of it. Knows texts only; no model, no event.

The similarity is the weighted mean of two parts, with weights from the policy (a third, of embeddings, has no room in a stream
step). *edit* = 1 - Levenshtein distance / longer length (rapidfuzz). *overlap* is chrF (Popović 2015) or sentence BLEU
(Papineni et al. 2002, effective order), both by sacrebleu; it costs milliseconds, hence the way out for long texts below.
"""

from __future__ import annotations

from typing import Any, Literal

from rapidfuzz.distance import Levenshtein
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

OVERLAP_LIMIT = 4_000  # characters of the longer text above which overlap is left out: it would cost more than 30 ms
EDIT_LIMIT = 20_000  # characters of the differing middle that are compared; the rest is estimated in proportion

Overlap = Literal["chrf", "bleu"]
_metrics: dict[Overlap, Any] = {}


def similarity(output: str, corrected: str, *, overlap: Overlap, edit_weight: float, overlap_weight: float) -> float:
    """1 for equal texts, 0 for texts without anything in common. One of the weights is above 0; only their ratio counts."""
    if output == corrected:
        return 1.0
    edit = edit_similarity(output, corrected)
    if not overlap_weight or max(len(output), len(corrected)) > OVERLAP_LIMIT:
        return edit
    shared = overlap_similarity(output, corrected, overlap)
    return (edit_weight * edit + overlap_weight * shared) / (edit_weight + overlap_weight)


def edit_similarity(first: str, second: str) -> float:
    """1 - distance / longer length, in time that does not grow with the square of long texts: common ends are cut off, and
    of the rest only the first `EDIT_LIMIT` characters are compared."""
    longest = max(len(first), len(second))
    if not longest:
        return 1.0
    head = _shared(first, second)
    first, second = first[head:], second[head:]
    tail = _shared(first[::-1], second[::-1])
    first, second = first[: len(first) - tail], second[: len(second) - tail]
    middle = max(len(first), len(second))
    compared = min(middle, EDIT_LIMIT)
    if not compared:
        return 1.0
    distance = Levenshtein.distance(first[:EDIT_LIMIT], second[:EDIT_LIMIT]) * middle / compared
    return max(0.0, 1.0 - distance / longest)


def overlap_similarity(output: str, corrected: str, overlap: Overlap) -> float:
    """The n-gram overlap of `output` with `corrected` as its reference, in [0, 1]."""
    metric = _metrics.get(overlap)
    if metric is None:
        metric = _metrics[overlap] = CHRF() if overlap == "chrf" else BLEU(effective_order=True)
    return min(1.0, max(0.0, float(metric.sentence_score(output, [corrected]).score) / 100))


def _shared(first: str, second: str) -> int:
    """Length of the common beginning, by halving: comparing slices costs less than comparing characters."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
