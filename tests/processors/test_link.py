"""Linking: feedback that names a foreign id reaches the interaction, whichever comes first."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from headrace_processors.link import fold as link
from headrace_processors.link.fold import WAITING_BYTES
from headrace_schemas.events import RecordRejected
from headrace_streams.runtime.stage import Write
from support.signals import Tape, event, event_of, feedback, tree_of

JIRA = {"system": "jira", "id": "OPS-7"}


def linked(interaction_id: str, ref: dict[str, str] = JIRA, *, minute: float = 0) -> bytes:
    return event(
        "interaction.linked", {"interaction_id": interaction_id, "ref": ref}, id=f"linked-{interaction_id}", minute=minute
    )


def said(name: str, ref: dict[str, str] = JIRA, **data: Any) -> bytes:
    return feedback(name, None, ref=ref, **data)


def tape(**policy: object) -> Tape:
    return Tape(link.build(policy, "sha256:test"), "refs", through_dump=True)


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
    run = tape()
    run.feed(linked("i1"))
    (output,) = run.feed(said("f1", mystery=[1]))
    assert named([output]) == [("i1", "f1")]
    assert tree_of(output)["data"]["mystery"] == [1]
    assert run.counts == {"resolved": 2}


def test_feedback_before_the_link_waits_for_the_first_one() -> None:
    run = tape()
    assert run.feed(said("f1"), said("f2")) == []
    assert run.counts == {"waiting": 2}
    assert named(run.feed(linked("i1"))) == [("i1", "f1"), ("i1", "f2")]
    assert run.counts == {"resolved": 3}
    assert run.feed(linked("i1")) == []


def test_the_latest_link_counts_for_what_comes_after_it() -> None:
    run = tape()
    run.feed(linked("new", minute=5), said("f1"), linked("old", minute=1), said("f2"), linked("newer", minute=6), said("f3"))
    assert named(run.outputs) == [("new", "f1"), ("new", "f2"), ("newer", "f3")]


def test_ids_that_share_a_record_key_are_two() -> None:
    run = tape()
    run.feed(linked("i1", {"system": "a:b", "id": "c"}))
    assert run.feed(said("f1", {"system": "a", "id": "b:c"})) == []


def test_a_preference_is_spread_when_it_is_resolved() -> None:
    run = tape()
    run.feed(said("f1", kind="preference", over=["i2"]))
    assert named(run.feed(linked("i1"))) == [("i1", "f1"), ("i2", "f1")]
    assert tree_of(run.outputs[1])["data"]["under"] == "i1"


def test_what_waits_is_bounded_in_number_and_in_bytes() -> None:
    run = tape(waiting=2)
    run.feed(said("f1"), said("f2"), said("f3"))
    assert run.counts == {"waiting": 2, "dead": 1}
    (letter,) = (event_of(output) for output in run.outputs)
    assert isinstance(letter, RecordRejected)
    assert letter.data.error.code == "waiting_limit"
    assert named(run.feed(linked("i1"))) == [("i1", "f1"), ("i1", "f2")]
    run = tape()
    large = '"' * 200_000
    for number in range(30):
        run.feed(said(f"f{number}", mystery=large))
    assert run.counts["dead"] > 0
    assert all(len(value) < 2.5 * WAITING_BYTES for value in run.dumped().values())


@given(st.permutations([linked("i1"), said("f1"), said("f2"), said("f3")]), st.integers(0, 4))
def test_the_order_does_not_matter_and_everything_is_counted(records: list[bytes], until: int) -> None:
    run = tape()
    run.feed(*records[:until])
    assert sum(run.counts.values()) == until
    run.feed(*records[until:])
    assert sorted(named(run.outputs)) == [("i1", "f1"), ("i1", "f2"), ("i1", "f3")]
    assert run.counts == {"resolved": 4}
