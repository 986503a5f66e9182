"""Intake: what goes where under which key, what is passed through, what is scrubbed, what is a dead letter."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace_processors.intake import fold as intake
from headrace_processors.intake.policy import IntakePolicy
from headrace_processors.intake.scrub.scrubber import WORK_LIMIT, RecordScrubber, Scrubber, Work, WorkExceeded
from headrace_processors.owners import feedback_owner
from headrace_schemas import published
from headrace_schemas.codec import decode
from headrace_schemas.events import FeedbackRecorded, InteractionLinked, RecordRejected
from headrace_schemas.inputs import COMMENT_LIMIT, Ref
from headrace_schemas.strict import decode_strictly
from headrace_streams.runtime.stage import Record, Write
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
    assert sum(count for name, count in stage.counters.items() if not name.startswith("scrubbed_")) == stage.records
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


SCRUBBER = Scrubber()


def restored(tree: Any) -> Any:
    """A scrubbed tree with the two private texts of TEXTS put back; a placeholder's number says nothing of its kind's value."""
    if isinstance(tree, str):
        text = re.sub(r"\[EMAIL_[0-9]+\]", "bob@example.org", tree)
        return re.sub(r"\[SECRET_[0-9]+\]", "ab12cd34ef56", text)
    if isinstance(tree, list):
        return [restored(item) for item in tree]
    return {restored(name): restored(item) for name, item in tree.items()} if isinstance(tree, dict) else tree


@given(JSON)
def test_unknown_fields_survive_scrubbed_names_and_all_and_otherwise_untouched(mystery: Any) -> None:
    data = tree_of(fed(interaction(mystery=mystery, prompt=[{"role": "user", "content": "x", "mystery": mystery}])).outputs[0])[
        "data"
    ]
    assert data["mystery"] == data["prompt"][0]["mystery"]
    assert restored(data["mystery"]) == mystery
    assert "bob@" not in str(data) and "ab12cd34ef56" not in str(data)  # noqa: PT018


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
    mail, clean = "bob@example.org", "[EMAIL_1]"
    value = interaction(
        mail,
        agent={"name": mail, "role": mail, "version": mail},
        prompt=[
            {"role": "user", "content": f"ask {mail}"},
            {"role": "tool", "tool_call_id": mail, "content": [{"type": "ref", "media_type": "x", "uri": f"mailto:{mail}"}]},
        ],
        output={"role": "assistant", "tool_calls": [{"id": mail, "name": "send", "arguments": {"to": mail, mail: ["x", 3]}}]},
        context=[{"id": mail, "content": mail}],
        tools=[{"name": mail, "description": mail}],
        attributes={"who": mail, "n": 3, mail: 1},
        data_subject=mail,
        prompt_group=mail,
        refs=[{"system": "mail", "id": mail}],
        mystery={"deep": [mail]},
    )
    stage = fed(value)
    tree = tree_of(stage.outputs[0])
    data = tree["data"]
    assert addresses(stage.outputs) == [("signals", mail), ("refs", f"mail:{mail}")]
    assert data["agent"] == {"name": mail, "role": clean, "version": clean}
    assert data["prompt"] == [
        {"role": "user", "content": f"ask {clean}"},
        {"role": "tool", "tool_call_id": clean, "content": [{"type": "ref", "media_type": "x", "uri": f"mailto:{clean}"}]},
    ]
    assert data["output"]["tool_calls"] == [{"id": clean, "name": "send", "arguments": {"to": clean, clean: ["x", 3]}}]
    assert data["context"] == [{"id": clean, "content": clean}]
    assert data["tools"] == [{"name": clean, "description": clean}]
    assert data["attributes"] == {"who": clean, "n": 3, clean: 1}
    assert data["mystery"] == {"deep": [clean]}
    assert (data["data_subject"], data["prompt_group"], data["refs"]) == (mail, mail, [{"system": "mail", "id": mail}])
    assert stage.counters == {"signals": 1, "scrubbed_email": 15}
    assert fed(value, scrub=[]).outputs[0].value == value


def test_the_same_value_has_the_same_placeholder_and_another_one_another() -> None:
    value = interaction(prompt="a@x.org b@x.org A@X.org", output="b@x.org and [EMAIL_7] of before", mystery="key: [SECRET_1]")
    data = tree_of(fed(value).outputs[0])["data"]
    assert data["prompt"] == "[EMAIL_8] [EMAIL_9] [EMAIL_8]"
    assert data["output"] == "[EMAIL_9] and [EMAIL_7] of before"
    assert data["mystery"] == "key: [SECRET_1]"


def test_two_names_that_become_one_placeholder_both_keep_their_values() -> None:
    data = tree_of(fed(interaction(attributes={"a@x.org": 1, "A@x.org": 2, "n": 3})).outputs[0])["data"]
    assert data["attributes"] == {"[EMAIL_1]": 1, "[EMAIL_1]'": 2, "n": 3}


@pytest.mark.parametrize(
    ("said", "clean"),
    [
        ({"password": "correct horse battery"}, {"password": "[SECRET_1]"}),
        ({"password": "{PASSWORD}"}, {"password": "{PASSWORD}"}),
        ({"passwords": ["tiger", "lion5"]}, {"passwords": ["[SECRET_1]", "[SECRET_2]"]}),
        ({"dbPassword": 12345678, "n": 12345678}, {"dbPassword": "[SECRET_1]", "n": 12345678}),
        ({"name": "API_KEY", "value": "ab12cd34ef"}, {"name": "API_KEY", "value": "[SECRET_1]"}),
        ({"ｐａｓｓｗｏｒｄ": "tiger5"}, {"ｐａｓｓｗｏｒｄ": "[SECRET_1]"}),
        ({"client_secret": {"kind": "ab12cd34ef"}}, {"client_secret": {"kind": "ab12cd34ef"}}),
        ({"max_tokens": 4096, "token_type": "bearer"}, {"max_tokens": 4096, "token_type": "bearer"}),
        ({"properties": {"password": {"type": "string"}}}, {"properties": {"password": {"type": "string"}}}),
    ],
)  # fmt: skip
def test_names_are_looked_at_with_their_values_in_objects_as_in_texts(said: Any, clean: Any) -> None:
    call = {"id": "c", "name": "login", "arguments": said}
    data = tree_of(fed(interaction(output={"role": "assistant", "tool_calls": [call]})).outputs[0])["data"]
    assert data["output"]["tool_calls"][0]["arguments"] == clean
    assert tree_of(fed(interaction(mystery=said)).outputs[0])["data"]["mystery"] == clean
    text = msgspec.json.encode(said).decode()
    assert tree_of(fed(interaction(mystery=said, prompt=text)).outputs[0])["data"]["mystery"] == clean


def test_sessions_named_by_addresses_stay_apart_and_lose_the_address() -> None:
    def session(value: str) -> str:
        return str(tree_of(fed(interaction(session_id=value)).outputs[0])["data"]["session_id"])

    first, other = session("chat of a@x.org"), session("chat of b@x.org")
    assert first == session("chat of a@x.org") != other
    assert "@" not in first + other
    assert session("s-7") == "s-7"


def test_a_record_that_costs_too_much_is_a_dead_letter_that_names_the_field() -> None:
    fold = intake.IntakeFold(IntakePolicy(), work_limit=1_000_000)
    stage = StageRun(fold, "interactions")
    stage.feed(interaction(prompt="fine a@x.org"), interaction(context=[{"content": "x"}, {"content": "a@x.org " * 1000}]))
    assert stage.counters == {"signals": 1, "dead": 1, "scrubbed_email": 1}
    letter = event_of(stage.outputs[-1])
    assert isinstance(letter, RecordRejected)
    assert (letter.data.error.code, letter.data.error.field) == ("over_limit", "data.context[1].content")
    assert "\n" not in letter.data.error.message


MUCH = "a@x.org " * 200  # more than a record may cost below


@pytest.mark.parametrize(("version", "topic"), [(4, "dead-letters"), (intake.NEWEST, "signals")])
def test_an_erasure_is_passed_on_whatever_else_it_says_and_costs(version: int, topic: str) -> None:
    """Its keys are gone by then."""
    fold = intake.IntakeFold(IntakePolicy(seal="subjects"), work_limit=1000, version=version)
    value = event("subject.erased", {"data_subject": "bob", "mystery": MUCH}, subject=MUCH)
    [write] = fold.step({}, Record("interactions", 0, 0, START_MS, START_MS, b"k", value, ())).outputs
    assert write.topic == topic
    assert version == 4 or event_of(write) == msgspec.structs.replace(decode(value), subject=None)
    assert len(fold.claims(Record("interactions", 0, 0, START_MS, START_MS, b"k", value, ()))) == 1


OF_F1 = feedback_owner(Ref(system="jira", id="A"), "people:test", "f1")


@pytest.mark.parametrize(
    ("topic", "value", "owner"),
    [
        ("interactions", interaction(prompt=MUCH), ""),  # it has no subject
        ("interactions", interaction(prompt=MUCH, data_subject="bob"), "interaction/i1"),
        ("interactions", interaction(prompt=MUCH, turn="no number"), "interaction/i1"),
        ("feedback", interaction(prompt=MUCH), "interaction/i1"),
        ("feedback", feedback("f1", "i1", comment=MUCH), "interaction/i1"),
        ("feedback", feedback("f1", None, ref={"system": "jira", "id": "A"}, comment=MUCH), OF_F1),
        ("interactions", event("interaction.retracted", {"interaction_id": "i1", "mystery": MUCH}), ""),
    ],
)
def test_a_dead_letter_is_sealed_with_a_key_that_was_made_for_it_or_not_at_all(topic: str, value: bytes, owner: str) -> None:
    fold = intake.IntakeFold(IntakePolicy(seal="subjects"), work_limit=1000)
    record = Record(topic, 0, 0, START_MS, START_MS, b"k", value, ())
    [letter] = fold.step({}, record).outputs
    assert (letter.topic, letter.owner) == ("dead-letters", owner)
    assert [claim.owner for claim in fold.claims(record) if claim.makes_key] == [owner] * bool(owner)


@pytest.mark.parametrize(("piece", "size"), [("text", 1_000_000), ("a@b.org ", 20), ("a@b.org ", 1_000_000), ("\uff12", 20)])
def test_the_largest_record_costs_no_more_than_the_budget(piece: str, size: int) -> None:
    """15,000 small texts, or one of a megabyte: all rules on all texts once took 5.7 s for them. Work is counted, not time."""
    texts = [(piece * (size // len(piece) + 1))[:size]] * min(15_000, 1_000_003 // (size + 3))
    spent: list[int] = []

    class Counted(Work):
        def spend(self, work: int) -> None:
            spent.append(work)
            super().spend(work)

    scrubber = RecordScrubber(SCRUBBER, texts, work=Counted())
    with contextlib.suppress(WorkExceeded):
        for text in texts:
            scrubber.clean(text)
    assert sum(spent) <= WORK_LIMIT + max(spent, default=0)
    assert bool(spent) == (piece != "text"), "what looks like nothing costs no exact pattern"


MOSTLY = st.sampled_from(["plain", "a@b.org", "token=ab12cd34", "[EMAIL_2]", "+49 170 1234567", "é½", "password"])
WORDS = st.lists(MOSTLY, max_size=3).map(" ".join)
FREE = st.dictionaries(WORDS, st.recursive(WORDS | st.integers(0, 10**9), lambda inner: st.lists(inner, max_size=2)), max_size=2)
MESSAGES = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": WORDS | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": WORDS}))},
    optional={
        "tool_call_id": WORDS,
        "tool_calls": st.lists(st.fixed_dictionaries({"id": WORDS, "name": WORDS, "arguments": WORDS | FREE}), max_size=2),
    },
)
DATA = {
    "prompt": WORDS.filter(bool)
    | st.lists(MESSAGES, min_size=1).filter(lambda found: any(message["content"] for message in found)),
    "output": WORDS | MESSAGES,
    "context": WORDS | st.lists(st.fixed_dictionaries({"id": WORDS, "content": WORDS}), max_size=2),
    "tools": st.lists(st.fixed_dictionaries({"name": WORDS, "description": WORDS, "parameters": FREE}), max_size=2),
    "agent": st.fixed_dictionaries({"name": st.just("a"), "role": WORDS, "version": WORDS}),
    "error": st.fixed_dictionaries({"type": WORDS, "message": WORDS}),
    "prompt_template": st.fixed_dictionaries({"name": WORDS, "version": WORDS}),
    "session_id": MOSTLY,
    "attributes": st.dictionaries(WORDS, WORDS | st.integers(0, 10**9) | st.booleans(), max_size=2),
}


SAID = {"comment": WORDS, "corrected_output": WORDS | MESSAGES}
FOLD = intake.build({}, "sha256:test")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.fixed_dictionaries({}, optional=DATA), WORDS, st.fixed_dictionaries({}, optional=SAID))
def test_the_short_way_and_the_long_way_write_the_same(data: dict[str, Any], subject: str, said: dict[str, Any]) -> None:
    known = msgspec.json.decode(interaction(**data))
    for tree, topic in (({**known, "subject": subject}, "interactions"), (msgspec.json.decode(feedback(**said)), "feedback")):
        value = msgspec.json.encode(tree)
        assert decode_strictly(value) is not None
        short, long = StageRun(FOLD, topic), StageRun(FOLD, topic)
        short.feed(value)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(published, "decode_strictly", lambda raw: None)
            long.feed(value)
        assert (short.outputs, short.counters) == (long.outputs, long.counters)


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


@pytest.mark.parametrize(("version", "topic"), [(4, "signals"), (intake.NEWEST, "dead-letters")])
def test_feedback_that_says_of_itself_that_it_is_derived_is_a_dead_letter(version: int, topic: str) -> None:
    fold = intake.IntakeFold(IntakePolicy(), version=version)
    value = feedback("f1", "i1", attributed_from={"session_id": "s", "feedback_id": "f", "share": 0.5, "derived_by": "kept@1"})
    [write] = fold.step({}, Record("feedback", 0, 0, START_MS, START_MS, b"i1", value, ())).outputs
    assert write.topic == topic
    said = event_of(write)
    assert version == 4 or (isinstance(said, RecordRejected) and said.data.error.field == "data.attributed_from")
