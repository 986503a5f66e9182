"""What is asked for when a served release has learnt what was taken back: once more, from the newest adapter that has not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec import structs

from headrace_cli.main import invoke
from headrace_lake.batches import rows_of
from headrace_schemas.derived import BatchRetryRequest, ModelVersion, RulesActivation, TrainingCompletion
from headrace_schemas.events import (
    BatchReady,
    BatchRetryRequested,
    Event,
    ExampleRewarded,
    PromoteRequested,
    RulesActivated,
    TrainingCompleted,
    TrainingStarted,
    make,
)
from headrace_streams import requests, retraining
from headrace_streams.learnt import RetractedRows, learnt_rows
from headrace_streams.release_log import Decision
from headrace_streams.requests import _descendants
from headrace_streams.retraining import POLICY, retrains
from headrace_streams.settings import Settings
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


def test_what_a_version_has_learnt_that_was_taken_back_goes_back_to_what_is_served() -> None:
    rows = [training_data.recorded(number) for number in range(6)]
    names = [row.member.example_id for row in rows]
    cut = [training_data.batch([row.member for row in rows[at : at + 2]], name=f"b{at}") for at in (0, 2, 4)]
    made = [structs.replace(each, batch_id=one.batch_id) for each, one in zip(CHAIN, cut, strict=True)]
    starts = [training_data.start(batch, run_id=each.run_id) for batch, each in zip(cut, made, strict=True)]
    starts[2] = structs.replace(starts[2], withdrawn=[names[4]])
    batches, runs = {batch.batch_id: batch for batch in cut}, {start.run_id: start for start in starts}

    def said(gone: list[str], served: str | None = None, **known: Any) -> str:
        runs_left = {name: start for name, start in runs.items() if name not in known.get("lost", ())}
        return str(learnt_rows(made[2], made, batches, runs_left, gone, served))

    assert said([names[5]]) == "has learnt 1 examples that were taken back since"
    assert said(names) == "has learnt 5 examples that were taken back since", "one was before its run began"
    assert said([names[0]], digest("v1")) == "", "what is served already is for `revoke`"
    assert said([names[0]], digest("v2")) == said([names[4]]) == said(["another"]) == ""
    assert said([names[0]], lost=["r-v2"]) == (
        "has learnt 1 examples that were taken back since, and may have: what run r-v2 rehearsed is no longer on the log"
    )
    assert said([], lost=["r-v2"]) == ""


class Log:
    """A reader of what a test says is on the log."""

    def __init__(self, topics: dict[str, list[Event]]) -> None:
        self._topics = topics

    async def events(self, topic: str, **_: Any) -> AsyncIterator[Event]:
        for event in self._topics.get(topic, []):
            yield event


def test_a_run_that_did_without_what_was_taken_back_has_not_learnt_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is of a batch that holds it: else the answer to a second retraction is that the clean release has to go, too."""
    rows = [training_data.recorded(number) for number in range(4)]
    batch = training_data.batch([row.member for row in rows[:2]])
    later = training_data.batch([row.member for row in rows[2:]], name="b2")
    name = rows[0].member.example_id
    starts = [
        training_data.start(batch, run_id="r-v1"),
        training_data.start(batch, run_id="r-v2", withdrawn=[name]),
        training_data.start(later, run_id="r-v3", rehearsal=[rows[0].member]),
        training_data.start(later, run_id="r-v4"),
    ]
    of = {"v1": batch, "v2": batch, "v3": later, "v4": later}
    made = [structs.replace(version(each, None), batch_id=one.batch_id) for each, one in of.items()]

    async def known(found: Any) -> Any:
        return found

    def told(kind: type[Any], *said: Any) -> list[Event]:
        return [make(kind, data, id=str(number), writer="x", time_ms=0) for number, data in enumerate(said)]

    topics = {
        "examples": told(ExampleRewarded, rows[0].example),
        "batches": told(BatchReady, batch, later),
        "runs": told(TrainingStarted, *starts),
    }
    monkeypatch.setattr(requests, "Reader", lambda _: Log(topics))
    monkeypatch.setattr(requests, "versions", lambda _: known(made))
    monkeypatch.setattr(requests, "history", lambda _: known([serves("v2")]))
    monkeypatch.setattr(requests, "served", lambda _: known({BUCKET: serves("v2").data}))
    found = asyncio.run(requests.touched(Settings(), interaction_id=rows[0].example.interaction_id))
    assert [head.version_id for head in found.heads] == ["v1", "v3"]
    assert (found.releases, found.served, found.retrains) == ([], [], [])


def test_of_requests_of_which_one_names_too_much_none_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    published: list[Event] = []

    async def publish(_: Settings, event: Event) -> None:
        published.append(event)

    rules = RulesActivation(
        stage="train", topic="batches", partition=0, version=1, body={POLICY: True}, digest="d", from_offset=0
    )
    topics: dict[str, list[Event]] = {"rules": [make(RulesActivated, rules, id="r", writer="train", time_ms=0)]}
    monkeypatch.setattr(retraining, "Reader", lambda _: Log(topics))
    monkeypatch.setattr(retraining, "publish", publish)
    one, two = (
        BatchRetryRequest(bucket=f"sql/{name}", batch_id="b", without=[str(number) for number in range(count)])
        for name, count in (("one", 1), ("two", retraining.WITHOUT_LIMIT + 1))
    )
    with pytest.raises(retraining.RetryRefused, match="sql/two: 20001 examples"):
        asyncio.run(retraining.queue(Settings(), [one, two]))
    assert published == []
    assert asyncio.run(retraining.queue(Settings(), [one])) == [one]
    topics["batches"] = published
    assert (asyncio.run(retraining.queue(Settings(), [one])), len(published)) == ([], 1), "it is asked once"


def test_who_promotes_what_has_learnt_what_was_taken_back_has_to_say_that_it_is_meant(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str | None] = []

    async def known(*_: Any) -> Any:
        return [version("v1", None)]

    async def learnt(*_: Any) -> RetractedRows:
        return RetractedRows(2, [])

    async def answered(_: Settings, bucket: str, event: PromoteRequested, *rest: Any, **more: Any) -> Decision:
        asked.append(event.data.reason)
        return serves("v1", bucket)

    monkeypatch.setattr(requests, "versions", known)
    monkeypatch.setattr("headrace_streams.learnt.learnt_taken_back", learnt)
    monkeypatch.setattr(requests, "ask", answered)
    assert (invoke(["promote", "v1", "--reason", "urgent"]), asked) == (1, [])
    assert "version v1 has learnt 2 examples that were taken back since" in capsys.readouterr().err
    assert invoke(["promote", "v1", "--reason", "urgent", "--anyway"]) == invoke(["promote", "v1", "--anyway"]) == 0
    assert asked == [f"{why} (it has learnt 2 examples that were taken back since)" for why in ("urgent", "anyway")]
