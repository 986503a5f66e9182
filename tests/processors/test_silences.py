"""Who is missed: each kind by an example at its threshold, and a table of traffic that stays small whatever comes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest
from aiokafka.errors import KafkaError
from hypothesis import given
from hypothesis import strategies as st

from headrace_processors.observer import traffic as traffic_module
from headrace_processors.observer import watch
from headrace_processors.observer.policy import SilencePolicy
from headrace_processors.observer.silences import TaskSamples, task_silences, traffic_silences
from headrace_processors.observer.traffic import Traffic, fold_traffic
from headrace_processors.observer.watch import SilenceObserver
from headrace_schemas.derived import Silence
from headrace_schemas.events import SilenceEnded, SilenceMuted, SilenceRaised
from headrace_schemas.times import rfc3339
from headrace_schemas.topics import HOUR_MS
from headrace_streams.runtime.status import WorkerReport
from headrace_streams.settings import Settings
from headrace_streams.silences import SilenceBook, counts
from support.signals import START_MS, event, feedback, interaction

POLICY = SilencePolicy()
MINUTE_MS = 60_000
REPORT: dict[str, Any] = {"group": "g", "broker": "b", "away": None}
SWAP_MS = 10 * MINUTE_MS
A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


class Seen:
    """Traffic, as it came hour by hour; every answer is by the base `tiny` of the bucket sql/tiny."""

    def __init__(self) -> None:
        self.traffic = Traffic(agents={}, raters={}, buckets={})

    def take(self, value: bytes | None, hours: float) -> None:
        fold_traffic(self.traffic, value, START_MS + round(hours * HOUR_MS), lambda _type, model, _role: model, SWAP_MS)

    def answer(self, hours: float, adapter: str | None = None, **more: Any) -> None:
        value = json.loads(interaction(f"i{hours}", adapter=adapter, **more))
        value["time"] = rfc3339(START_MS + round(hours * HOUR_MS))
        self.take(json.dumps(value).encode(), hours)

    def release(self, hours: float, adapter: str | None, release_id: str = "r1") -> None:
        files = None if adapter is None else {"digest": adapter}
        self.take(event("release.promoted", {"bucket": "sql/tiny", "release_id": release_id, "adapter": files}), hours)

    def spoken(self, hours: float) -> None:
        self.take(event("example.rewarded", {"bucket": "sql/tiny", "voices": 1}), hours)

    def rated(self, hours: float, rater: str = "sam") -> None:
        self.take(feedback(f"f{hours}", principal={"id": rater, "kind": "human"}), hours)

    def missed(self, hours: float, policy: SilencePolicy = POLICY) -> dict[str, Silence]:
        found = list(traffic_silences(self.traffic, policy, START_MS + round(hours * HOUR_MS)))
        assert len({(silence.kind, silence.subject) for silence in found}) == len(found)
        return {silence.kind: silence for silence in found}


def test_a_released_adapter_that_no_answer_names_is_missed_until_one_does() -> None:
    seen = Seen()
    seen.answer(0)
    seen.release(1, A)
    seen.answer(1.05)
    assert "adapter_unseen" not in seen.missed(1.9)
    silence = seen.missed(2.1)["adapter_unseen"]
    assert (silence.subject, silence.seen) == ("sql/tiny r1", "answers name the base")
    seen.answer(2.2, A)
    assert "adapter_unseen" not in seen.missed(2.3)


def test_an_answer_by_another_adapter_than_was_served_then_is_said_with_one_that_shows_it() -> None:
    seen = Seen()
    seen.release(0, A)
    seen.release(10, B, "r2")
    for minute in (1, 5, 9):
        seen.answer(10 + minute / 60, A)  # they may not have heard of it yet
    assert "served_other" not in seen.missed(10.3)
    for minute in (20, 21):
        seen.answer(10 + minute / 60, A)
    assert "served_other" not in seen.missed(10.4)
    seen.answer(10.5, A)
    silence = seen.missed(10.6)["served_other"]
    assert silence.expected.startswith(f"answers by {B}")
    assert (silence.seen, silence.interaction_id, silence.bucket) == (f"3 answers name {A}", "i10.5", "sql/tiny")
    assert "served_other" not in seen.missed(11.6)  # and none in the last hour


@pytest.mark.parametrize(
    "more",
    [{"model": "teacher"}, {"experiment": {"id": "e", "arm": "a", "propensity": 0.5}}],
    ids=["another model", "an experiment"],
)
def test_answers_that_were_not_meant_to_be_by_what_is_served_say_nothing_of_it(more: dict[str, Any]) -> None:
    seen = Seen()
    seen.release(0, A)
    for number in range(9):
        seen.answer(5 + number / 100, B, **more)
    assert "served_other" not in seen.missed(5.2)


def test_old_answers_that_come_late_say_nothing_of_what_is_served() -> None:
    seen = Seen()
    seen.release(0, A)
    seen.release(10, B, "r2")
    late = json.loads(interaction("late", adapter="sha256:" + "c" * 64))
    late["time"] = rfc3339(START_MS + 5 * HOUR_MS)
    for _ in range(9):
        seen.take(json.dumps(late).encode(), 11)
    assert "served_other" not in seen.missed(11.1)


def test_a_bucket_that_answers_and_nobody_speaks_of_is_missed() -> None:
    seen = Seen()
    for number in range(19):
        seen.answer(number)
    assert "bucket_without_feedback" not in seen.missed(30)
    seen.answer(20)
    assert seen.missed(30)["bucket_without_feedback"].seen == "20 answers without any"
    seen.spoken(31)
    assert "bucket_without_feedback" not in seen.missed(60)


def test_a_rater_is_missed_when_it_is_silent_for_longer_than_it_ever_was() -> None:
    seen = Seen()
    for week in range(3):
        for number in range(8):
            seen.rated(week * 168 + number / 10)  # on Mondays
    assert "rater_stopped" not in seen.missed(2 * 168 + 1.4 * 168)
    silence = seen.missed(2 * 168 + 1.6 * 168)["rater_stopped"]
    assert (silence.subject, silence.policy_key) == ("human:sam", "stopped_hours")
    assert "rater_stopped" not in seen.missed(2 * 168 + 24 * 31)  # forgotten


def test_an_agent_is_missed_after_a_day_at_the_least_if_it_ever_spoke_often() -> None:
    seen = Seen()
    for number in range(19):
        seen.answer(number / 60)
    assert "agent_stopped" not in seen.missed(100)
    seen.answer(0.5)
    assert "agent_stopped" not in seen.missed(24)
    assert seen.missed(25)["agent_stopped"].subject == "bot"


def test_a_task_that_falls_behind_is_said_and_one_that_catches_up_is_not() -> None:
    task = TaskSamples(samples=[])
    for minute in range(12):
        task.add(START_MS + minute * MINUTE_MS, 900 + 50 * minute, 0, 24 * HOUR_MS)
    (silence,) = task_silences({"reward/signals/0": task}, POLICY)
    assert (silence.kind, silence.subject) == ("lag_grows", "reward/signals/0")
    for minute in range(12, 30):
        task.add(START_MS + minute * MINUTE_MS, 5000 - 100 * minute, 0, 24 * HOUR_MS)
    assert list(task_silences({"reward/signals/0": task}, POLICY)) == []


def test_a_backlog_that_comes_and_goes_is_said_once_and_a_restart_ends_nothing() -> None:
    task, raised = TaskSamples(samples=[]), {("lag_grows", "t"), ("feedback_unjoined", "t")}
    for minute in range(40):
        task.add(START_MS + minute * MINUTE_MS, 5000 + 100 * (minute * 7 % 5), 12, 24 * HOUR_MS)
        assert {silence.kind for silence in task_silences({"t": task}, POLICY, raised)} == {"lag_grows", "feedback_unjoined"}
    task.add(START_MS + 40 * MINUTE_MS, 4000, 3, 24 * HOUR_MS)
    assert list(task_silences({"t": task}, POLICY, raised)) == []


def test_answers_by_another_adapter_that_go_on_are_said_once() -> None:
    seen = Seen()
    seen.release(0, A)
    seen.release(10, B, "r2")
    for number in range(40):
        seen.answer(11 + number * 0.3, A)
        if number >= 2:
            found = traffic_silences(
                seen.traffic, POLICY, START_MS + round((11 + number * 0.3) * HOUR_MS), {("served_other", f"sql/tiny {A}"[:88])}
            )
            assert "served_other" in {silence.kind for silence in found}


def test_an_observer_goes_on_after_whatever_kept_it_from_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.0)
    looks: list[int] = []

    async def main() -> None:
        again = asyncio.Event()
        observer = SilenceObserver(Settings(), POLICY, lambda _type, model, _role: model, lambda: WorkerReport(**REPORT))

        async def look() -> None:
            looks.append(1)
            if len(looks) < 3:
                raise KafkaError("the broker went away")
            again.set()

        monkeypatch.setattr(observer, "look", look)
        running = asyncio.create_task(observer.run())
        await asyncio.wait({running, asyncio.ensure_future(again.wait())}, return_when=asyncio.FIRST_COMPLETED, timeout=10)
        assert again.is_set()
        running.cancel()

    asyncio.run(main())


def test_feedback_that_waits_for_good_is_said_after_a_whole_day_of_looking() -> None:
    policy = SilencePolicy(unjoined_hours=2)
    task = TaskSamples(samples=[])
    for minute in range(110):
        task.add(START_MS + minute * MINUTE_MS, 0, 12 + minute % 3, 2 * HOUR_MS)
    assert list(task_silences({"link/refs/1": task}, policy)) == []
    for minute in range(110, 130):
        task.add(START_MS + minute * MINUTE_MS, 0, 12, 2 * HOUR_MS)
    (silence,) = task_silences({"link/refs/1": task}, policy)
    assert (silence.kind, silence.seen) == ("feedback_unjoined", "never fewer than 12, 12 now")
    task.add(START_MS + 130 * MINUTE_MS, 0, 3, 2 * HOUR_MS)
    assert list(task_silences({"link/refs/1": task}, policy)) == []


def test_the_table_keeps_those_that_spoke_last_and_counts_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic_module, "MOST", 20)
    seen = Seen()
    for number in range(500):
        seen.rated(number / 100, f"rater-{number}")
        seen.answer(number / 100, agent={"name": f"bot-{number}"}, model=f"m{number}")
    traffic = seen.traffic
    assert max(len(traffic.agents), len(traffic.raters), len(traffic.buckets)) <= 20
    assert traffic.dropped == 1500 - len(traffic.agents) - len(traffic.raters) - len(traffic.buckets)
    assert "human:rater-499" in traffic.raters


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3))


@given(st.binary(max_size=60) | st.dictionaries(st.sampled_from(["agent", "bucket", "adapter", "model", "principal"]), JSON))
def test_whatever_stands_on_a_topic_the_observer_looks_on(data: bytes | dict[str, Any]) -> None:
    seen = Seen()
    for kind in ("interaction.recorded", "feedback.recorded", "example.rewarded", "release.promoted"):
        seen.take(data if isinstance(data, bytes) else json.dumps({"type": f"headrace.{kind}.v1", "data": data}).encode(), 1)
    seen.take(None, 1)
    seen.missed(100)


def test_a_table_goes_to_the_log_and_comes_back() -> None:
    seen = Seen()
    seen.release(0, A)
    seen.answer(1, B)
    seen.rated(1)
    assert msgspec.convert(msgspec.json.decode(msgspec.json.encode(seen.traffic)), Traffic) == seen.traffic


def test_a_mute_hides_a_silence_until_its_time_and_its_end_takes_it_away() -> None:
    silence = Silence(kind="rater_stopped", subject="human:sam", since=rfc3339(START_MS), expected="e", seen="s", policy_key="k")
    common: dict[str, Any] = {"specversion": "1.0", "id": "1", "source": "t", "time": rfc3339(START_MS)}
    book = SilenceBook()
    book.take(SilenceRaised(data=silence, **common))
    assert counts(book, START_MS)["rater_stopped"] == 1
    until = {"until": rfc3339(START_MS + HOUR_MS), "reason": "on holiday"}
    book.take(
        msgspec.convert(
            {"type": "headrace.silence.muted.v1", **common, "data": {"kind": "rater_stopped", "subject": "human:sam", **until}},
            SilenceMuted,
        )
    )
    assert counts(book, START_MS)["rater_stopped"] == 0
    assert counts(book, START_MS + HOUR_MS)["rater_stopped"] == 1
    assert [each.silence for each in book] == [silence]
    ended = {"kind": "rater_stopped", "subject": "human:sam", "since": silence.since}
    book.take(msgspec.convert({"type": "headrace.silence.ended.v1", **common, "data": ended}, SilenceEnded))
    assert list(book) == []


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("reward/signals/1", False),
        ("reward/signals/2", True),  # a deployment with fewer partitions
        ("reward/refs/0", True),  # a stage that reads something else now
        ("retired/signals/0", True),
        ("reward/signals/x", True),
        ("curate/examples/0", False),
        ("nonsense", True),
    ],
)
def test_a_silence_of_a_task_that_there_is_none_of_any_more_ends(name: str, gone: bool) -> None:
    class Topics:
        async def offsets(self, topics: list[str]) -> dict[tuple[str, int], None]:
            return {(topic, partition): None for topic in topics for partition in range(2)}

    looking = SilenceObserver(Settings(), SilencePolicy(), lambda _type, model, _role: model, lambda: WorkerReport(**NOTHING))
    looking._reader = Topics()  # type: ignore[assignment]
    open_now = Silence(kind="lag_grows", subject=name, since=rfc3339(0), expected="", seen="", policy_key="lag_records")
    looking._book.take(watch._raised(open_now))
    found = asyncio.run(looking._of_gone_tasks({"curate/examples/0"}))
    assert [silence.subject for silence in found] == ([name] if gone else [])


NOTHING: dict[str, Any] = {"group": "g", "broker": "b", "away": None, "tasks": []}


def test_a_look_that_is_late_may_take_more_of_the_time() -> None:
    assert watch.pause_after(1.0, 5.0) == pytest.approx(9.0)
    assert watch.pause_after(1.0, watch.LOOK_SECONDS + 1) == pytest.approx(1.0)
