"""Test rows as groups: means, what says something about loss, what feedback may have selected, what can't be judged."""

from __future__ import annotations

import math

import pytest

from headrace_schemas.derived import Content
from headrace_trainer.data.rows import TokenisedExample, TokenRow
from headrace_trainer.evaluation.asked import AskedRows
from headrace_trainer.evaluation.groups import RowMeasures, group_results, invalid_reason
from support import training_data

WORST = 100.0


def row(
    number: int, group: str, *, own: bool = True, adapter: str | None = None, corrected: bool = True, drawn: bool = False
) -> TokenisedExample:
    target = "right" if corrected else "answered"
    example = training_data.example(
        number,
        prompt_group=group,
        model="tiny" if own else "gpt",
        adapter=adapter,
        content=Content(prompt="?", output="answered", target=target),
    )
    return TokenisedExample(TokenRow(example.example_id, (1,), (2, 3)), example, scored=not drawn, drawn=drawn)


def test_a_group_is_the_mean_of_its_rows_better_is_positive() -> None:
    ours = RowMeasures([1.0, 2.0, 4.0], [100.0, 50.0, 0.0])
    theirs = RowMeasures([2.0, 2.5, 3.0], [0.0, 50.0, 0.0])
    found = group_results([row(1, "a"), row(2, "a"), row(3, "b")], ours, theirs, base="tiny", served=None, worst=WORST)
    assert sorted((group.rows, group.samples, group.loss_gain, group.success_gain) for group in found) == [
        (1, 1, -1.0, 0.0),
        (2, 1, 0.75, 0.5),
    ]
    assert len({group.group for group in found}) == 2
    assert "a" not in {group.group for group in found}  # its name may be somebody's text


def test_groups_come_in_the_same_order_whatever_that_of_the_rows_was() -> None:
    rows = [row(number, f"g{number}") for number in range(6)]
    scores = RowMeasures([1.0] * 6), RowMeasures([2.0] * 6)
    one = group_results(rows, *scores, base="tiny", served=None, worst=WORST)
    assert one == group_results(rows[::-1], *scores, base="tiny", served=None, worst=WORST)


@pytest.mark.parametrize(
    ("own", "adapter", "corrected", "gain"),
    [(True, None, True, 1.0), (True, None, False, None), (True, "sha256:old", False, 1.0), (False, None, False, 1.0)],
)
def test_the_answer_of_what_is_served_says_nothing_about_loss(
    own: bool, adapter: str | None, corrected: bool, gain: float | None
) -> None:
    rows = [row(1, "a", own=own, adapter=adapter, corrected=corrected)]
    [group] = group_results(rows, RowMeasures([1.0]), RowMeasures([2.0]), base="tiny", served=None, worst=WORST)
    assert (group.loss_gain, group.success_gain, group.samples) == (gain, None, 0)


@pytest.mark.parametrize(("own", "adapter", "selected"), [(True, None, True), (False, "sha256:old", True), (False, None, False)])
def test_rows_that_another_model_answered_are_not_selected_by_our_failure(own: bool, adapter: str | None, selected: bool) -> None:
    rows = [row(1, "a", own=own, adapter=adapter)]
    [group] = group_results(rows, RowMeasures([1.0]), RowMeasures([2.0]), base="tiny", served=None, worst=WORST)
    assert group.selected is selected


def test_a_loss_that_is_no_number_counts_as_the_worst_one() -> None:
    [group] = group_results([row(1, "a")], RowMeasures([math.nan]), RowMeasures([2.0]), base="tiny", served=None, worst=WORST)
    assert group.loss_gain == 2.0 - WORST


def test_who_fails_on_more_than_a_twentieth_of_the_rows_or_is_what_is_served_cannot_be_judged() -> None:
    good, other = RowMeasures([1.0] * 20), RowMeasures([2.0] * 20)
    assert invalid_reason(good, other) is None
    assert invalid_reason(RowMeasures([math.nan] + [1.0] * 19), other) is None
    assert (invalid_reason(RowMeasures([math.nan] * 2 + [1.0] * 18), other) or "").startswith(
        "failed_rows: it has no loss on 2 of 20"
    )
    assert (invalid_reason(good, good) or "").startswith("identical")
    assert invalid_reason(RowMeasures([1.0], [100.0]), RowMeasures([1.0], [0.0])) is None
    assert invalid_reason(RowMeasures([]), RowMeasures([])) is None


def test_of_a_group_that_was_drawn_only_drawn_rows_say_something_of_success_and_nobody_selected_it() -> None:
    rows = [row(1, "a", drawn=True), row(2, "a", drawn=True), row(3, "a"), row(4, "b")]
    ours = RowMeasures([None, None, 1.0, 1.0], [100.0, 0.0, None, 100.0])
    theirs = RowMeasures([None, None, 3.0, 2.0], [0.0, 0.0, None, 0.0])
    found = {group.rows: group for group in group_results(rows, ours, theirs, base="tiny", served=None, worst=WORST)}
    assert (found[3].success_gain, found[3].loss_gain, found[3].drawn, found[3].selected) == (0.5, 2.0, 2, False)
    assert (found[1].success_gain, found[1].loss_gain, found[1].drawn, found[1].selected) == (1.0, 1.0, None, True)


def test_a_drawn_row_without_grades_unselects_nothing() -> None:
    rows = [row(1, "a", drawn=True), row(2, "a")]
    [group] = group_results(rows, RowMeasures([None, 1.0]), RowMeasures([None, 2.0]), base="tiny", served=None, worst=WORST)
    assert (group.loss_gain, group.success_gain, group.selected, group.drawn) == (1.0, None, True, None)


def test_rows_of_a_group_that_was_drawn_are_not_asked_beside_the_drawn_ones() -> None:
    rows = [row(1, "a"), row(2, "a", drawn=True), row(3, "b"), row(4, "a", drawn=True)]
    assert AskedRows(rows).graded == [1, 2, 3]
    assert AskedRows([row(1, "a"), row(2, "b")]).graded == [0, 1]
