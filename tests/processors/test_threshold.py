"""Targets of buckets: the published tiers, their factors and the clamp; the effective size of the default."""

from __future__ import annotations

import pytest

from headrace_processors.curate.policy import CuratePolicy, TieredPolicy
from headrace_processors.curate.thresholds import target, tiered
from support.examples import CurateRun, rewarded


@pytest.mark.parametrize(
    ("admitted", "reward", "expected"),
    [
        (0, None, 20),  # 20 x 0.6, clamped
        (49, None, 20),
        (50, None, 30),  # 50 x 0.6
        (99, 0.59, 30),
        (99, 0.6, 21),  # 50 x 0.7 x 0.6
        (100, None, 75),
        (100, 0.6, 52.5),
        (10**9, 1.0, 52.5),
    ],
)
def test_tiers(admitted: int, reward: float | None, expected: float) -> None:
    assert tiered(TieredPolicy(), admitted, reward) == expected


def test_tiers_are_clamped_from_above() -> None:
    assert tiered(TieredPolicy(beyond=500), 1000, None) == 100


def test_the_default_is_an_effective_size_whatever_came_before() -> None:
    assert target(CuratePolicy(), "sql/tiny", 1000, 0.9) == 64


def test_a_tiered_target_is_fixed_when_the_bucket_opens() -> None:
    stage = CurateRun(threshold="tiered")
    stage.feed(*(rewarded(number, reward=0.7) for number in range(120)))
    assert [batch.target for batch in stage.batches] == [20, 20, 20, 21, 21]  # opened at 0, 20, 40, 60, 81 admitted
    assert [len(batch.members) for batch in stage.batches] == [20, 20, 20, 21, 21]
    assert stage.bucket.target == 52.5  # opened at 102


def test_tiers_count_examples_and_not_what_decay_leaves_of_them() -> None:
    stage = CurateRun(threshold="tiered")
    stage.feed(*(rewarded(number, event_time=f"{2001 + number}-01-01T00:00:00Z") for number in range(20)))
    assert [len(batch.members) for batch in stage.batches] == [20]
