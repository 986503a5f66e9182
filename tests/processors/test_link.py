"""Linking: feedback that names a foreign id reaches the interaction, whichever comes first."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from headrace_processors.link import fold as link
from headrace_processors.link import version_1
from headrace_processors.link.fold import WAITING_BYTES
from headrace_processors.link.policy import LinkPolicy
from headrace_processors.link.state import ForeignId, is_head, upcast
from headrace_processors.stages import STAGES
from headrace_schemas.events import RecordRejected
from headrace_streams.runtime.stage import Write
from headrace_streams.runtime.step import Processed
from headrace_streams.testing import MemoryTask
from support.signals import START_MS, StageRun, accounted, event, event_of, feedback, tree_of, without_figures

[STAGE] = [stage for stage in STAGES if stage.name == "link"]
JIRA = {"system": "jira", "id": "OPS-7"}


def linked(interaction_id: str, ref: dict[str, str] = JIRA, *, minute: float = 0) -> bytes:
    return event(
        "interaction.linked", {"interaction_id": interaction_id, "ref": ref}, id=f"linked-{interaction_id}", minute=minute
    )


def feedback_on_ref(name: str, ref: dict[str, str] = JIRA, **data: Any) -> bytes:
    return feedback(name, None, ref=ref, **data)


def link_stage(**policy: object) -> StageRun:
    return StageRun(link.build(policy, "sha256:test"), "refs", through_dump=True)


def named(outputs: list[Write]) -> list[tuple[str, str]]:
    """(interaction, feedback) of each output, which is on signals under the interaction's id and names no ref any more."""
    pairs = []
    for output in outputs:
        data = tree_of(output)["data"]
        assert output.topic == "signals"
        assert output.key == data["interaction_id"]
        assert "ref" not in data
        pairs.append((output.key, data["feedback_id"]))
    return pairs


def test_feedback_after_the_link_is_resolved_at_once_with_all_that_it_holds() -> None:
    stage = link_stage()
    stage.feed(linked("i1"))
    (output,) = stage.feed(feedback_on_ref("f1", mystery=[1]))
    assert named([output]) == [("i1", "f1")]
    assert tree_of(output)["data"]["mystery"] == [1]
    assert stage.counters == {"resolved": 2}


def test_feedback_before_the_link_waits_for_the_first_one() -> None:
    stage = link_stage()
    assert stage.feed(feedback_on_ref("f1"), feedback_on_ref("f2")) == []
    assert stage.counters == {"waiting": 2}
    assert named(stage.feed(linked("i1"))) == [("i1", "f1"), ("i1", "f2")]
    assert stage.counters == {"resolved": 3}
    assert stage.feed(linked("i1")) == []


def test_the_latest_link_counts_for_what_comes_after_it() -> None:
    stage = link_stage()
    stage.feed(
        linked("new", minute=5),
        feedback_on_ref("f1"),
        linked("old", minute=1),
        feedback_on_ref("f2"),
        linked("newer", minute=6),
        feedback_on_ref("f3"),
    )
    assert named(stage.outputs) == [("new", "f1"), ("new", "f2"), ("newer", "f3")]


def test_ids_that_share_a_record_key_are_two() -> None:
    stage = link_stage()
    stage.feed(linked("i1", {"system": "a:b", "id": "c"}))
    assert stage.feed(feedback_on_ref("f1", {"system": "a", "id": "b:c"})) == []


def test_a_preference_is_spread_when_it_is_resolved() -> None:
    stage = link_stage()
    stage.feed(feedback_on_ref("f1", kind="preference", over=["i2"]))
    assert named(stage.feed(linked("i1"))) == [("i1", "f1"), ("i2", "f1")]
    assert tree_of(stage.outputs[1])["data"]["under"] == "i1"


def test_what_waits_is_bounded_in_number_and_in_bytes() -> None:
    stage = link_stage(waiting=2)
    stage.feed(feedback_on_ref("f1"), feedback_on_ref("f2"), feedback_on_ref("f3"))
    assert stage.counters == {"waiting": 2, "dead": 1}
    (letter,) = (event_of(output) for output in stage.outputs)
    assert isinstance(letter, RecordRejected)
    assert letter.data.error.code == "waiting_limit"
    assert named(stage.feed(linked("i1"))) == [("i1", "f1"), ("i1", "f2")]
    stage = link_stage()
    large = '"' * 200_000
    for number in range(30):
        stage.feed(feedback_on_ref(f"f{number}", mystery=large))
    assert stage.counters["dead"] > 0
    assert all(len(value) < 2.5 * WAITING_BYTES for value in stage.dumped().values())


@given(st.permutations([linked("i1"), feedback_on_ref("f1"), feedback_on_ref("f2"), feedback_on_ref("f3")]), st.integers(0, 4))
def test_the_order_does_not_matter_and_everything_is_counted(records: list[bytes], until: int) -> None:
    stage = link_stage()
    stage.feed(*records[:until])
    assert sum(stage.counters.values()) == until
    stage.feed(*records[until:])
    assert sorted(named(stage.outputs)) == [("i1", "f1"), ("i1", "f2"), ("i1", "f3")]
    assert stage.counters == {"resolved": 4}


# rule version 2: events apart, expiry, ids of copies

DAY_MS = 86_400_000


def task(**policy: Any) -> MemoryTask:
    return MemoryTask(STAGE, "refs", LinkPolicy(**policy))


def fed(run: MemoryTask, *records: bytes, at_ms: int = START_MS) -> list[Processed]:
    return [run.feed(value, at_ms=at_ms) for value in records]


def test_what_waits_is_written_once() -> None:
    run = task()
    fed(run, feedback_on_ref("f1", comment="c" * 10_000))
    (done,) = fed(run, feedback_on_ref("f2"))
    assert sum(len(value or b"") for value in done.dumped.values()) < 500
    (linking,) = fed(run, linked("i1"))
    assert [produced.key for produced in linking.produced] == [b"i1", b"i1"]
    assert len(run.dumped()) == 1


def test_copies_of_one_preference_from_two_interactions_carry_an_id_each() -> None:
    run = task()
    (*_, first) = fed(run, linked("i1"), feedback_on_ref("f1", kind="preference", over=["i2"]))
    (*_, second) = fed(run, linked("i3", minute=5), feedback_on_ref("f1", kind="preference", over=["i2"]))
    ids = [msgspec.json.decode(done.produced[1].value)["id"] for done in (first, second)]
    assert [done.produced[1].key for done in (first, second)] == [b"i2", b"i2"]
    assert len(set(ids)) == 2


def test_links_and_what_waits_for_one_expire_by_fold_time() -> None:
    run = task(expire_after_days=10)
    other = {"system": "jira", "id": "OPS-8"}
    fed(run, linked("i1"), feedback_on_ref("f1", other), feedback_on_ref("f2", other, kind="preference", over=["i2"]))
    assert without_figures(run.counters) == {"in": 3, "resolved": 1, "waiting": 2}
    assert run.let_pass(START_MS + 10 * DAY_MS - 1) == []
    assert [done.produced for done in run.let_pass(START_MS + 10 * DAY_MS)] == [[], []]
    assert run.dumped() == {}
    assert without_figures(run.counters) == {"in": 5, "resolved": 3, "waiting": 0, "expired": 2}
    fed(run, feedback_on_ref("f3"), at_ms=START_MS + 11 * DAY_MS)  # about a foreign id that nobody knows any more
    assert run.counters["waiting"] == 1


def test_a_link_that_is_used_stays_and_says_so_seldom() -> None:
    run = task(expire_after_days=16)
    fed(run, linked("i1"))
    writes = [
        bool(done.changes)
        for hours in range(0, 24 * 20, 6)
        for done in fed(run, feedback_on_ref(f"f{hours}"), at_ms=START_MS + hours * 3_600_000)
    ]
    assert sum(writes) <= 20
    assert run.overdue(START_MS + 30 * DAY_MS) == ()
    assert len(run.overdue(START_MS + 36 * DAY_MS)) == 1


def test_an_expiry_that_is_not_true_any_more_changes_nothing_and_what_only_quotes_one_is_feedback() -> None:
    run = task(expire_after_days=10)
    fed(run, feedback_on_ref("f1"))
    [early] = run.overdue(START_MS + 10 * DAY_MS)
    fed(run, feedback_on_ref("f2", comment="headrace.ref.expired.v1"), at_ms=START_MS + 9 * DAY_MS)
    fed(run, msgspec.json.encode(early.value), at_ms=START_MS + 11 * DAY_MS)
    assert without_figures(run.counters) == {"in": 3, "waiting": 2, "resolved": 1}


REFS = [JIRA, {"system": "a:b", "id": "c"}]
RECORDS = [
    *(linked(f"i{number}", ref, minute=number) for ref in REFS for number in (1, 2)),
    *(feedback_on_ref(f"f{number}", ref, **fields) for ref in REFS for number, fields in ((1, {}), (2, {"mystery": 1}))),
    feedback_on_ref("f3", kind="preference", over=["i7", "i8"]),
    b"{}",
]


@given(st.lists(st.sampled_from(RECORDS), max_size=20))
def test_versions_1_and_2_write_the_same_but_for_ids_of_copies_and_a_state_goes_over(records: list[bytes]) -> None:
    first, second = StageRun(version_1.build({}, ""), "refs", through_dump=True), link_stage()
    for value in records:
        written: list[list[Any]] = []
        for run in (first, second):
            try:
                outputs = run.feed(value)
            except ValueError as error:
                run.records += 1
                written.append([str(error)])
            else:
                trees = [
                    {**tree_of(output), "id": ""} if "under" in tree_of(output)["data"] else tree_of(output) for output in outputs
                ]
                written.append([(output.topic, output.key, tree) for output, tree in zip(outputs, trees, strict=True)])
        assert written[0] == written[1]
    assert first.counters == second.counters
    moved = link_stage()
    moved.state = {key: moved.fold.load(key, value) for key, value in upcast(first.dumped()).items()}
    moved.counters = first.counters
    for ref in REFS:
        last = linked("i9", ref, minute=99)
        assert [tree_of(output) for output in moved.feed(last)] == [tree_of(output) for output in second.feed(last)]
    assert moved.counters == second.counters


@given(st.lists(st.tuples(st.sampled_from([*RECORDS, b"let pass"]), st.integers(0, 12)), max_size=20))
def test_whatever_expires_when_everything_is_in_one_counter(records: list[tuple[bytes, int]]) -> None:
    run, now = task(expire_after_days=10, waiting=3), START_MS
    for value, days in records:
        now += days * DAY_MS
        if value == b"let pass":
            run.let_pass(now)
        else:
            fed(run, value, at_ms=now)
        state = run.dumped()
        heads = [msgspec.json.decode(state[key], type=ForeignId) for key in state if is_head(key)]
        assert run.counters.get("waiting", 0) == sum(head.waiting for head in heads) == len(state) - len(heads)
        assert not run.counters or accounted(run.counters)
    run.let_pass(now + 60 * DAY_MS)
    assert run.dumped() == {}
