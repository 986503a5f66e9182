"""Another policy over the recorded log: one side is what was recorded, the other what a ring under that policy does."""

from __future__ import annotations

import asyncio
import copy
import json
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_lake.keys import OpenedLog
from headrace_lake.lake_log import LakeLog
from headrace_lake.log import Log, LogRecord
from headrace_lake.whatif.examples import _FATES
from headrace_lake.whatif.merged import MergedExamples
from headrace_lake.whatif.report import ExampleSide, WhatIfReport
from headrace_lake.whatif.sides import NotTried
from headrace_lake.whatif.spool import Instead, Spool
from headrace_lake.whatif.trial import WhatIf
from headrace_processors.curate.state import Status
from headrace_processors.stages import STAGES
from headrace_schemas.codec import decode
from headrace_schemas.derived import Batch, Example, ReleaseDecision
from headrace_schemas.events import BatchReady, ExampleRejected, ExampleRewarded, ExampleWithdrawn
from headrace_schemas.topics import DAY_MS
from headrace_schemas.topology import LATER
from headrace_streams.runtime.provenance import Provenance, origin
from headrace_streams.runtime.sealing import owner_of
from headrace_streams.runtime.step import Produced
from support.memory_log import MemoryLog
from support.memory_ring import ORDER, MemoryRing, lake_of
from support.signals import event as made
from support.signals import feedback, interaction

ALL = 10**6
Bodies = dict[str, dict[str, Any]]


def tried(log: Log, bodies: Mapping[str, Any], **options: Any) -> WhatIfReport:
    return asyncio.run(WhatIf(log, STAGES, bodies, **{"top": ALL, **options}).run())


def changed(bodies: Bodies, **tables: dict[str, Any]) -> Bodies:
    other = copy.deepcopy(bodies)
    for stage, keys in tables.items():
        other[stage] |= keys
    return other


def events(log: MemoryLog, topic: str) -> list[Any]:
    return [decode(record.value) for record in log.of(topic)]


def standing(log: MemoryLog) -> dict[str, Example]:
    found: dict[str, Example] = {}
    for event in events(log, "examples"):
        if isinstance(event, ExampleRewarded):
            found[event.data.interaction_id] = event.data
        elif isinstance(event, ExampleWithdrawn):
            found.pop(event.data.interaction_id, None)
    return found


def rewards(report: WhatIfReport) -> dict[str, tuple[float | None, float | None]]:
    """By interaction, of those that flip: reward before and after."""
    return {flip.interaction_id: (_reward(flip.before), _reward(flip.after)) for flip in report.rewards.largest}


def _reward(side: ExampleSide | None) -> float | None:
    return None if side is None else side.reward


@pytest.fixture(scope="module")
def ring() -> MemoryRing:
    ring = MemoryRing(3)
    for _ in range(3):
        ring.round(25)
    return ring


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 3))
def test_the_same_policy_flips_nothing(seed: int, partitions: int) -> None:
    ring = MemoryRing(seed, partitions=partitions)
    for _ in range(2):
        ring.round(15)
    report = tried(ring.log, ring.bodies)
    assert (report.flips, report.policies, report.rewards.largest, report.examples.largest) == (0, [], [], [])
    assert (report.rewards.tried, report.releases.tried) == (False, False)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 3))
def test_a_policy_that_decides_the_same_in_other_words_flips_nothing(seed: int, partitions: int) -> None:
    """Digests differ, so that everything is folded twice."""
    ring = MemoryRing(seed, partitions=partitions)
    for _ in range(2):
        ring.round(15)
    other = changed(ring.bodies, curate={"targets": {"haiku/nobody": 5.0}}, release={"min_test_rows": 29})
    other["reward"]["complexity"] = {**other["reward"]["complexity"], "haiku": 0.9}
    report = tried(ring.log, other)
    assert report.rewards.tried
    assert report.releases.tried
    assert report.flips == 0
    assert report.examples.examples > 5


def test_before_is_what_was_recorded(ring: MemoryRing) -> None:
    bonus = {**ring.bodies["reward"]["bonus"], "success": -2.0}
    report = tried(ring.log, changed(ring.bodies, reward={"bonus": bonus}, release={"min_gain": 50.0}))
    recorded = standing(ring.log)
    assert report.rewards.before == len(recorded)
    for flip in report.rewards.largest:
        example = recorded[flip.interaction_id]
        assert flip.before is not None
        assert (flip.before.reward, flip.before.quality, flip.before.bucket, flip.before.revision) == (
            example.reward,
            example.quality,
            example.bucket,
            example.revision,
        )
        assert flip.place is not None
        topic, partition, offset = flip.place.split("/")
        [record] = [record for record in ring.log.records[topic, int(partition)] if record.offset == int(offset)]
        assert decode(record.value).data.interaction_id == flip.interaction_id  # type: ignore[union-attr]
    batches: list[Batch] = [event.data for event in events(ring.log, "batches") if isinstance(event, BatchReady)]
    assert sum(trial.before.batches for trial in report.batches) == len(batches)
    assert sorted((cut.members, cut.cause) for trial in report.batches for cut in trial.before.cuts) == sorted(
        (len(batch.members), batch.cause) for batch in batches
    )
    reasons = Counter(event.data.reason for event in events(ring.log, "rejections") if hasattr(event.data, "reason"))
    assert report.rejections.before == dict(reasons)
    decisions: list[ReleaseDecision] = [event.data for event in events(ring.log, "releases.history")]
    assert report.releases.answers == len(decisions)
    by_request = {decision.request_id: decision.reason for decision in decisions}
    assert report.releases.flipped
    assert all(by_request[flip.request_id] == flip.before_reason for flip in report.releases.flipped)


@pytest.mark.parametrize("seed", range(4))
def test_after_is_what_a_ring_under_that_policy_does(seed: int) -> None:
    """One partition, folded at once: then the order of examples is that of signals under any policy."""

    def folded(bodies: Bodies | None = None) -> MemoryRing:
        ring = MemoryRing(seed, partitions=1)
        ring.bodies = bodies or ring.bodies
        for _ in range(80):
            ring._one(odd=True)
        ring._fold(*ORDER)
        return ring

    recorded = folded()
    bonus = {**recorded.bodies["reward"]["bonus"], "success": -3.0}
    bases = [{"base": "other", "role": "analyst", "artifact_type": None, "model": None}]
    for other in (
        changed(recorded.bodies, reward={"bonus": bonus}),
        changed(recorded.bodies, curate={"target_effective_size": 11.0, "train_above": 99.9}),
        changed(recorded.bodies, reward={"bases": bases, "squash": "clip"}, curate={"one_side_chars": None}),
        changed(recorded.bodies, reward={"correction_bonus": 0.0}, curate={"near_duplicate": 0.5}),
    ):
        wanted, report = folded(other), tried(recorded.log, other)
        assert report.flips
        old, new = standing(recorded.log), standing(wanted.log)
        assert report.rewards.after == (len(new) if report.rewards.tried else 0)
        flipped = rewards(report)
        for name in old.keys() | new.keys():
            pair = old[name].reward if name in old else None, new[name].reward if name in new else None
            if pair[0] != pair[1]:
                assert flipped[name] == pair
        rejected = Counter(event.data.reason for event in events(wanted.log, "rejections") if isinstance(event, ExampleRejected))
        after = {reason: count for reason, count in report.rejections.after.items() if reason in rejected}
        assert after == dict(rejected)
        cut = [event.data for event in events(wanted.log, "batches") if isinstance(event, BatchReady)]
        assert [(trial.bucket, c.members, c.cause) for trial in report.batches for c in trial.after.cuts] == sorted(
            ((batch.bucket, len(batch.members), batch.cause) for batch in cut), key=lambda entry: entry[0]
        )


def test_a_flip_says_which_term_or_rule_it_is(ring: MemoryRing) -> None:
    bonus = {**ring.bodies["reward"]["bonus"], "success": 0.1}
    report = tried(ring.log, changed(ring.bodies, reward={"bonus": bonus}, curate={"train_above": 99.99, "min_chars": 40}), top=3)
    assert len(report.rewards.largest) == len(report.examples.largest) == 3
    assert report.rewards.lower > 3
    first = report.rewards.largest[0]
    assert any(why.startswith("feedback 0.3 -> 0.1") for why in first.why)
    assert first.texts is not None
    assert first.texts.output.startswith("select")
    assert first.size == max(flip.size for flip in report.rewards.largest)
    generic = [flip for flip in report.examples.largest if flip.after and flip.after.fate == "rejected: generic"]
    assert generic
    assert any("at least 40 characters" in why for why in generic[0].why)
    assert [(change.stage, change.key, change.before, change.after) for change in report.policies] == [
        ("reward", "bonus.success", 0.3, 0.1),
        ("curate", "min_chars", 1, 40),
        ("curate", "train_above", 70.0, 99.99),
    ]


def test_a_policy_that_takes_over_later_changes_nothing_before(ring: MemoryRing) -> None:
    bonus = {**ring.bodies["reward"]["bonus"], "success": -2.0}
    other = changed(ring.bodies, reward={"bonus": bonus})
    whole = tried(ring.log, other)
    signals = sorted(record.timestamp for record in ring.log.of("signals"))
    late = tried(ring.log, other, since_ms=signals[len(signals) * 2 // 3])
    assert 0 < late.rewards.flips < whole.rewards.flips
    assert late.rewards.signals == whole.rewards.signals
    assert tried(ring.log, other, since_ms=signals[-1] + 10**6).flips == 0


def test_one_bucket_alone_is_counted(ring: MemoryRing) -> None:
    bonus = {**ring.bodies["reward"]["bonus"], "success": -2.0}
    other = changed(ring.bodies, reward={"bonus": bonus})
    whole, one, none = (tried(ring.log, other, bucket=bucket) for bucket in (None, "sql/tiny", "sql/nobody"))
    assert whole.rewards.flips == one.rewards.flips
    assert whole.examples.flows == one.examples.flows
    assert (none.flips, none.batches, none.releases.answers) == (0, [], 0)


def test_what_follows_a_flipped_release_is_called_unknowable(ring: MemoryRing) -> None:
    report = tried(ring.log, changed(ring.bodies, release={"min_test_rows": 10_000}))
    assert report.releases.flips >= 1
    assert report.releases.flipped[0].before == "promoted"
    assert report.releases.flipped[0].after == "declined: insufficient_evidence"
    assert report.rewards.flips == report.examples.flips == 0


def test_two_policies_are_compared_under_the_newest_rules_whatever_was_recorded(ring: MemoryRing) -> None:
    bonus = {**ring.bodies["reward"]["bonus"], "success": -2.0}
    other = changed(ring.bodies, reward={"bonus": bonus})
    assert tried(ring.log, other, against=other).flips == 0
    there, back = tried(ring.log, other), tried(ring.log, ring.bodies, against=other)
    assert (there.rewards.higher, there.rewards.lower) == (back.rewards.lower, back.rewards.higher)


def test_a_deadline_that_only_the_new_policy_has_passes_by_itself() -> None:
    """Nothing comes for days; a live worker would have cut the bucket by its age meanwhile."""
    ring = MemoryRing(5, partitions=1, target=500.0)
    for _ in range(30):
        ring._one(odd=False)
    ring._fold(*ORDER)
    ring.log.time += 5 * DAY_MS
    ring._one(odd=False)
    ring._fold(*ORDER)
    opened = ring.log.records["examples", 0][0].timestamp
    assert not ring.log.records.get(("batches", 0))
    report = tried(ring.log, changed(ring.bodies, curate={"age_limit_days": 1.0, "aged_target": 5.0}))
    [bucket] = report.batches
    assert (bucket.before.batches, bucket.after.batches) == (0, 1)
    [cut] = bucket.after.cuts
    assert cut.cause == "age"
    assert abs(cut.at_ms - opened - DAY_MS) < 1000
    assert cut.fill_seconds == pytest.approx(DAY_MS / 1000)
    assert tried(ring.log, changed(ring.bodies, curate={"age_limit_days": 6.0, "aged_target": 5.0})).batches[0].after.batches == 0


def test_interactions_that_the_new_policy_gives_up_expire_by_themselves() -> None:
    ring = MemoryRing(5, partitions=1)
    ring.publish("interactions", interaction("i-1"))
    ring._fold(*ORDER)
    ring.log.time += 5 * DAY_MS
    ring.publish("feedback", feedback("f-1", "i-1", score=100))
    ring._fold(*ORDER)
    report = tried(ring.log, changed(ring.bodies, reward={"expire_after_days": 2.0}))
    assert (report.rewards.before, report.rewards.after, report.rewards.lost) == (1, 0, 1)
    assert tried(ring.log, changed(ring.bodies, reward={"expire_after_days": 10.0})).rewards.flips == 0


def test_a_deadline_that_both_had_passes_by_itself_once_the_recorded_policy_has_another() -> None:
    """A worker was away when it was due, and came back with a longer one: it never passes on the recorded side."""
    ring = MemoryRing(5, partitions=1)
    ring.bodies["reward"]["expire_after_days"] = 2.0
    ring.publish("interactions", interaction("i-1"))
    ring._fold(*ORDER)
    ring.log.time += 5 * DAY_MS
    ring.publish("interactions", interaction("i-2"))
    ring._fold(*ORDER)
    ring.bodies["reward"]["expire_after_days"] = 90.0
    ring.log.time += DAY_MS
    ring.publish("feedback", feedback("f-1", "i-1", score=100))
    ring._fold(*ORDER)
    report = tried(ring.log, changed(ring.bodies, reward={"expire_after_days": 2.0}))
    assert (report.rewards.before, report.rewards.after, report.rewards.lost) == (1, 0, 1)


def test_the_worth_of_what_derivations_saw_can_be_tried() -> None:
    ring = MemoryRing(5, partitions=1)
    ring.bodies["intake"] |= {"sessions": True, "sketches": True}
    ring.bodies["attribute"]["derive"] = {"rephrased": {}}
    for number, prompt in enumerate(("total sales by region", "total sales by region please")):
        ring.publish("interactions", interaction(f"i-{number}", prompt=prompt, session_id="s", minute=number))
    ring._fold("intake", "attribute", *[name for name in ORDER if name not in ("intake", "attribute")])
    for worth, lower, lost in (({"weight": 1.0, "bonus": -0.4}, 1, 0), ({"weight": 0.0}, 0, 1), ({"bonus": -0.4}, 0, 0)):
        report = tried(ring.log, changed(ring.bodies, reward={"derived": {"rephrased": worth}}))
        assert (report.rewards.before, report.rewards.lower, report.rewards.lost) == (1, lower, lost)


def test_what_is_compared_with_is_the_policy_of_every_task_not_of_the_last_alone() -> None:
    """A task that had nothing to do since the policy was changed still runs under the one before."""
    ring = MemoryRing(5, partitions=2)
    for number in range(8):
        ring.publish("interactions", interaction(f"i-{number}"))
    ring._fold(*ORDER)
    old = ring.bodies["reward"]["correction_bonus"]
    ring.bodies["reward"]["correction_bonus"] = 0.7
    ring._fold(*ORDER)
    rules = ring.log.records["rules", 0]
    for partition in (0, 1):  # whichever it is, it is the last of the list once
        newest = max(place for place, each in enumerate(rules) if each.key == f"reward/signals/{partition}".encode())
        kept = [*rules[:newest], *rules[newest + 1 :]]
        ring.log.records["rules", 0] = kept
        report = tried(ring.log, changed(ring.bodies, reward={"correction_bonus": 0.9}))
        found = [(each.key, each.before, each.after) for each in report.policies if each.stage == "reward"]
        assert sorted(found) == [("correction_bonus", old, 0.9), ("correction_bonus", 0.7, 0.9)]


def test_a_lake_says_what_its_log_says(ring: MemoryRing, tmp_path: Path) -> None:
    bonus = {**ring.bodies["reward"]["bonus"], "success": -2.0}
    other = changed(ring.bodies, reward={"bonus": bonus}, curate={"train_above": 99.9})
    folder = lake_of(ring.log, tmp_path / "lake", rows=17)
    with folder.open() as manifest:
        assert tried(LakeLog(folder, manifest), other) == tried(ring.log, other)


def test_what_is_sealed_is_tried_when_it_is_opened() -> None:
    ring = MemoryRing(3)
    ring.bodies["intake"]["seal"] = "subjects"
    for _ in range(2):
        ring.round(25)
    opened = OpenedLog(ring.log, ring.log)
    bonus = {**ring.bodies["reward"]["bonus"], "success": -2.0}
    report = tried(opened, changed(ring.bodies, reward={"bonus": bonus}, curate={"min_chars": 2}))
    names = {
        json.loads(record.value or b"")["data"]["interaction_id"]
        for record in ring.log.of("examples")
        if owner_of("examples", record.headers) is not None
    }
    shown = [flip for flip in report.rewards.largest if flip.interaction_id in names]
    assert shown
    assert all(flip.texts is not None and "select" in flip.texts.output for flip in shown)
    batches = [event.data for event in events(ring.log, "batches") if isinstance(event, BatchReady)]
    assert sum(trial.before.batches for trial in report.batches) == len(batches)
    assert tried(opened, changed(ring.bodies, curate={"targets": {"haiku/nobody": 5.0}})).flips == 0


def produced(name: str) -> Produced:
    return Produced("examples", 0, b"k", name.encode(), ())


def of_signal(offset: int, source: int, signal: int) -> LogRecord:
    """A recorded example that reward made of a signal."""
    headers = origin(Provenance("reward", "signals", source, signal, 0))
    return LogRecord("examples", 0, offset, 1000 + offset, b"k", b"recorded", headers)


def test_what_replaces_a_signal_stands_once_however_its_records_lie_between_others() -> None:
    """Two tasks of reward write into one partition of examples, record by record in turns."""
    with closing(Spool()) as spool:
        spool.put(0, Instead(0, 5, 1000, -1, True, [produced("new")]))
        merged = MergedExamples(spool, 0)
        records = [of_signal(0, 0, 5), of_signal(1, 1, 7), of_signal(2, 0, 5), of_signal(3, 1, 7), of_signal(4, 0, 6)]
        found = [[made.value for made in merged.instead_of(record)] for record in records]
    assert found == [[b"new"], [b"recorded"], [], [b"recorded"], [b"recorded"]]


@pytest.mark.parametrize("first", [True, False])
def test_where_an_example_ended_is_where_it_was_not_withdrawn(first: bool) -> None:
    """It moved to another bucket under one policy, and to a third under the other, whose partition may come before or after."""
    left, stays, other = (
        ExampleSide(bucket, 1.0, fate=fate) for bucket, fate in (("a", "withdrawn"), ("b", "learnt"), ("c", "learnt"))
    )
    with closing(Spool()) as spool:
        for side in (left, stays) if first else (stays, left):
            spool.put_half("e", "i" if side is stays else "", "p", side, after=False)
        spool.put_half("e", "i", "", other, after=True)
        assert list(spool.joined_halves()) == [("e", "i", "p", stays, other)]


def test_a_log_from_before_a_topic_is_tried_as_if_it_were_there(ring: MemoryRing) -> None:
    """Curate writes `assessments` since rule version 4; a log that was declared before has no such topic."""

    class Older:
        def __getattr__(self, name: str) -> Any:
            return getattr(ring.log, name)

        async def partitions(self, topic: str) -> int:
            return 0 if topic in LATER else await ring.log.partitions(topic)

    other = changed(ring.bodies, curate={"train_above": 99.9})
    assert tried(Older(), other) == tried(ring.log, other)


def test_an_answer_that_only_one_policy_gives_is_a_flip(ring: MemoryRing) -> None:
    """The same request again, when one policy has forgotten that it was answered."""
    log = MemoryLog(ring.log.count)
    log.records = {place: list(records) for place, records in ring.log.records.items()}
    first = log.of("outcomes")[0]
    log.time = ring.log.time + 50 * DAY_MS
    bucket = json.loads(first.value or b"")["data"]["bucket"]
    asked = made("pause.requested", {"bucket": bucket, "requested_by": "ada", "reason": "holidays"}, id="pause")
    log.append("outcomes", first.partition, first.key, asked)
    log.append("outcomes", first.partition, first.key, first.value, first.headers)
    report = tried(log, changed(ring.bodies, release={"expire_after_days": 20.0}))
    assert [(flip.before, flip.after.partition(":")[0]) for flip in report.releases.flipped] == [("no answer", "declined")]
    assert report.releases.flips + report.releases.unknowable == 1


def test_every_status_of_an_example_has_a_name_for_people() -> None:
    assert set(get_args(Status)) == {*_FATES, "drawn", "rejected"}


def test_a_log_that_names_no_policy_is_refused_in_a_line(ring: MemoryRing) -> None:
    log = MemoryLog(1)
    for record in ring.log.of("examples"):
        log.append("examples", 0, record.key, record.value, record.headers)
    with pytest.raises(NotTried, match=r"^curate over examples/0: the log names no policy[^\n]+$"):
        tried(log, ring.bodies)
