"""Which answers make a pair of a better and a worse one, and by how much. Knows examples and their rows; no model, no loss.

A correction is better than the output that it corrects, and a good answer better than a bad one to the same question in the same
group: a retry that succeeded, or what somebody preferred over another. Points are 0-100: the score, or 50·(quality + 1) without
one; a correction has 100.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from msgspec import structs, to_builtins

from headrace_schemas.canonical import digest
from headrace_schemas.derived import Example
from headrace_trainer.data.rows import RowTokeniser, RowUnfit, TokenisedExample, TokenRow


class Pair(NamedTuple):
    """`gap`: points that are between the answers. `reference`: log-probabilities in nats of `chosen` and `rejected` when the run
    began. `weight` is the better answer's."""

    example_id: str
    chosen: TokenRow
    rejected: TokenRow
    gap: float
    weight: float = 1.0
    reference: tuple[float, float] = (0.0, 0.0)

    @property
    def rows(self) -> tuple[TokenRow, TokenRow]:
        return self.chosen, self.rejected

    @property
    def length(self) -> int:
        return self.chosen.length + self.rejected.length

    @property
    def padded(self) -> int:
        return 2 * max(self.chosen.length, self.rejected.length)

    @property
    def size(self) -> int:
        """A pair counts once, however long it is."""
        return 1


class Pairs(NamedTuple):
    """Pairs, and ids of the examples that are in none, by reason: equal_texts, small_gap, over_cap, no_counterpart, or why no row
    was made of an output."""

    pairs: list[Pair]
    left_out: dict[str, list[str]]


def points(example: Example) -> float:
    """How good the output was, 0-100."""
    return example.score if example.score is not None else 50.0 * (example.quality + 1)


def pairs_of(examples: Sequence[TokenisedExample], tokeniser: RowTokeniser, least_gap: float, per_group: int) -> Pairs:
    """Pairs with more than `least_gap` points between them, of each group the `per_group` widest. Examples that are not `scored`
    are bad answers."""
    found: dict[str, list[Pair]] = {}
    reasons: dict[str, str] = {}  # by example: why its last pair is none
    good = [each for each in examples if each.scored]
    bad: dict[tuple[str, str], list[TokenisedExample]] = {}
    for each in examples:
        if not each.scored:
            bad.setdefault(_question(each.example), []).append(each)
    for better in good:
        corrected = is_corrected(better.example)
        worse: list[tuple[TokenRow, float, str]] = []
        if corrected:
            try:
                worse.append((wrong_row(better, tokeniser), points(better.example), better.row.example_id))
            except RowUnfit as error:
                reasons.setdefault(better.row.example_id, error.reason)
        worse += [(each.row, points(each.example), each.row.example_id) for each in bad.get(_question(better.example), ())]
        for row, worth, name in worse:
            gap = (100.0 if corrected else points(better.example)) - worth
            if row.completion == better.row.completion:
                reason = "equal_texts"
            elif gap <= least_gap:
                reason = "small_gap"
            else:
                pair = Pair(better.row.example_id, better.row, row, gap, better.row.weight)
                found.setdefault(better.example.prompt_group, []).append(pair)
                continue
            reasons.setdefault(better.row.example_id, reason)
            reasons.setdefault(name, reason)
    pairs = [pair for group in found.values() for pair in sorted(group, key=_widest)[:per_group]]
    used = {row.example_id for pair in pairs for row in pair.rows}
    capped = {row.example_id for group in found.values() for pair in group for row in pair.rows}
    left_out: dict[str, list[str]] = {}
    for each in examples:
        if (name := each.row.example_id) not in used:
            reason = "over_cap" if name in capped else reasons.get(name, "no_counterpart")
            left_out.setdefault(reason, []).append(name)
    return Pairs(pairs, left_out)


def is_corrected(example: Example) -> bool:
    return example.content.output != example.content.target


def as_answered(example: Example) -> Example:
    """With its output for its target, good or bad."""
    return structs.replace(example, content=structs.replace(example.content, target=example.content.output))


def wrong_row(corrected: TokenisedExample, tokeniser: RowTokeniser) -> TokenRow:
    """The row of an output that was corrected, with the weight of its correction. RowUnfit."""
    return tokeniser.example(as_answered(corrected.example), corrected.row.weight).row


def _question(example: Example) -> tuple[str, str]:
    """What was asked, in which group: answers to other questions make no pair, whatever the group."""
    content = example.content
    return example.prompt_group, digest(to_builtins([content.prompt, content.context, content.tools]))


def _widest(pair: Pair) -> tuple[float, str, str]:
    return -pair.gap, pair.example_id, pair.rejected.example_id
