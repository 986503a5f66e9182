"""What keeps buckets clean and bounded: near-duplicates, targets, shares, contradictions, hysteresis, expiry, their number."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from headrace_lake.verify import verify
from headrace_processors.curate import changelog, shares
from headrace_processors.curate.drift import PageHinkley
from headrace_processors.curate.policy import VERSION_1, CuratePolicy
from headrace_processors.curate.state import ASSESSED, CurateBucket, ExampleRecord, RecentMedian, describe_buckets
from headrace_processors.decay import RunningSum
from headrace_processors.stages import STAGES
from headrace_schemas.codec import encode
from headrace_schemas.events import ClockTicked, ExampleRejected
from headrace_schemas.ids import derive_id
from headrace_schemas.inputs import Message
from headrace_streams.runtime.stage import Write
from headrace_streams.testing import MemoryTask, written_headers
from support.examples import BUCKET, DAY_MS, CurateRun, groups, rewarded, tick, tracked, withdrawn
from support.memory_log import MemoryLog
from support.signals import START_MS, event_of

(CURATE,) = (stage for stage in STAGES if stage.name == "curate")
LONG = "select name, count(*) as orders from customers join orders using (customer_id) where year = 2021 group by name"
ALIKE = LONG.replace("= 2021", "> 2021")
RIGHT: dict[str, Any] = {"quality": 0.8, "correction": None, "score": 100.0}


def alike(number: int, target: str = LONG, **changed: Any) -> bytes:
    return rewarded(number, **{"prompt": "How many orders has every customer placed in the year?", "target": target, **changed})


def written(write: Write) -> bytes:
    return encode(event_of(write))


def statuses(stage: CurateRun) -> dict[str, str]:
    """Interaction -> what became of its example."""
    return {value.interaction_id: value.status for value in stage.state.values() if isinstance(value, ExampleRecord)}


# -- near-duplicates


def test_of_two_near_duplicates_the_better_rewarded_one_stays() -> None:
    stage = CurateRun()
    stage.feed(alike(1), alike(2, ALIKE, reward=0.4))
    assert (stage.reasons, statuses(stage)) == (["near_duplicate"], {"i1": "open", "i2": "rejected"})
    stage.feed(alike(3, ALIKE.replace(">", "<"), reward=0.9))
    assert (stage.reasons, statuses(stage)["i1"], statuses(stage)["i3"]) == (["near_duplicate"] * 2, "rejected", "open")
    assert stage.counters == {"admitted": 1, "rejected": 2}
    assert stage.bucket.left_out == (("near_duplicate", 2),)
    last = event_of(stage.outputs[-1])
    assert isinstance(last, ExampleRejected)
    assert (last.data.interaction_id, last.data.reason) == ("i1", "near_duplicate"), "the one that left is named"
    assert last.data.rule.endswith("is 0.85 alike to it")


@pytest.mark.parametrize(
    "other",
    [
        RIGHT,  # of another outcome: an answer that was right beside one that was put right
        {"correction": None, "score": 10.0, "reward": -0.5},  # of another role
        {"bucket": "sql/large"},
        {"context": "a table"},
        {"split": "test"},
        {"target": "select 1"},
    ],
)
def test_of_another_role_outcome_bucket_context_side_or_text_nothing_is_a_near_duplicate(other: dict[str, Any]) -> None:
    stage = CurateRun()
    stage.feed(alike(1), alike(2, **{"target": ALIKE, **other}))
    assert stage.reasons == []


def test_what_is_said_of_another_figure_is_another_thing_however_alike_the_words_are() -> None:
    stage = CurateRun()
    stage.feed(alike(1), alike(2, LONG.replace("2021", "2022")), alike(3, prompt="How many orders had every customer in year 3?"))
    assert (stage.reasons, set(statuses(stage).values())) == ([], {"open"})


def test_negatives_are_near_duplicates_of_negatives_and_the_one_that_says_more_stays() -> None:
    stage = CurateRun()
    bad: dict[str, Any] = {"correction": None, "score": 10.0}
    stage.feed(alike(1, reward=-0.3, **bad), alike(2, ALIKE, reward=-0.8, **bad))
    assert statuses(stage) == {"i1": "rejected", "i2": "open"}


def test_a_revision_is_no_near_duplicate_of_itself_and_leaves_when_it_becomes_one() -> None:
    stage = CurateRun()
    stage.feed(alike(1), alike(2, "another text altogether, of which nothing is alike to the first one"))
    stage.feed(alike(1, ALIKE, revision=2))
    assert stage.counters == {"admitted": 2, "replaced": 1}
    stage.feed(alike(2, LONG, revision=2, reward=0.4))
    assert (stage.reasons, statuses(stage)) == (["near_duplicate"], {"i1": "open", "i2": "rejected"})


def test_near_duplicates_are_looked_for_among_open_examples_only() -> None:
    stage = CurateRun(target_effective_size=1, fresh_share=0.0)
    stage.feed(alike(1), alike(2, ALIKE))
    assert (len(stage.batches), stage.reasons) == (2, [])
    assert not any(key.startswith("~near:") for key in stage.state)
    assert not any(value.sketch for value in stage.state.values() if isinstance(value, ExampleRecord))


def test_an_example_that_left_makes_room_for_its_like() -> None:
    stage = CurateRun()
    stage.feed(alike(1), withdrawn(1), alike(2, ALIKE))
    assert stage.reasons == []


def test_the_better_of_two_comes_into_a_bucket_that_is_full_and_its_age_goes_on() -> None:
    stage = CurateRun(open_limit=1, target_effective_size=1, good_enough_evidence=1.0)
    stage.feed(alike(1, **RIGHT), alike(2, ALIKE, **{**RIGHT, "reward": 0.9}))  # nothing is cut while it is good enough
    opened = stage.bucket.opened_ms
    assert (stage.batches, statuses(stage), stage.bucket.train.size) == ([], {"i1": "rejected", "i2": "open"}, 1)
    assert opened == START_MS


# -- targets


def messages(*texts: str) -> list[Message]:
    return [Message(role="user" if place % 2 == 0 else "assistant", content=text) for place, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"target": LONG, "prompt": LONG.upper()}, ["echo"]),
        ({"target": LONG, "prompt": ALIKE}, ["echo"]),
        ({"target": LONG, "prompt": messages("first", "answer", LONG)}, ["echo"]),
        ({"target": LONG, "prompt": f"Make this shorter: {LONG} {LONG}"}, []),
        ({"target": LONG, "prompt": messages(LONG, "done", "and now?")}, []),
        ({"target": LONG, "prompt": LONG, "artifact_type": "edit"}, []),
        ({"target": "yes", "prompt": "is it?"}, []),
        ({"finish_reason": "length", **RIGHT}, ["truncated"]),
        ({"finish_reason": "length"}, []),  # somebody wrote the whole of it
        ({"finish_reason": "stop", **RIGHT}, []),
        ({"target": "As an AI I can't"}, ["generic"]),
    ],
)
def test_what_a_target_must_not_be(changed: dict[str, Any], expected: list[str]) -> None:
    stage = CurateRun()
    stage.feed(rewarded(1, **changed))
    assert stage.reasons == expected


def test_an_artifact_type_may_be_exempt_from_rules_about_targets() -> None:
    stage = CurateRun(exempt={"sql": ["truncated", "generic"]})
    stage.feed(
        rewarded(1, finish_reason="length", **RIGHT), rewarded(2, target="As an AI I can't"), rewarded(3, target="x", prompt="x")
    )
    assert stage.reasons == ["echo"]


def test_a_batch_says_what_was_left_out_while_its_bucket_was_open() -> None:
    stage = CurateRun(target_effective_size=2, contradictions="wait")
    stage.feed(alike(1), alike(2, ALIKE, reward=0.4), rewarded(3, target="..."), rewarded(4, contradicted=True, voices=2))
    stage.feed(rewarded(3, target="..."))  # a repetition is no second example
    stage.feed(rewarded(5))
    [batch] = stage.batches
    assert batch.statistics.left_out == {"generic": 1, "near_duplicate": 1, "waiting": 1}
    stage.feed(rewarded(6), rewarded(7))
    assert stage.batches[-1].statistics.left_out == {"waiting": 1}


# -- shares


def spoken(number: int, *names: str, **changed: Any) -> bytes:
    return rewarded(number, principals=[f"human:{name}" for name in names] or None, **changed)


def test_no_principal_has_more_than_its_share_of_a_batch_and_the_rest_waits() -> None:
    stage = CurateRun(target_effective_size=20, principal_share=0.2)
    stage.feed(*(spoken(number, "ada") for number in range(20)))
    assert len(stage.batches) == 1, "where fewer than ten spoke nobody has a share"
    stage.feed(*(spoken(number, f"p{number}") for number in range(35, 50)), *(spoken(number, "ada") for number in range(20, 35)))
    assert len(stage.batches) == 1, "30 are open, of which only 3 or 4 may be ada's"
    stage.feed(spoken(50, "p50"))
    batch = stage.batches[1]
    hers = {derive_id("example", f"i{number}") for number in range(20, 35)}
    assert (len(batch.members), sum(member.example_id in hers for member in batch.members)) == (20, 4)
    assert batch.statistics.left_out == {"over_share": 11}
    assert (stage.bucket.train.size, stage.bucket.fill) == (11, 11.0), "they wait for the next batch"
    assert list(statuses(stage).values()).count("open") == 11
    assert stage.state == {**stage.state, **stage.fold.derive({k: v for k, v in stage.state.items() if not k.startswith("~")})}


def test_a_share_is_of_what_is_chosen_and_counts_everybody_who_was_heard() -> None:
    def members(*heard: tuple[str, ...]) -> dict[str, ExampleRecord]:
        return {f"e{place}": ExampleRecord(1, "open", principals=names) for place, names in enumerate(heard)}

    nine = members(*[(f"p{number}",) for number in range(8)], *[("ada",)] * 20)
    assert shares.within(0.2, nine) == nine
    ten = members(*[(f"p{number}",) for number in range(9)], *[("ada",)] * 20, ("ada", "p0"), (), ())
    chosen = shares.within(0.2, ten)
    assert len(chosen) == 9 + 2 + 2
    assert sum("ada" in member.principals for member in chosen.values()) == 2 <= 0.2 * len(chosen)
    assert "e29" not in chosen


# -- contradictions


def disputed(number: int, voices: int = 2, **changed: Any) -> bytes:
    return rewarded(number, contradicted=True, voices=voices, **changed)


def test_contradicted_examples_are_kept_unless_policy_says_otherwise() -> None:
    kept, dropped = CurateRun(), CurateRun(contradictions="drop")
    kept.feed(disputed(1))
    dropped.feed(disputed(1))
    assert (kept.counters, dropped.counters, dropped.reasons) == ({"admitted": 1}, {"rejected": 1}, ["contradicted"])


def test_a_contradicted_example_waits_for_a_third_voice() -> None:
    stage = CurateRun(contradictions="wait")
    stage.feed(disputed(1))
    assert (stage.counters, stage.bucket.waiting, stage.bucket.fill) == ({"waiting": 1}, 1, 0.0)
    stage.feed(disputed(1, voices=3, revision=2))
    assert (stage.counters, stage.bucket.waiting, stage.bucket.fill) == ({"replaced": 1, "admitted": 1}, 0, 1.0)


def test_a_contradicted_example_waits_no_longer_than_policy_says() -> None:
    task = MemoryTask(CURATE, "examples", CuratePolicy(contradictions="wait", settle_after_days=2, keep_days=None))
    task.feed(disputed(1), at_ms=START_MS)
    [(key, at)] = task.deadlines.items()
    assert (key, at) == (f"example:{BUCKET}:{derive_id('example', 'i1')}", START_MS + 2 * DAY_MS)
    task.let_pass(at)
    assert {**task.counters} == {"in": 2, "waiting": 0, "admitted": 1, "ticks": 1}
    assert [key for key in task.deadlines] == [f"bucket:{BUCKET}"]


def test_what_waits_may_be_withdrawn_and_is_no_duplicate_before_it_is_taken() -> None:
    stage = CurateRun(contradictions="wait", settle_after_days=1)
    stage.feed(disputed(1, prompt="p", target="t"), rewarded(2, prompt="p", target="t"), disputed(3), withdrawn(3))
    assert (stage.counters, stage.bucket.waiting) == ({"waiting": 1, "admitted": 1, "replaced": 1, "withdrawn": 1}, 1)
    stage.days = 1.0
    now = START_MS + DAY_MS
    due = [key for key, value in stage.state.items() if (at := stage.fold.deadline(key, value)) and at <= now]
    [key] = [key for key in due if not key.startswith(ASSESSED)]
    [write] = stage.fold.overdue(stage.state, [key], now)
    stage.feed(written(write))
    assert (stage.reasons, stage.bucket.waiting) == (["duplicate"], 0)
    assert stage.counters == {"admitted": 1, "rejected": 1, "replaced": 1, "withdrawn": 1, "ticks": 1}


# -- hysteresis


def test_a_further_batch_needs_half_its_target_in_examples_that_were_in_none() -> None:
    stage = CurateRun(target_effective_size=4)
    stage.feed(*(rewarded(number) for number in range(4)))
    stage.feed(*(rewarded(number, revision=2, target=f"select other {number}") for number in range(4)), rewarded(4))
    assert (len(stage.batches), stage.bucket.fill) == (1, 5.0)
    stage.feed(rewarded(5))
    assert [len(batch.members) for batch in stage.batches] == [4, 6]


def test_what_was_good_enough_is_cut_again_two_points_below() -> None:
    stage = CurateRun(target_effective_size=20, good_enough_evidence=20)
    stage.feed(*(rewarded(number, **RIGHT) for number in range(60)))
    stage.feed(*(rewarded(number, quality=-0.9) for number in range(60, 64)))
    assert stage.batches == [], "60 of 64 are 93.75 %"
    stage.feed(rewarded(64, quality=-0.9))
    assert len(stage.batches) == 1, "60 of 65 are 92.3 %"


# -- rarity and drift


def many(bucket: str, numbers: range) -> list[bytes]:
    """Examples of the train side of any bucket."""
    names = islice(groups("train", bucket), numbers.start, numbers.stop)
    return [rewarded(number, bucket=bucket, prompt_group=name) for number, name in zip(numbers, names, strict=True)]


def test_a_bucket_that_gets_far_less_than_the_others_is_cut_with_less() -> None:
    stage = CurateRun(target_effective_size=50, targets={"sql/rare": 10})
    for bucket in ("sql/busy", "sql/busier"):
        stage.feed(*many(bucket, range(100)))
    before = len(stage.batches)
    stage.days = 1.0
    stage.feed(*many("sql/rare", range(9)))
    [batch] = stage.batches[before:]
    assert (batch.bucket, batch.cause, batch.target) == ("sql/rare", "rarity", 6.0)
    assert stage.state["median"].examples == 100
    stored = stage.dumped()
    assert {key: stage.fold.dump(key, stage.fold.load(key, value)) for key, value in stored.items()} == stored


def test_what_is_rare_is_asked_of_the_last_30_days_once_a_day() -> None:
    stage = CurateRun(target_effective_size=1000, targets={"sql/rare": 10}, age_limit_days=100)
    stage.feed(*many("sql/busy", range(200)))
    stage.days = 31.0
    stage.feed(*many("sql/rare", range(7)))
    assert (stage.batches, stage.state["median"]) == ([], RecentMedian((START_MS // DAY_MS) + 31, 5)), "nothing else came of late"
    stage.feed(*many("sql/busy", range(200, 300)), *many("sql/rare", range(7, 8)))
    assert stage.batches == []
    stage.days = 32.0
    stage.feed(*many("sql/rare", range(8, 9)))
    assert stage.state["median"].examples == 54
    assert stage.batches == [], "8 is no less than a tenth of it"


def test_a_success_rate_that_falls_lowers_the_target_until_the_next_cut() -> None:
    stage = CurateRun(target_effective_size=200, aged_target=20)
    stage.feed(*(rewarded(number, **RIGHT, model="tiny") for number in range(150)))
    assert stage.batches == []
    stage.feed(*(rewarded(number, quality=-0.5) for number in range(150, 190)))
    [batch] = stage.batches
    assert (batch.cause, batch.target) == ("drift", 20.0)
    assert not stage.bucket.drifted
    assert stage.bucket.answers.answers < 40, "what is tested begins anew"


def test_an_alarm_says_nothing_of_another_release_and_a_steady_rate_gives_none() -> None:
    test = PageHinkley()
    for number in range(20_000):
        test = test.add(number % 5 != 0, 0.05)
        assert not test.alarm
    fallen = 0
    while not test.alarm:
        test, fallen = test.add(fallen % 2 == 0, 0.05), fallen + 1
    assert 90 < fallen < 130
    stage = CurateRun(target_effective_size=200, aged_target=20, good_enough=1.0)
    stage.feed(*(rewarded(number, **RIGHT) for number in range(150)), tracked(False, "r2"))
    stage.feed(*(rewarded(number, quality=-0.5) for number in range(150, 190)))
    assert stage.batches == []
    assert stage.bucket.answers.answers > 30


# -- bounds


def test_a_partition_has_no_more_buckets_than_policy_says_and_names_what_it_refuses() -> None:
    stage = CurateRun(max_buckets=2)
    stage.feed(*(rewarded(number, bucket=f"sql/m{number}") for number in range(5)), withdrawn(1, bucket="sql/m7"), tracked(True))
    assert stage.reasons == ["too_many_buckets"] * 3
    assert stage.counters == {"admitted": 2, "rejected": 3, "withdrawn": 1, "tracked": 1}
    assert [value.name for value in stage.state.values() if isinstance(value, CurateBucket)] == ["sql/m0", "sql/m1"]
    assert len([key for key in stage.dumped() if not key.startswith(ASSESSED)]) == 4


def test_a_bucket_of_which_nothing_is_left_makes_room() -> None:
    task = MemoryTask(CURATE, "examples", CuratePolicy(max_buckets=1, keep_days=30))
    task.feed(rewarded(1, target="...", bucket="sql/typo"), at_ms=START_MS)
    assert task.counters["rejected"] == 1
    task.feed(rewarded(2), at_ms=START_MS + 1000)
    assert task.counters["rejected"] == 2
    task.let_pass(START_MS + 30 * DAY_MS)
    assert task.dumped() == {}
    task.feed(rewarded(2))
    assert task.counters["admitted"] == 1


def test_examples_of_a_base_that_nothing_names_are_kept_and_not_cut_until_something_does() -> None:
    stage = CurateRun(bases=["other"], target_effective_size=2, keep_days=None)
    stage.feed(*(rewarded(number) for number in range(4)))
    assert (stage.batches, stage.deadlines, stage.bucket.fill, stage.counters) == ([], [], 4.0, {"admitted": 4})
    [described] = describe_buckets(stage.dumped())
    assert described["note"].startswith("no policy and no release names its base")
    stage.feed(tracked(False))
    assert [len(batch.members) for batch in stage.batches] == [4]


@pytest.mark.parametrize("named", [{"bases": ["tiny"]}, {"bases": ["other"], "targets": {BUCKET: 2}}, {}])
def test_a_base_is_named_by_policy_alone_or_when_no_base_is(named: dict[str, Any]) -> None:
    stage = CurateRun(**{"target_effective_size": 2, **named})
    stage.feed(rewarded(1), rewarded(2))
    assert len(stage.batches) == 1


def test_known_examples_contents_and_test_rows_are_forgotten_after_a_while() -> None:
    task = MemoryTask(CURATE, "examples", CuratePolicy(keep_days=30, target_effective_size=1))
    task.feed(rewarded(1), at_ms=START_MS)  # cut
    task.feed(rewarded(2, split="test"), at_ms=START_MS)
    task.feed(rewarded(3, target="..."), at_ms=START_MS)
    task.feed(withdrawn(4), at_ms=START_MS)
    assert sum(key.startswith("example:") for key in task.deadlines) == 4
    task.let_pass(START_MS + 30 * DAY_MS - 1)
    assert sum(key.startswith("example:") for key in task.dumped()) == 4
    (processed,) = task.let_pass(START_MS + 30 * DAY_MS)
    assert not processed.produced, "nothing is written but the tick"
    kept = [f"assessed:{BUCKET}", f"bucket:{BUCKET}"]
    assert sorted(task.dumped()) == kept, "a bucket that was cut is remembered"
    assert task.counters["ticks"] == 2, "one let it be said how the bucket stood"
    task.feed(rewarded(1))
    assert task.counters["admitted"] == 3, "what is forgotten may come again"


def test_a_record_about_an_example_puts_off_its_end() -> None:
    stage = CurateRun(keep_days=30, target_effective_size=1)
    stage.feed(rewarded(1))
    stage.days = 20.0
    stage.feed(rewarded(1, revision=2))
    assert stage.deadlines == [START_MS + 50 * DAY_MS]


def test_a_tick_ends_nothing_before_its_time_whatever_it_names() -> None:
    stage = CurateRun(keep_days=30, target_effective_size=1)
    stage.feed(rewarded(1))
    before = stage.dumped()
    [write] = stage.fold.overdue(stage.state, [f"example:{BUCKET}:{derive_id('example', 'i1')}"], START_MS + 40 * DAY_MS)
    stage.feed(written(write), tick())
    assert stage.dumped() == before
    assert stage.counters == {"admitted": 1, "ticks": 2}


def test_one_tick_is_written_for_the_buckets_and_one_for_each_bucket_with_examples_that_are_due() -> None:
    stage = CurateRun(keep_days=30, max_buckets=100)
    stage.feed(*(rewarded(number, bucket=f"sql/m{number % 3}") for number in range(9)))
    buckets = [key for key in stage.state if key.startswith("bucket:")]
    assert len(stage.fold.overdue(stage.state, buckets, START_MS)) == 1
    writes = stage.fold.overdue(stage.state, [*buckets, *(key for key in stage.state if key.startswith("example:"))], START_MS)
    ticks = [event for write in writes if isinstance(event := event_of(write), ClockTicked)]
    assert [(event.data.bucket, len(event.data.examples or ())) for event in ticks] == [
        ("sql/m0", 3),
        ("sql/m1", 3),
        ("sql/m2", 3),
    ]
    assert len({event.id for event in ticks}) == 3


def test_many_buckets_grow_old_in_portions() -> None:
    stage = CurateRun(max_buckets=None, keep_days=None)
    stage.feed(*(rewarded(number % 600, bucket=f"sql/m{number}") for number in range(2500)))
    stage.days = 8.0
    left = [len(stage.deadlines)]
    for _ in range(3):
        stage.feed(tick())
        left.append(len(stage.deadlines))
    assert left == [left[0], left[0] - 1000, left[0] - 2000, 0]
    assert sum(value.aged for value in stage.state.values() if isinstance(value, CurateBucket)) == left[0] > 2000


# -- state of version 1


def test_a_changelog_of_version_1_is_read_as_if_version_2_had_written_it() -> None:
    """Slots, contents and deadlines were values of their own; what they said follows from examples and buckets."""
    opened, due = 1_790_000_000_000, 1_790_604_800_000
    bucket = {
        "name": BUCKET,
        "admitted": 1,
        "fill": 1.0,
        "target": 64.0,
        "opened_ms": opened,
        "train": {"first": 4, "next": 5, "size": 1},
    }
    example = {"revision": 1, "status": "open", "role": "train", "slot": 4, "content": "c1", "reward": 0.5, "admitted": True}
    old = {
        f"bucket:{BUCKET}": msgspec.json.encode(bucket),
        f"example:{BUCKET}:e1": msgspec.json.encode(example),
        f"slot:train:4:{BUCKET}": b'"e1"',
        "content:c1": b'"e1"',
        "deadlines": msgspec.json.encode([[due, BUCKET]]),
    }
    current = CURATE.upcast_state(1, old)
    assert current.keys() == {f"bucket:{BUCKET}", f"example:{BUCKET}:e1"}
    fold = CURATE.newest(CuratePolicy().body())
    state = {key: fold.load(key, value) for key, value in current.items()}
    assert state[f"bucket:{BUCKET}"].due_ms == due
    assert fold.derive(state) == {
        f"~slot:train:4:{BUCKET}": "e1",
        "~content:c1": "e1",
        "~deadlines": ((due, BUCKET),),
        "~buckets": (BUCKET,),
    }
    assert fold.deadline(f"example:{BUCKET}:e1", state[f"example:{BUCKET}:e1"]) is None


def test_a_log_that_both_versions_wrote_verifies() -> None:
    """What version 1 left in the state, version 2 goes on with, live and in replay alike, restarts and a new policy between."""
    log, headers = MemoryLog(), written_headers("examples")
    policy = CuratePolicy(target_effective_size=6, aged_target=3)
    body = policy.body()

    def written(*values: bytes) -> None:
        for value in values:
            log.append("examples", 0, b"sql/tiny", value, headers)

    written(*(rewarded(number, split="train" if number % 9 else "test") for number in range(40)))
    log.run(replace(CURATE, versions={1: CURATE.versions[1]}), {key: body[key] for key in body.keys() - VERSION_1.keys()})
    written(*(rewarded(number, revision=2, quality=0.4 if number % 2 else -0.4) for number in range(30, 70)), withdrawn(5))
    log.run(CURATE, body)
    written(*(rewarded(number) for number in range(70, 90)))
    log.run(CURATE, {**body, "near_duplicate": 0.5})
    verified = asyncio.run(verify(log, [CURATE]))["curate"]
    assert (verified.records, verified.differences, verified.not_comparable) == (101, [], [])
    assert verified.outputs > 10


@pytest.mark.parametrize("field", ["reward", "balance", "difficulty"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_an_example_with_a_number_that_is_not_finite_is_neither_written_nor_read(field: str, number: float) -> None:
    """msgpack has such numbers, JSON has not."""
    record = replace(ExampleRecord(1, "rejected"), **{field: number})
    with pytest.raises(ValueError, match=f"a number that is not finite .*{field}={number}"):
        changelog.dump(record)
    with pytest.raises(ValueError, match=f"a number that is not finite .*{field}={number}"):
        changelog.load("example:sql/tiny:e1", msgspec.msgpack.encode(record))


@pytest.mark.parametrize(
    "changed",
    [
        {"fill": float("nan")},
        {"target": float("inf")},
        {"last_reward": float("nan")},
        {"sums": (RunningSum(), RunningSum(float("inf")))},
        {"trials": RunningSum(float("nan"))},
        {"successes": RunningSum(float("nan"))},
        {"answers": PageHinkley(1, 0.0, 0.0, float("-inf"))},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_bucket_with_a_number_that_is_not_finite_is_neither_written_nor_read(changed: dict[str, Any]) -> None:
    bucket = replace(CurateBucket("sql/tiny"), **changed)
    with pytest.raises(ValueError, match="a number that is not finite"):
        changelog.dump(bucket)
    with pytest.raises(ValueError, match="a number that is not finite"):
        changelog.load("bucket:sql/tiny", msgspec.msgpack.encode(bucket))
