"""Intake: what goes where under which key, what is passed through, what is scrubbed, what is a dead letter."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_processors.intake import fold as intake
from headrace_processors.intake.scrub import Scrubber
from headrace_schemas.events import FeedbackRecorded, InteractionLinked, RecordRejected
from headrace_schemas.inputs import COMMENT_LIMIT
from headrace_streams.runtime.stage import Write
from support.signals import (
    START_MS,
    StageRun,
    at,
    event,
    event_of,
    events_on,
    feedback,
    feedback_retracted,
    interaction,
    interaction_retracted,
    subject_erased,
    tree_of,
)


def fed(*values: bytes | None, topic: str = "interactions", **policy: object) -> StageRun:
    stage = StageRun(intake.build(policy, "sha256:test"), topic)
    stage.feed(*values)
    assert sum(stage.counters.values()) == stage.records
    return stage


def addresses(outputs: list[Write]) -> list[tuple[str, str]]:
    return [(output.topic, output.key) for output in outputs]


def test_an_interaction_is_passed_on_as_it_came_under_its_own_id() -> None:
    value = interaction("i1", mystery={"deep": [1, 2.5]}, train=None)
    stage = fed(value)
    assert stage.outputs == [Write("signals", "i1", value)]
    assert stage.counters == {"signals": 1}


def test_what_is_missing_is_filled_in_and_the_rest_kept() -> None:
    value = msgspec.json.encode(
        {
            "specversion": "1.0",
            "id": "e7",
            "source": "agent:x",
            "type": "headrace.interaction.recorded.v1",
            "flavour": "sour",
            "data": {"agent": {"name": "a"}, "artifact_type": "sql", "model": "m", "prompt": "p", "output": "", "mystery": 1.0},
        }
    )
    first, second = fed(value, value).outputs
    assert tree_of(first)["time"] == at(0)
    assert first.key == second.key == tree_of(first)["data"]["interaction_id"]
    assert tree_of(first)["flavour"] == "sour"
    assert tree_of(first)["data"]["mystery"] == 1
    other = fed(value.replace(b"agent:x", b"agent:y")).outputs[0]
    assert other.key != first.key


TEXTS = st.sampled_from(["bob@example.org", "token=ab12cd34ef56", "x", 'é\n"', ""]) | st.text(
    st.characters(codec="utf-8"), max_size=5
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


def cleaned(tree: Any) -> Any:
    if isinstance(tree, str):
        return Scrubber().clean(tree)
    if isinstance(tree, list):
        return [cleaned(item) for item in tree]
    return {name: cleaned(item) for name, item in tree.items()} if isinstance(tree, dict) else tree


@given(JSON)
def test_unknown_fields_survive_scrubbed_and_otherwise_untouched(mystery: Any) -> None:
    data = tree_of(fed(interaction(mystery=mystery, prompt=[{"role": "user", "content": "x", "mystery": mystery}])).outputs[0])[
        "data"
    ]
    assert data["mystery"] == data["prompt"][0]["mystery"] == cleaned(mystery)


def test_binary_mode_becomes_structured_mode() -> None:
    tree = msgspec.json.decode(interaction())
    stage = StageRun(intake.build({}, "sha256:test"), "interactions")
    headers = [(f"ce_{name}", value.encode()) for name, value in tree.items() if name != "data"]
    (output,) = stage.feed(msgspec.json.encode(tree["data"]), headers=headers)
    assert tree_of(output) == tree


def test_each_foreign_id_becomes_one_link() -> None:
    ref = {"system": "jira", "id": "OPS-7"}
    stage = fed(interaction("i1", refs=[ref, {"system": "github", "id": "a/b#1"}, ref], traceparent=None))
    assert addresses(stage.outputs) == [("signals", "i1"), ("refs", "jira:OPS-7"), ("refs", "github:a/b#1")]
    links = events_on(stage.outputs, "refs")
    assert all(isinstance(link, InteractionLinked) and link.data.interaction_id == "i1" and link.time == at(0) for link in links)
    linked = event("interaction.linked", {"interaction_id": "i9", "ref": ref})
    assert fed(linked).outputs == [Write("refs", "jira:OPS-7", linked)]


def test_retractions_and_erasures_find_their_signals() -> None:
    assert addresses(fed(interaction_retracted("i1")).outputs) == [("signals", "i1")]
    assert addresses(fed(feedback_retracted("f1", "i1"), topic="feedback").outputs) == [("signals", "i1")]
    (erasure,) = fed(subject_erased("bob@example.org")).outputs
    assert erasure == Write("signals", "bob@example.org", subject_erased("bob@example.org"), everywhere=True)


def test_feedback_goes_to_its_interaction_or_to_its_foreign_id() -> None:
    assert addresses(fed(feedback("f1", "i1"), topic="feedback").outputs) == [("signals", "i1")]
    by_ref = feedback("f1", None, ref={"system": "jira", "id": "OPS-7"})
    assert addresses(fed(by_ref, topic="feedback").outputs) == [("refs", "jira:OPS-7")]


def test_a_preference_speaks_to_everything_that_it_was_over() -> None:
    value = feedback(
        "f1", "i1", "preference", over=["i2", "i3", "i2", "i1"], score=90, comment="c", principal={"id": "u", "kind": "human"}
    )
    stage = fed(value, topic="feedback")
    assert addresses(stage.outputs) == [("signals", "i1"), ("signals", "i2"), ("signals", "i3")]
    assert stage.counters == {"signals": 1}
    original, *copies = (event_of(output) for output in stage.outputs)
    for copy, other in zip(copies, ["i2", "i3"], strict=True):
        assert isinstance(copy, FeedbackRecorded)
        assert (copy.data.under, copy.data.over, copy.data.interaction_id) == ("i1", None, other)
        assert (copy.data.feedback_id, copy.source, copy.time, copy.data.principal) == (
            "f1",
            original.source,
            original.time,
            original.data.principal,  # type: ignore[union-attr]
        )
        assert (copy.data.score, copy.data.comment) == (None, None)
    assert len({event.id for event in (original, *copies)}) == 3


def test_only_a_preference_speaks_to_others() -> None:
    praise = feedback("f1", "i1", "success", over=["i2"])
    assert addresses(fed(praise, topic="feedback").outputs) == [("signals", "i1")]


def test_private_text_is_scrubbed_wherever_it_stands_and_handles_never() -> None:
    mail, clean = "bob@example.org", "[email]"
    value = interaction(
        mail,
        prompt=[{"role": "user", "content": f"ask {mail}"}],
        output=f"no {mail}",
        context=[{"id": mail, "content": mail}],
        tools=[{"name": mail, "description": mail}],
        attributes={"who": mail, "n": 3},
        data_subject=mail,
        prompt_group=mail,
        refs=[{"system": "mail", "id": mail}],
        mystery={"deep": [mail]},
    )
    stage = fed(value)
    tree = tree_of(stage.outputs[0])
    data = tree["data"]
    assert addresses(stage.outputs) == [("signals", mail), ("refs", f"mail:{mail}")]
    assert (data["prompt"][0]["content"], data["output"], data["context"]) == (
        f"ask {clean}",
        f"no {clean}",
        [{"id": mail, "content": clean}],
    )
    assert data["tools"] == [{"name": mail, "description": clean}]
    assert data["attributes"] == {"who": clean, "n": 3}
    assert data["mystery"] == {"deep": [clean]}
    assert (data["data_subject"], data["prompt_group"], data["refs"]) == (mail, mail, [{"system": "mail", "id": mail}])
    assert fed(value, scrub=[]).outputs[0].value == value


def test_a_name_given_twice_hides_nothing() -> None:
    value = interaction("i1", prompt="p").replace(
        b'"prompt":"p"', b'"prompt":"bob@example.org","prompt":"p","x":{"y":"bob@example.org","y":1}'
    )
    (output,) = fed(value).outputs
    assert isinstance(output.value, bytes)
    assert b"bob@example" not in output.value


def test_a_name_that_occurs_twice_hides_nothing() -> None:
    value = interaction(mystery="x").replace(b'"mystery"', b'"mystery":"bob@example.org","mystery"')
    (output,) = fed(value).outputs
    assert isinstance(output.value, bytes)
    assert b"bob@example.org" not in output.value


def test_a_comment_that_grew_by_scrubbing_stays_a_valid_one() -> None:
    value = feedback("f1", "i1", comment="a@b.cd " * (COMMENT_LIMIT // 7))
    (output,) = fed(value, topic="feedback").outputs
    assert isinstance(event_of(output), FeedbackRecorded)


@pytest.mark.parametrize(
    ("value", "topic", "code"),
    [
        (b"{", "interactions", "not_json"),
        (None, "interactions", "null_value"),
        (feedback(), "interactions", "wrong_topic"),
        (interaction(), "feedback", "wrong_topic"),
        (event("example.rewarded", {}), "interactions", None),
        (feedback(score=101), "feedback", "out_of_range"),
        (feedback(score=4, scale=[5, 1]), "feedback", "bad_value"),
        (interaction(minute=11), "interactions", "future_time"),
        (feedback(kind="user_correction"), "feedback", "missing"),
    ],
)
def test_bad_records_become_dead_letters_with_coordinates(value: bytes | None, topic: str, code: str | None) -> None:
    stage = fed(interaction() if topic == "interactions" else feedback(), value, topic=topic)
    assert stage.counters == {"signals": 1, "dead": 1}
    letter = event_of(stage.outputs[-1])
    assert isinstance(letter, RecordRejected)
    assert (letter.data.topic, letter.data.partition, letter.data.offset, letter.data.timestamp) == (topic, 0, 1, START_MS + 1)
    assert code is None or letter.data.error.code == code


@given(st.binary(max_size=60))
def test_no_bytes_are_lost_or_raise(value: bytes) -> None:
    stage = fed(value)
    assert stage.counters == {"dead": 1}
    assert [output.topic for output in stage.outputs] == ["dead-letters"]
