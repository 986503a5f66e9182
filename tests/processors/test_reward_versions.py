"""Rule versions 1 and 2 of reward: what they must decide alike, and the state of one becoming that of the other."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_processors.reward import fold as reward
from headrace_processors.reward.upcast import upcast
from headrace_processors.reward.version_1 import fold as reward_1
from headrace_schemas.codec import encode
from headrace_streams.runtime.stage import Write
from support.signals import StageRun, feedback, feedback_retracted, interaction, interaction_retracted, subject_erased
from support.strategies import values

PARTS = {"role": "assistant", "content": [{"type": "text", "text": "select 2"}], "tool_calls": [{"id": "c", "name": "db"}]}
USER: dict[str, Any] = {"principal": {"id": "u", "kind": "human"}}
# No interaction is of a time ahead of its record: version 2 counts such a one as one of now.
WORDS: list[bytes] = [
    interaction("i1", data_subject="bob", context="c", tools=[{"name": "db", "parameters": {"z": 1.0, "a": [None]}}]),
    interaction("i1", output="another"),
    interaction(
        "i2", prompt=[{"role": "user", "content": "é\n\"'"}], output=PARTS, data_subject="eve", prompt_group="g", minute=-5
    ),
    interaction("i3", artifact_type="code", context=[{"content": "d", "id": "x", "score": 0.5}], train=False, mystery=1),
    interaction("i4", data_subject="eve", minute=-1),
    feedback("f1", score=90),
    feedback("f1", score=91),
    feedback("f2", kind="explicit_negative", **USER),
    feedback("f3", kind="explicit_positive", score=3, scale=[1, 5], minute=2, **USER),
    feedback("f4", kind="user_correction", corrected_output="select 2"),
    feedback("f5", "i2", kind="user_correction", corrected_output=PARTS, minute=9),
    feedback("f6", kind="preference", over=["i2", "i3", "i1"]),
    feedback("f6", "i2", kind="preference", under="i1"),
    feedback("f7", "i3", kind="user_correction", corrected_output="select 1", over=["i2"]),
    feedback("f8", "i4", kind="rating", score=0, name="lint", **USER),
    *(feedback_retracted(name, about) for name, about in [("f1", "i1"), ("f5", "i2"), ("f6", "i1"), ("f6", "i2"), ("f9", "i3")]),
    interaction_retracted("i2"),
    interaction_retracted("i3"),
    subject_erased("eve", minute=-2),
    subject_erased("bob", minute=9),
    b"{}",
]


def written(outputs: list[Write]) -> list[tuple[str, str, bytes]]:
    """But for the fields of an example that version 1 did not know."""
    found = []
    for output in outputs:
        value = output.value if isinstance(output.value, bytes) else encode(output.value)
        if output.topic == "examples":
            tree = msgspec.json.decode(value)
            assert msgspec.json.encode(tree) == value
            for name in ("finish_reason", "principals"):
                tree["data"].pop(name, None)
            value = msgspec.json.encode(tree)
        found.append((output.topic, output.key, value))
    return found


def fed(stage: StageRun, value: bytes) -> list[tuple[str, str, bytes]] | str:
    """What a record puts out, or the error that a driver would make a dead letter of; a record either way."""
    try:
        return written(stage.feed(value))
    except Exception as error:
        stage.records += 1
        return f"{type(error).__name__}: {error}"


def sorted_within(outputs: list[tuple[str, str, bytes]] | str) -> Any:
    """An erasure ends its interactions in another order than version 1, which went by that of a dictionary."""
    return outputs if isinstance(outputs, str) else sorted(outputs)


@settings(max_examples=300)
@given(st.lists(st.sampled_from(WORDS), max_size=20), st.sampled_from([{}, {"squash": "clip", "overlap": "bleu"}]))
def test_where_no_changed_rule_applies_both_write_the_same_bytes(records: list[bytes], policy: dict[str, Any]) -> None:
    first = StageRun(reward_1.build(policy, ""), "signals", through_dump=True)
    second = StageRun(reward.build_2(policy, ""), "signals", through_dump=True)
    for value in records:
        one, other = fed(first, value), fed(second, value)
        assert one == other if b"subject.erased" not in value else sorted_within(one) == sorted_within(other)
    assert first.counters == second.counters


@settings(max_examples=200)
@given(st.lists(st.sampled_from(WORDS), max_size=12), st.lists(st.sampled_from(WORDS), max_size=12))
def test_a_state_of_version_1_goes_on_as_one_of_version_2(before: list[bytes], after: list[bytes]) -> None:
    old, new = (StageRun(build({}, ""), "signals", through_dump=True) for build in (reward_1.build, reward.build_2))
    for value in before:
        fed(old, value)
        fed(new, value)
    moved = StageRun(reward.build_2({}, ""), "signals", through_dump=True)
    dumped = upcast(old.dumped())
    moved.state = {key: moved.fold.load(key, value) for key, value in dumped.items()}
    assert moved.dumped() == dumped
    moved.records, moved.counters = old.records, old.counters
    for value in after:
        assert fed(moved, value) == fed(new, value)
    assert moved.counters == new.counters


@settings(max_examples=100)
@given(st.data())
def test_any_interaction_with_any_feedback_is_the_same_example_in_both(data: st.DataObject) -> None:
    from headrace_schemas import inputs

    facts: dict[str, Any] = msgspec.to_builtins(data.draw(values(inputs.Interaction)))
    said: list[dict[str, Any]] = msgspec.to_builtins(data.draw(st.lists(values(inputs.Feedback), min_size=1, max_size=3)))
    records = [interaction(**{**facts, "interaction_id": "i1"})]
    for number, fields in enumerate(said):
        about = {**fields, "interaction_id": "i1", "feedback_id": f"f{number}"}
        kind = about.pop("kind")
        about.pop("ref", None)
        records.append(feedback(f"f{number}", "i1", kind, **about))
    first, second = (StageRun(build({}, ""), "signals", through_dump=True) for build in (reward_1.build, reward.build_2))
    for value in records:
        assert fed(first, value) == fed(second, value)


def test_a_state_in_which_an_overflow_left_no_number_can_be_read() -> None:
    """Version 1 wrote `null` for what was not finite, and could never load its own state again."""
    old = StageRun(reward_1.build({}, ""), "signals")
    old.feed(interaction(), feedback("f1", score=1e308, scale=[-1.7e308, 1.7e308]))
    dumped = old.dumped()
    assert b'"reward":null' in dumped["interaction/i1"]
    moved = StageRun(reward.build_2({}, ""), "signals")
    moved.state = {key: moved.fold.load(key, value) for key, value in upcast(dumped).items()}
    (output,) = moved.feed(feedback("f2", kind="explicit_positive", minute=2))
    assert b"null" not in encode(output.value)  # type: ignore[arg-type]
