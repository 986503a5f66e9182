"""What is asked for when a served release has learnt what was taken back: once more, from the newest adapter that has not."""

from __future__ import annotations

from typing import Any

from headrace_lake.batches import rows_of
from headrace_schemas.derived import BatchRetryRequest, ModelVersion, TrainingCompletion
from headrace_schemas.events import BatchReady, BatchRetryRequested, TrainingCompleted, make
from headrace_streams.release_log import Decision
from headrace_streams.requests import _descendants
from headrace_streams.retraining import retrains
from support import released, training_data
from support.outcomes import adapter, digest

BUCKET = training_data.BUCKET


def version(name: str, parent: str | None, *, warm: bool = True, bucket: str = BUCKET) -> ModelVersion:
    """Made by a run of a batch of its own."""
    return ModelVersion(
        version_id=name, run_id=f"r-{name}", batch_id=f"b-{name}", bucket=bucket, artifact_type="sql", base="tiny",
        adapter=adapter(name), parent_adapter=None if parent is None else digest(parent), method="lora",
        hyperparameters={"warm_started": warm}, rows=1, tokens=1, seconds=1.0,
    )  # fmt: skip


def serves(name: str, bucket: str = BUCKET) -> Decision:
    return Decision("promoted", "", released.release(1, adapter(name), bucket))


CHAIN = [version("v1", None), version("v2", "v1"), version("v3", "v2")]


def asked(touched: list[str], made: list[ModelVersion] = CHAIN, serving: str = "v3") -> list[BatchRetryRequest]:
    return retrains([serves(serving)], made, {digest(name) for name in touched}, {BUCKET: {"e-2", "e-1"}})


def test_the_newest_batch_is_trained_again_from_the_last_adapter_that_has_not_learnt_it() -> None:
    [request] = asked(["v2", "v3"])
    assert (request.bucket, request.batch_id, request.begins) == (BUCKET, "b-v3", digest("v1"))
    assert request.without == ["e-1", "e-2"]


def test_where_all_adapters_have_learnt_it_the_run_begins_at_the_base() -> None:
    [request] = asked(["v1", "v2", "v3"])
    assert request.begins is None


def test_an_adapter_that_began_anew_has_learnt_nothing_of_the_one_beside_it() -> None:
    anew = [version("v1", None), version("v2", "v1", warm=False)]
    [request] = asked(["v2"], anew, "v2")
    assert request.begins is None, "what it began beside is no head of its chain"
    assert _descendants(anew, {digest("v1")}) == set()


def test_a_bucket_whose_release_has_not_learnt_it_is_left_alone() -> None:
    assert asked(["v3"], serving="v2") == []
    assert asked([]) == []


def test_a_batch_that_was_trained_waits_again_until_the_run_that_was_asked_for_has_ended() -> None:
    batch = training_data.batch([training_data.recorded(1).member])
    again = BatchRetryRequest(bucket=batch.bucket, batch_id=batch.batch_id, without=["e-1"])
    done = TrainingCompletion(
        bucket=batch.bucket, batch_id=batch.batch_id, run_id="r", version_id="v", evaluation_id="e", seconds=1.0
    )
    kinds: list[tuple[type[Any], Any]] = [(BatchReady, batch), (BatchRetryRequested, again), (TrainingCompleted, done)]
    cut, request, ended = (make(kind, data, id=kind.__name__, writer="x", time_ms=0) for kind, data in kinds)
    states = [rows_of([cut, *asked_for], runs)[0].state for asked_for, runs in (
        ([], [ended]), ([request], [ended]), ([request], [ended, ended])
    )]  # fmt: skip
    assert states == ["trained", "waits", "trained"]
