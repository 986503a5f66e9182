"""Linking: feedback that names a foreign id reaches the interaction, whichever comes first."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from headrace_processors.link import fold as link
from headrace_processors.link.fold import WAITING_BYTES
from headrace_schemas.events import RecordRejected
from headrace_streams.runtime.stage import Write
from support.signals import StageRun, event, event_of, feedback, tree_of

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
