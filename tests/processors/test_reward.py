"""The reward stage: early, late, repeated, contradicted, retracted, erased; every input under exactly one counter."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu import sentence_chrf

from headrace_processors.reward import fold as reward
from headrace_processors.reward.fold import RewardFold
from headrace_processors.reward.keys import INTERACTION
from headrace_processors.reward.policy import VERSION_1, RewardPolicy
from headrace_processors.reward.similarity import edit_similarity
from headrace_processors.reward.state import InteractionState
from headrace_processors.stages import STAGES
from headrace_schemas.canonical import digest
from headrace_schemas.derived import Example, Withdrawal
from headrace_schemas.events import ExampleRewarded, ExampleWithdrawn, FeedbackRetracted, SignalRejected
from headrace_schemas.ids import derive_id
from headrace_schemas.inputs import VOICE_LIMIT
from headrace_streams.runtime.stage import Write
from support.inputs_of import GOLDENS
from support.oracle import example_by_the_rules
from support.signals import (
    StageRun,
    at,
    event_of,
    events_on,
    feedback,
    feedback_retracted,
    interaction,
    interaction_retracted,
    subject_erased,
)

STAGES_BY_NAME = {stage.name: stage for stage in STAGES}


def reward_stage(**policy: object) -> StageRun:
    return StageRun(reward.build(policy, "sha256:test"), "signals", through_dump=True)


def fed(*values: bytes, **policy: object) -> StageRun:
    stage = reward_stage(**policy)
    stage.feed(*values)
    return stage


def examples(outputs: list[Write]) -> list[Example | Withdrawal]:
    events = events_on(outputs, "examples")
    assert all(isinstance(event, ExampleRewarded | ExampleWithdrawn) for event in events)
    return [event.data for event in events]  # type: ignore[misc]


def rejected(outputs: list[Write]) -> list[tuple[str, str]]:
    events = [event_of(output) for output in outputs if output.topic == "rejections"]
    return [(event.data.interaction_id, event.data.reason) for event in events if isinstance(event, SignalRejected)]


def cases(stage: StageRun) -> dict[str, InteractionState]:
    """The case of each interaction by id."""
    return {
        key.removeprefix(INTERACTION): msgspec.json.decode(value, type=InteractionState)
        for key, value in stage.state.items()
        if key.startswith(INTERACTION)
    }


def last_example(stage: StageRun) -> Example:
    example = examples(stage.outputs)[-1]
    assert isinstance(example, Example)
    return example


def test_an_example_has_all_that_was_said() -> None:
    stage = fed(
        interaction(
            "i1",
            context="c",
            tools=[{"name": "db"}],
            adapter="sha256:" + "0" * 64,
            data_subject="bob",
            train=False,
            prompt_group="g",
        ),
        feedback("f1", score=4, scale=[1, 5]),
    )
    (output,) = stage.outputs
    example = last_example(stage)
    assert output.key == example.bucket == "sql/tiny"
    assert (example.example_id, example.interaction_id, example.revision) == (derive_id("example", "i1"), "i1", 1)
    assert (example.content.prompt, example.content.output, example.content.target) == ("how many?", "select 1", "select 1")
    assert (example.content.context, example.content.tools is not None) == ("c", True)
    assert (example.score, example.voices, example.train, example.event_time) == (75, 1, False, at(0))
    assert (example.data_subject, example.prompt_group, example.agent.name) == ("bob", "g", "bot")
    assert example.weights.balance == 1
    assert stage.counters == {"applied": 2}


def test_the_prompt_group_is_given_or_that_of_the_session_or_the_question() -> None:
    stage = reward_stage()
    changes: list[dict[str, Any]] = [
        {},
        {"output": "else", "model": "n", "context": "c", "prompt": [{"role": "user", "content": "How  MANY"}]},
        {"prompt": "p"},
        {"session_id": "s"},
        {"session_id": "s", "prompt": "p"},
        {"session_id": "s", "prompt_group": "g"},
    ]
    for number, fields in enumerate(changes):
        stage.feed(interaction(f"i{number}", **fields), feedback(f"f{number}", f"i{number}"))
    plain, same, other, session, later, given = [example.prompt_group for example in examples(stage.outputs)]  # type: ignore[union-attr]
    assert (plain, session) == (same, later)
    assert len({plain, other, session, given}) == 4
    assert given == "g"
    stage.feed(feedback("again", "i3", "explicit_negative"))
    assert last_example(stage).prompt_group == session


def test_nothing_said_is_no_example() -> None:
    assert fed(interaction()).outputs == []


def test_feedback_may_come_first() -> None:
    early, late = reward_stage(), reward_stage()
    assert early.feed(feedback("f1"), feedback("f2", kind="rating", score=10)) == []
    assert early.counters == {"waiting": 2}
    early.feed(interaction())
    late.feed(interaction(), feedback("f1"), feedback("f2", kind="rating", score=10))
    assert early.counters == late.counters == {"applied": 3}
    assert msgspec.structs.replace(last_example(early), revision=2) == last_example(late)
    assert last_example(early).revision == 1


def test_each_change_is_a_revision_and_no_change_is_none() -> None:
    ci: dict[str, Any] = {"principal": {"id": "ci", "kind": "test"}}
    stage = fed(interaction(), feedback("f1", score=100, **ci), feedback("f2", score=100, minute=2, **ci))
    assert [example.revision for example in examples(stage.outputs)] == [1]
    stage.feed(feedback("f3", "i1", "validation_failure", score=0, minute=3, **ci))
    assert [example.revision for example in examples(stage.outputs)] == [1, 2]
    assert last_example(stage).reward < 0
    assert stage.feed(feedback("f4", score=100, minute=1.5, **ci)) == []  # an older statement of the same voice


def test_contradiction_is_marked() -> None:
    assert last_example(fed(interaction(), feedback("f1"), feedback("f2", kind="explicit_negative"))).contradicted


def test_a_correction_becomes_the_target() -> None:
    stage = fed(interaction(), feedback("f1", kind="user_correction", corrected_output="select count(*) from shop"))
    example = last_example(stage)
    assert (example.content.output, example.content.target) == ("select 1", "select count(*) from shop")
    assert example.reward > 0
    assert example.quality == -example.components.correction  # type: ignore[operator]
    stage.feed(feedback("f2", kind="user_correction", corrected_output="select 2", minute=5))
    assert last_example(stage).content.target == "select 2"
    stage.feed(feedback_retracted("f2"))
    assert (last_example(stage).content.target, last_example(stage).revision) == ("select count(*) from shop", 3)


def test_retracting_the_last_feedback_withdraws_the_example_and_new_feedback_brings_it_back() -> None:
    stage = fed(interaction(), feedback("f1"), feedback("f2", kind="explicit_positive"))
    assert last_example(stage).voices == 2
    stage.feed(feedback_retracted("f1"))
    assert (last_example(stage).voices, last_example(stage).revision) == (1, 3)
    stage.feed(feedback_retracted("f2"))
    withdrawal = examples(stage.outputs)[-1]
    assert isinstance(withdrawal, Withdrawal)
    assert (withdrawal.reason, withdrawal.revision, withdrawal.bucket) == ("feedback_retracted", 4, "sql/tiny")
    stage.feed(feedback("f3"))
    assert last_example(stage).revision == 5


def test_a_retraction_before_its_feedback_waits_for_it() -> None:
    stage = fed(interaction(), feedback_retracted("f1"))
    assert stage.counters == {"applied": 1, "waiting": 1}
    assert stage.feed(feedback("f1", kind="user_correction", corrected_output="secret text")) == []
    assert stage.counters == {"applied": 3}
    assert b"secret text" not in b"".join(stage.dumped().values())


def test_retractions_are_of_the_same_source() -> None:
    other = feedback_retracted("f1").replace(b"people:test", b"people:else")
    stage = fed(interaction(), feedback("f1"), other)
    assert stage.counters == {"applied": 2, "waiting": 1}
    assert last_example(stage).voices == 1


@pytest.mark.parametrize(
    "value", [interaction(), feedback("f1"), feedback_retracted("f1"), interaction_retracted(), subject_erased("bob")]
)
def test_what_comes_again_changes_nothing(value: bytes) -> None:
    stage = fed(interaction(data_subject="bob"), feedback("f1"), feedback_retracted("f1"))
    stage.feed(value)
    before = stage.dumped()
    outputs = stage.feed(value)
    assert stage.dumped() == before
    assert not [output for output in outputs if output.topic != "rejections"]


def test_duplicates_and_conflicts_are_told_apart_by_data_alone() -> None:
    stage = fed(interaction(), feedback("f1"))
    again = interaction(minute=1).replace(b"interaction-i1", b"other-id")
    assert rejected(stage.feed(again, feedback("f1", minute=5))) == [("i1", "duplicate")] * 2
    outputs = stage.feed(interaction(output="select 2"), feedback("f1", kind="explicit_negative"))
    assert rejected(outputs) == [("i1", "conflict")] * 2
    assert stage.counters == {"applied": 2, "duplicate": 2, "conflict": 2}
    assert len({event_of(output).id for output in stage.outputs}) == len(stage.outputs)


def test_a_retracted_interaction_is_withdrawn_for_good_and_leaves_no_text() -> None:
    stage = fed(interaction(prompt="secret text"), feedback("f1", kind="user_correction", corrected_output="secret text"))
    stage.feed(interaction_retracted())
    withdrawal = examples(stage.outputs)[-1]
    assert isinstance(withdrawal, Withdrawal)
    assert (withdrawal.reason, withdrawal.revision) == ("retracted", 2)
    assert stage.feed(feedback("f2", kind="user_correction", corrected_output="secret text")) == []
    assert rejected(stage.feed(interaction(prompt="secret text"), feedback("f1"))) == [("i1", "duplicate"), ("i1", "conflict")]
    assert b"secret" not in b"".join(stage.dumped().values())


def test_a_retraction_may_come_before_its_interaction() -> None:
    stage = fed(interaction_retracted(), feedback("f1"))
    assert stage.counters == {"waiting": 2}
    assert stage.feed(interaction(prompt="secret text")) == []
    assert stage.counters == {"applied": 3}
    assert b"secret" not in b"".join(stage.dumped().values())


def test_an_erased_subject_is_forgotten_everywhere() -> None:
    stage = fed(
        interaction("i1", prompt="secret one", data_subject="bob smith", agent={"name": "bot", "role": "secret role"}),
        feedback("f1", "i1", kind="user_correction", corrected_output="secret two", principal={"id": "secret", "kind": "human"}),
        interaction("i2", prompt="secret three", data_subject="bob smith"),
        interaction("i3", prompt="kept", data_subject="alice"),
        feedback("f3", "i3"),
    )
    outputs = stage.feed(subject_erased("bob smith"))
    (withdrawal,) = examples(outputs)
    assert isinstance(withdrawal, Withdrawal)
    assert (withdrawal.interaction_id, withdrawal.reason) == ("i1", "erased")
    state = b"".join(stage.dumped().values())
    assert b"secret" not in state
    assert b"bob smith" not in state
    assert b"kept" in state
    late = interaction("i4", prompt="secret four", data_subject="bob smith", minute=4)
    outputs = stage.feed(
        interaction("i1", prompt="secret one", data_subject="bob smith"), late, feedback("f1", "i1"), feedback("f4", "i4")
    )
    assert rejected(outputs) == [("i1", "erased"), ("i4", "erased"), ("i1", "erased")]
    assert examples(outputs) == []
    assert b"secret" not in b"".join(stage.dumped().values())
    stage.feed(interaction("i5", data_subject="bob smith", minute=4.1), feedback("f5", "i5"))  # after the erasure: a new fact
    assert last_example(stage).interaction_id == "i5"
    assert sum(stage.counters.values()) == stage.records


@pytest.mark.parametrize("handle", ["headrace:erased:", "headrace:erased:sql/base", "headrace:erased:" + "f" * 33])
def test_a_handle_that_looks_like_what_stands_for_an_erased_one_names_nobody_else(handle: str) -> None:
    """The mark of one who was erased is a digest behind this name; anybody may call a subject so."""
    names = [f"i{number}" for number in range(300)]
    stage = fed(*(value for name in names for value in (interaction(name, model="base"), feedback(f"f-{name}", name))))
    assert stage.feed(subject_erased(handle)) == []
    assert not [key for key in stage.dumped() if key.startswith("erasing/")]
    [after] = examples(stage.feed(feedback("f2", "i1", score=10)))
    assert isinstance(after, Example)
    own = stage.feed(interaction("mine", data_subject=handle, minute=9), feedback("f3", "mine"), subject_erased(handle, minute=9))
    assert isinstance(examples(own)[-1], Withdrawal)


def test_a_retracted_preference_is_retracted_on_the_other_side() -> None:
    stage = fed(interaction(), feedback("f1", "i1", "preference", over=["i2", "i3", "i1"]))
    assert last_example(stage).components.feedback == 0.4
    outputs = stage.feed(feedback_retracted("f1"))
    retractions = [(output.key, event_of(output)) for output in outputs if output.topic == "signals"]
    assert [key for key, _ in retractions] == ["i2", "i3"]
    for key, retraction in retractions:
        assert isinstance(retraction, FeedbackRetracted)
        assert (retraction.data.interaction_id, retraction.data.feedback_id, retraction.source) == (key, "f1", "people:test")
    plain = fed(interaction(), feedback("f1", "i1", "success", over=["i2"]))
    assert [output.topic for output in plain.feed(feedback_retracted("f1"))] == ["examples"]
    other = fed(interaction("i2"), feedback("f1", "i2", "preference", under="i1"))
    assert last_example(other).components.feedback == -0.4
    other.feed(
        *(output.value if isinstance(output.value, bytes) else msgspec.json.encode(output.value) for output in outputs[-2:-1])
    )


def test_the_last_voices_are_kept_and_of_each_the_last_statements() -> None:
    bot = {"principal": {"id": "bot", "kind": "validator"}}
    stage = fed(interaction(), *(feedback(f"f{number:03}", minute=number) for number in range(VOICE_LIMIT - 1)))
    stage.feed(*(feedback(f"b{number:03}", minute=number, score=50, **bot) for number in range(100)))
    assert last_example(stage).voices == VOICE_LIMIT
    outputs = stage.feed(feedback("new", minute=500))
    assert rejected(outputs) == [("i1", "voice_limit")]
    assert last_example(stage).voices == VOICE_LIMIT
    assert stage.counters == {"applied": stage.records}


def test_corrections_are_bounded_in_bytes() -> None:
    stage = fed(interaction())
    for number in range(12):
        stage.feed(
            feedback(f"f{number:02}", kind="user_correction", corrected_output=f"{number:02}" + "x" * 600_000, minute=number)
        )
    assert max(len(value) for value in stage.dumped().values()) < 5 * 1024 * 1024
    assert str(last_example(stage).content.target)[:2] == "11"
    assert sum(stage.counters.values()) == stage.records


def test_the_base_comes_from_policy_and_stays_what_it_was_at_first() -> None:
    rows = [
        {"artifact_type": "sql", "model": "tiny", "role": "senior", "base": "large"},
        {"artifact_type": "sql", "base": "small"},
    ]
    senior = interaction("i1", agent={"name": "a", "role": "senior"})
    stage = fed(
        senior,
        feedback("f1", "i1"),
        interaction("i2"),
        feedback("f2", "i2"),
        interaction("i3", artifact_type="code"),
        feedback("f3", "i3"),
        bases=rows,
    )
    assert [example.bucket for example in examples(stage.outputs)] == ["sql/large", "sql/small", "code/tiny"]
    stage.fold = RewardFold(RewardPolicy())
    stage.feed(feedback("f4", "i1", kind="explicit_negative"))
    assert last_example(stage).bucket == "sql/large"


def test_balance_is_taken_at_revision_one_and_kept() -> None:
    stage = reward_stage()
    for number in range(30):
        stage.feed(interaction(f"s{number}"), feedback(f"f{number}", f"s{number}"))
    stage.feed(interaction("code", artifact_type="code"), feedback("g1", "code"))
    first = last_example(stage).weights.balance
    assert first > 1
    for number in range(30):
        stage.feed(interaction(f"c{number}", artifact_type="code"), feedback(f"h{number}", f"c{number}"))
    stage.feed(feedback("g2", "code", "explicit_negative"))
    assert (last_example(stage).interaction_id, last_example(stage).weights.balance) == ("code", first)


def test_an_interaction_of_the_far_future_is_counted_as_one_of_now() -> None:
    """Seen from 2099 no other kind of work had ever come."""

    def balance_after(minute: float) -> float:
        stage = reward_stage()
        for number in range(30):
            stage.feed(interaction(f"s{number}"), feedback(f"f{number}", f"s{number}"))
        stage.feed(interaction("ahead", artifact_type="code", minute=minute), feedback("g1", "ahead", minute=minute))
        stage.feed(interaction("next", artifact_type="code"), feedback("g2", "next"))
        return last_example(stage).weights.balance

    assert balance_after(72 * 365 * 24 * 60) == balance_after(0) > 1


def test_a_recorded_body_without_the_weights_means_what_version_1_did() -> None:
    body = msgspec.json.decode((GOLDENS / "policies" / "reward.1.json").read_bytes())
    assert not VERSION_1.keys() & body.keys()
    corrected = feedback("f1", kind="user_correction", corrected_output="select count(*) from shop")
    stage = StageRun(STAGES_BY_NAME["reward"].build(1, body, digest(body)), "signals")
    stage.feed(interaction(artifact_type="code", prompt="p" * 2500, context="c" * 5000), corrected)
    components = last_example(stage).components
    assert components.difficulty == 0.5 * 0.8 + 0.3 * 0.5 + 0.2 * 0.5
    edit = edit_similarity("select 1", "select count(*) from shop")
    chrf = sentence_chrf("select 1", ["select count(*) from shop"]).score / 100
    assert components.correction == pytest.approx(1 - (0.4 * edit + 0.3 * chrf) / (0.4 + 0.3))


def test_trace_and_time_are_carried() -> None:
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    tree: dict[str, Any] = {**msgspec.json.decode(interaction()), "traceparent": trace}
    stage = fed(msgspec.json.encode(tree), feedback("f1"))
    written = event_of(stage.outputs[0])
    assert (written.traceparent, written.source, written.time) == (trace, "headrace:reward", at(0)[:-4] + "001Z")


FEEDBACK = st.fixed_dictionaries(
    {"kind": st.sampled_from(["success", "explicit_negative", "rating", "validation_failure", "odd"])},
    optional={
        "score": st.integers(1, 5),
        "name": st.sampled_from(["lint", "unit"]),
        "principal": st.sampled_from([{"id": "u", "kind": "human"}, {"id": "ci", "kind": "test"}]),
    },
)


@given(
    st.lists(st.tuples(st.integers(0, 3), FEEDBACK), min_size=1, max_size=6),
    st.text(max_size=20).map(lambda text: "x" + text * 400),
    st.sampled_from(["code", "erd", "sql"]),
)
def test_it_agrees_with_an_oracle_that_knows_only_the_published_rules(given: list[Any], prompt: str, artifact_type: str) -> None:
    whole: dict[str, Any] = {"artifact_type": artifact_type, "model": "tiny", "prompt": prompt, "context": prompt[::2]}
    feedbacks = [
        (minute, "people:test", {**data, "scale": [1, 5], "feedback_id": f"f{number}"})
        for number, (minute, data) in enumerate(given)
    ]
    stage = fed(interaction(**whole), *(feedback(data["feedback_id"], minute=minute, **data) for minute, _, data in feedbacks))
    example = msgspec.to_builtins(last_example(stage))
    for name, value in example_by_the_rules(whole, feedbacks).items():
        assert example[name] == (pytest.approx(value, abs=1e-9) if isinstance(value, float) else value), name


VOCABULARY = [
    interaction("i1", data_subject="bob"),
    interaction("i2", prompt="secret text", data_subject="eve"),
    feedback("f1", score=90),
    feedback("f2", kind="explicit_negative", principal={"id": "u", "kind": "human"}),
    feedback("f3", kind="explicit_positive", score=20, principal={"id": "u", "kind": "human"}, minute=2),
    feedback("f4", kind="user_correction", corrected_output="select 2"),
    feedback("f5", kind="user_correction", corrected_output="select 3", minute=9),
    feedback("f6", kind="preference", under="i2"),
    feedback("f7", "i2", kind="user_correction", corrected_output="secret answer"),
    feedback_retracted("f1"),
    feedback_retracted("f5"),
    feedback_retracted("f6"),
    feedback_retracted("f9"),
    interaction_retracted("i2"),
    subject_erased("eve"),
]


def outcome(stage: StageRun) -> dict[str, Any]:
    """What `examples` says last of each interaction, but for the number of revisions and what the partition had seen before."""
    state: dict[str, Any] = {}
    for example in examples(stage.outputs):
        tree = msgspec.to_builtins(example)
        tree.pop("revision")
        tree.pop("weights", None)
        state[example.interaction_id] = (
            tree if isinstance(example, Example) else None
        )  # why it is withdrawal may depend on what came first
    return {key: value for key, value in state.items() if value is not None}


@settings(max_examples=200)
@given(st.lists(st.sampled_from(VOCABULARY), max_size=12), st.randoms(use_true_random=False))
def test_order_and_repetition_do_not_change_the_outcome(values: list[bytes], random: Any) -> None:
    ordered, disordered = reward_stage(), reward_stage()
    for value in values:
        ordered.feed(value)
        assert sum(ordered.counters.values()) == ordered.records
        assert ordered.counters["waiting"] == sum(case.waiting for case in cases(ordered).values())
    shuffled = [*values, *values]
    random.shuffle(shuffled)
    disordered.feed(*shuffled)
    assert outcome(ordered) == outcome(disordered)
    assert sum(disordered.counters.values()) == disordered.records
    assert all(abs(example.reward) <= 1 for example in examples(ordered.outputs) if isinstance(example, Example))
    if subject_erased("eve") in values and interaction("i2", prompt="secret text", data_subject="eve") in values:
        assert b"secret" not in b"".join(ordered.dumped().values())
