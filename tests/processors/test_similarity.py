"""Similarity of two texts: the weights of its parts, its ways out, and its time on long texts."""

from __future__ import annotations

import time
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu import sentence_bleu, sentence_chrf

from headrace_processors.reward import similarity as module
from headrace_processors.reward.similarity import edit_similarity

similarity = partial(module.similarity, overlap="chrf", edit_weight=0.4, overlap_weight=0.3)


def test_equal_texts_are_one_and_texts_with_nothing_in_common_are_zero() -> None:
    assert similarity("", "") == similarity("select 1", "select 1") == 1
    assert similarity("aaaa", "bbbb") == similarity("", "b") == 0


def test_it_is_the_weighted_mean_of_edit_and_overlap() -> None:
    one, other = "select name from shop", "select title from shop"
    edit = 1 - 4 / 22  # n-a-m-e against t-i-t-l-e: four changes
    assert edit_similarity(one, other) == pytest.approx(edit)
    chrf = sentence_chrf(one, [other]).score / 100
    bleu = sentence_bleu(one, [other], use_effective_order=True).score / 100
    assert similarity(one, other) == pytest.approx((0.4 * edit + 0.3 * chrf) / 0.7)
    assert similarity(one, other, overlap="bleu") == pytest.approx((0.4 * edit + 0.3 * bleu) / 0.7)
    assert similarity(one, other, edit_weight=1.0, overlap_weight=1.0) == pytest.approx((edit + chrf) / 2)
    assert similarity(one, other, edit_weight=0.0) == pytest.approx(chrf)
    assert similarity(one, other, overlap_weight=0.0) == edit_similarity(one, other)


def test_overlap_is_not_computed_for_long_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "overlap_similarity", None)
    assert similarity("a" * 5000, "a" * 4000) == pytest.approx(edit_similarity("a" * 5000, "a" * 4000))


def test_another_answer_altogether_has_its_overlap_too() -> None:
    one, other = "select 1", "drop table users"
    edit, chrf = edit_similarity(one, other), sentence_chrf(one, [other]).score / 100
    assert 0 < edit < 0.2
    assert chrf != pytest.approx(edit)
    assert similarity(one, other) == pytest.approx((0.4 * edit + 0.3 * chrf) / 0.7)


@given(st.text(max_size=60), st.text(max_size=60))
def test_it_is_a_share_and_one_only_for_equals(one: str, other: str) -> None:
    value = similarity(one, other)
    assert 0 <= value <= 1
    assert edit_similarity(one, other) == pytest.approx(edit_similarity(other, one))
    if value == 1:
        assert one == other


def test_long_texts_take_no_time_to_speak_of() -> None:
    one = "".join(chr(97 + (i * 7919) % 26) for i in range(1_000_000))
    begin = time.process_time()
    assert edit_similarity(one, one[:500_000] + "!" + one[500_000:]) == pytest.approx(1 - 1e-6, abs=1e-7)
    assert edit_similarity(one, one[::-1]) < 1
    assert time.process_time() - begin < 2
