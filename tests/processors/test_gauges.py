"""What stages show of their buckets while they run: every figure has a metric, and says what the state says."""

from __future__ import annotations

import pytest

from headrace_processors.policy_file import Policies
from headrace_processors.stages import STAGES
from headrace_streams.monitoring.metrics import BUCKET_GAUGES
from support.state_goldens import GOLDENS, read

SHOWN = {
    "curate": {"sql/tiny": {"fill", "target", "examples", "test_rows", "batches"}},
    "release": {"sql/tiny": {"decisions", "paused"}},
}


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage.name in SHOWN], ids=lambda stage: stage.name)
def test_every_figure_of_a_bucket_has_a_metric(stage: object) -> None:
    name = stage.name  # type: ignore[attr-defined]
    fold = stage.newest(getattr(Policies(), name).body())  # type: ignore[attr-defined]
    found: dict[str, set[str]] = {}
    for key, value in read(GOLDENS / f"{name}.jsonl"):
        if fold.gauged and key.startswith(fold.gauged):
            bucket, figures = fold.gauges(key, fold.load(key, value))
            assert figures.keys() <= BUCKET_GAUGES.keys()
            found[bucket] = set(figures)
    assert found.keys() >= SHOWN[name].keys()
    assert all(found[bucket] >= figures for bucket, figures in SHOWN[name].items())


def test_only_stages_with_buckets_are_watched() -> None:
    watched = {stage.name for stage in STAGES if stage.newest(getattr(Policies(), stage.name).body()).gauged}
    assert watched == SHOWN.keys()
