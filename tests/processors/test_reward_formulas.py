"""The formulas of the reward, number by number: voices, quality, reward, difficulty, corrections, balance."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_processors.decay import DAY_NS, RunningSum
from headrace_processors.reward.feedback import FeedbackRecord, FeedbackSummary, aggregate, score_of_100
from headrace_processors.reward.formula import KNOWN_TYPES, balance_of, bonus_of, count_type, difficulty_of, reward_of, squash
from headrace_processors.reward.policy import DifficultyWeights, RewardPolicy
from headrace_schemas.inputs import Feedback

POLICY = RewardPolicy()
tanh = math.tanh


def feedback(feedback_id: str, kind: str = "rating", *, minute: int = 0, by: str | None = None, **more: Any) -> FeedbackRecord:
    return FeedbackRecord(source="s", feedback_id=feedback_id, time_ns=minute, digest="d", kind=kind, principal=by, **more)


def summary_of(*records: FeedbackRecord, policy: RewardPolicy = POLICY) -> FeedbackSummary:
    summary = aggregate(sorted(records, key=lambda record: record.order), lambda record: bonus_of(policy, record))
    assert summary is not None
    return summary


def quality_and_reward(
    summary: FeedbackSummary, *, correction: float | None = None, difficulty: float = 0.4, **policy: Any
) -> tuple[float, float]:
    result = reward_of(RewardPolicy(**policy), summary, difficulty, correction)
    return result.quality, result.reward


@pytest.mark.parametrize(
    ("kind", "score", "expected"),
    [
        ("success", None, 0.3),
        ("success", 100, tanh(1) + 0.3),
        ("explicit_positive", 80, tanh(0.6) + 0.4),
        ("validation_failure", 0, tanh(-1) - 0.5),
        ("explicit_negative", None, -1.0),
        ("rating", 50, 0.0),
        ("thumbs_sideways", 75, tanh(0.5)),
    ],
)
def test_one_voice(kind: str, score: float | None, expected: float) -> None:
    quality, reward = quality_and_reward(summary_of(feedback("f", kind, score=score)))
    assert quality == pytest.approx(tanh(expected))
    assert reward == pytest.approx(tanh(expected * 1.6))


@given(
    st.sampled_from(["success", "explicit_negative", "user_correction", "rating"]),
    st.none() | st.floats(0, 100) | st.just(-0.0),
    st.sampled_from([0.3, 0.0, -0.0, -1.0]),
    st.booleans(),
)
def test_a_single_feedback_says_the_same_as_beside_one_that_does_not_count(
    kind: str, score: float | None, worth: float, retracted: bool
) -> None:
    single = feedback("f", kind, score=score, corrected="d" if kind == "user_correction" else None, retracted=retracted)
    silent = feedback("g", "success", score=3, retracted=True)
    alone, beside = (aggregate(records, lambda _: worth) for records in ([single], [single, silent]))
    assert repr(alone) == repr(beside)  # -0.0 is another number to whoever reads it


def test_bonuses_come_from_policy_over_the_defaults() -> None:
    policy = RewardPolicy(bonus={"thumbs_sideways": 0.2})
    assert summary_of(feedback("f", "thumbs_sideways"), policy=policy).feedback == 0.2
    assert summary_of(feedback("f", "success"), policy=policy).feedback == 0.3


def test_a_preference_is_for_one_and_against_the_others() -> None:
    assert summary_of(feedback("f", "preference", over=("x",))).feedback == 0.4
    assert summary_of(feedback("f", "preference", under=True)).feedback == -0.4
    assert summary_of(feedback("f", "preference")).feedback == 0


def test_of_a_voice_the_latest_kind_and_the_latest_score_count() -> None:
    summary = summary_of(
        feedback("a", "explicit_negative", minute=1, by="human:u", score=10.0),
        feedback("c", "explicit_positive", minute=3, by="human:u"),
        feedback("b", "success", minute=2, by="human:u", score=90.0),
    )
    assert (summary.voices, summary.feedback, summary.score) == (1, 0.4, 90)
    assert summary.validation == pytest.approx(tanh(0.8))
    assert not summary.contradicted


def test_equal_times_are_ordered_by_id() -> None:
    assert summary_of(feedback("b", "success", by="h:u"), feedback("a", "explicit_negative", by="h:u")).feedback == 0.3


def test_without_a_principal_each_feedback_and_with_one_each_check_is_a_voice() -> None:
    assert summary_of(feedback("a"), feedback("b")).voices == 2
    assert (
        summary_of(
            feedback("a", by="test:ci", name="lint"), feedback("b", by="test:ci", name="unit"), feedback("c", by="test:ci")
        ).voices
        == 3
    )


def test_across_voices_the_mean_counts_and_opposite_signs_contradict() -> None:
    summary = summary_of(
        feedback("a", "success", score=100.0), feedback("b", "explicit_negative", score=20.0), feedback("c", "rating")
    )
    assert summary.validation == pytest.approx((tanh(1) + tanh(-0.6) + 0) / 3)
    assert summary.feedback == pytest.approx((0.3 - 1.0 + 0) / 3)
    assert summary.score == 60
    assert summary.contradicted
    assert not summary_of(feedback("a", "success"), feedback("b", "rating")).contradicted


def test_a_correction_says_nothing_of_the_output_and_the_latest_one_is_the_target() -> None:
    summary = summary_of(
        feedback("a", "explicit_negative", minute=1, by="h:u"),
        feedback("b", "user_correction", minute=2, by="h:u", corrected="two"),
        feedback("c", "user_correction", minute=1, corrected="one"),
    )
    assert (summary.voices, summary.feedback, summary.corrected, summary.contradicted) == (2, -1.0, "two", False)
    alone = summary_of(feedback("a", "user_correction", corrected="x"))
    assert (alone.validation, alone.feedback, alone.score) == (0, 0, None)
    assert summary_of(feedback("a", "user_correction", corrected="x", score=0.0)).validation == pytest.approx(tanh(-1))


def test_retracted_feedback_and_feedback_not_received_do_not_count() -> None:
    summary = summary_of(feedback("a", "success"), feedback("b", "explicit_negative", retracted=True))
    assert (summary.voices, summary.feedback) == (1, 0.3)
    assert aggregate([feedback("b", retracted=True)], lambda _: 0.0) is None


@pytest.mark.parametrize(
    ("score", "scale", "expected"), [(4, (1, 5), 75), (70, None, 70), (None, (0, 1), None), (0, (-1, 1), 50)]
)
def test_scores_are_mapped_from_their_scale(
    score: float | None, scale: tuple[float, float] | None, expected: float | None
) -> None:
    assert score_of_100(Feedback(kind="rating", score=score, scale=scale)) == expected


def test_difficulty_has_three_parts_that_saturate() -> None:
    assert difficulty_of(POLICY, "code", 0, 0) == pytest.approx(0.4)
    assert difficulty_of(POLICY, "erd", 2500, 5000) == pytest.approx(0.15 + 0.15 + 0.1)
    assert difficulty_of(POLICY, "poems", 9999, 99999) == pytest.approx(0.25 + 0.3 + 0.2)
    assert difficulty_of(RewardPolicy(complexity={"poems": 1.0}), "poems", 0, 0) == 0.5


def test_the_parts_of_difficulty_are_weighed_by_the_policy() -> None:
    policy = RewardPolicy(
        difficulty_weights=DifficultyWeights(complexity=0.2, prompt=0.7, context=0.1),
        prompt_full_chars=100,
        context_full_chars=10,
    )
    assert difficulty_of(policy, "code", 0, 0) == pytest.approx(0.2 * 0.8)
    assert difficulty_of(policy, "code", 50, 0) == pytest.approx(0.16 + 0.35)
    assert difficulty_of(policy, "code", 100, 5) == pytest.approx(0.16 + 0.7 + 0.05)
    assert difficulty_of(policy, "code", 999, 99) == pytest.approx(0.16 + 0.7 + 0.1)


def test_difficulty_amplifies_the_negative_or_ignores_it() -> None:
    bad = summary_of(feedback("f", "explicit_negative"))
    assert quality_and_reward(bad)[1] == pytest.approx(tanh(-1.6))
    assert quality_and_reward(bad, difficulty_on_negative="ignore")[1] == pytest.approx(tanh(-1))
    good = summary_of(feedback("f", "success"))
    assert quality_and_reward(good, difficulty_on_negative="ignore")[1] == pytest.approx(tanh(0.3 * 1.6))


@pytest.mark.parametrize(("correction", "bonus"), [(0.0, 0.0), (0.05, 0.25), (0.1, 0.5), (0.9, 0.5)])
def test_a_correction_is_a_lesson_whatever_was_said_of_the_output(correction: float, bonus: float) -> None:
    for kind in ("explicit_negative", "explicit_positive"):
        summary = summary_of(feedback("f", kind))
        quality, reward = quality_and_reward(summary, correction=correction, difficulty_on_negative="ignore")
        assert reward == pytest.approx(tanh(bonus * 1.6))
        assert quality == pytest.approx(min(tanh(summary.feedback), -correction))


def test_clipping_is_the_original_form() -> None:
    policy = RewardPolicy(squash="clip")
    assert [squash(policy, value) for value in (-3, -0.5, 0.5, 3)] == [-1, -0.5, 0.5, 1]


def test_components_are_the_raw_terms() -> None:
    result = reward_of(POLICY, summary_of(feedback("f", "success", score=100.0)), 0.4, 0.25).components
    assert result.validation == pytest.approx(tanh(1))
    assert (result.feedback, result.difficulty, result.multiplier, result.correction) == (0.3, 0.4, 1.6, 0.25)


FEEDBACK = st.lists(
    st.builds(
        feedback,
        st.text("abc", min_size=1, max_size=2),
        st.sampled_from(["success", "explicit_negative", "rating", "user_correction", "odd"]),
        minute=st.integers(0, 3),
        by=st.sampled_from([None, "h:u", "h:v"]),
        score=st.none() | st.floats(0, 100),
        retracted=st.booleans(),
    ),
    max_size=8,
    unique_by=lambda record: record.feedback_id,
)


@given(FEEDBACK, st.none() | st.floats(0, 1), st.floats(0, 1), st.sampled_from(["tanh", "clip"]))
def test_quality_and_reward_are_bounded(
    records: list[FeedbackRecord], correction: float | None, difficulty: float, form: str
) -> None:
    summary = aggregate(sorted(records, key=lambda record: record.order), lambda record: bonus_of(POLICY, record))
    assert (summary is None) == (not any(record.counts for record in records))
    if summary is not None:
        quality, reward = quality_and_reward(summary, correction=correction, difficulty=difficulty, squash=form)
        assert abs(quality) <= 1
        assert abs(reward) <= 1
        assert correction is None or reward >= 0


def test_balance_of_the_only_type_is_one_and_of_others_is_clipped() -> None:
    assert balance_of(POLICY, {}, "sql") == 1
    many = {"sql": RunningSum(1000.0, DAY_NS)}
    assert balance_of(POLICY, many, "sql") == 1
    assert balance_of(POLICY, many, "code") == 1.5
    assert balance_of(POLICY, {**many, "code": RunningSum(1.0, DAY_NS)}, "sql") == pytest.approx(
        math.sqrt(0.5 / (1005 / 1011)), 1e-9
    )
    wanted = RewardPolicy(share_target={"code": 0.1})
    both = {**many, "code": RunningSum(1000.0, DAY_NS)}
    assert balance_of(wanted, both, "sql") == pytest.approx(math.sqrt(0.9 / (1009 / 2010)), 1e-9)
    assert balance_of(wanted, both, "code") == 0.5
    assert balance_of(RewardPolicy(share_target={"code": 1.0}), many, "sql") == 0.5


def test_counts_are_seen_from_one_time() -> None:
    counts = {"old": RunningSum(100.0, 0), "new": RunningSum(100 * 0.95**10, 10 * DAY_NS)}
    assert balance_of(POLICY, counts, "old") == pytest.approx(1)
    assert balance_of(POLICY, counts, "new") == pytest.approx(1)


def test_counts_of_many_types_are_bounded() -> None:
    counts: dict[str, RunningSum] = {}
    for number in range(KNOWN_TYPES + 10):
        for name in ("common", f"rare{number}"):
            counts = count_type(POLICY, counts, name, number * DAY_NS)
    assert len(counts) == KNOWN_TYPES
    assert "common" in counts
