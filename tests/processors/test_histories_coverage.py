"""What the recorded histories hold: every counter, reason, answer and policy key; with less of it they would prove too little."""

from __future__ import annotations

from functools import cache
from typing import Any, get_args

import msgspec
import pytest
from msgspec.structs import replace

from headrace_processors.curate.filters import REJECTIONS
from headrace_processors.intake.policy import IntakePolicy
from headrace_processors.stages import STAGES
from headrace_schemas.canonical import digest
from headrace_schemas.errors import CODES
from headrace_schemas.events import InputEvent
from headrace_schemas.topics import BY_NAME
from headrace_schemas.topology import DEAD, RECORDS, STAGES_BY_NAME
from headrace_streams.runtime.journal import POSITION_KEY, decode_position
from support import histories
from support.histories import FOLDER, Activation, Base64, History, Line, current, differences, path_of, text_of, unpack

STAGE = {stage.name: stage for stage in STAGES}
read = cache(histories.read)


def histories_of(stage: str) -> list[History]:
    """The histories of all versions of a stage."""
    return [read(path) for path in sorted(FOLDER.glob(f"{stage}.v*.jsonl"))]


def written(stage: str) -> list[tuple[str, dict[str, Any]]]:
    """(topic, event) of everything that a stage wrote in its histories."""
    return [
        (output.topic, msgspec.json.decode(text_of(output.value)))
        for history in histories_of(stage)
        for entry in history.entries
        for output in entry.outputs
    ]


# Another value for every policy key, one that a recorded decision depends on; for a number that is not here, half of it.
OTHER: dict[str, Any] = {
    "intake.scrub": [],
    "attribute.credit": "last",
    "intake.rules": [{"name": "order", "pattern": "orders?"}],
    "intake.sessions": False,
    "intake.sketches": False,
    "attribute.derive": {},
    "attribute.decay": 0.75,
    "attribute.window": 1,
    "reward.bonus": {"success": 0.31, "explicit_negative": -0.7, "validation_failure": -0.5, "thumbs_up": 0.5},
    "reward.complexity": {"sql": 0.9, "code": 0.1},
    "reward.difficulty_weights": {"complexity": 0.2, "prompt": 0.3, "context": 0.5},
    "reward.similarity_weights": {"edit": 0.5, "overlap": 0.5},
    "reward.share_target": {"sql": 0.1},
    "reward.balance_high": 1.01,
    "reward.bases": [{"base": "other", "artifact_type": "code"}],
    "reward.draw": {"artifact_types": []},
    "reward.derived_in_quality": True,
    "reward.sessions": False,
    "reward.derived": {"rephrased": {"bonus": 0.9, "weight": 0.5}, "kept": {"bonus": 0.1, "weight": 0.25}},
    "reward.settle_after_days": {},
    "curate.graded": [],
    "curate.targets": {"sql/tiny": 4.0},
    "release.evidence": {"min_groups": 200},
    "release.expire_after_days": 0.0,
    "curate.tiered": {"steps": [[3, 5]], "beyond": 4, "low": 2, "high": 8},
    "curate.good_enough_evidence": 20.0,
    "curate.generic": ["select count"],
    "curate.min_chars": 18,
    "curate.open_limit": 9,
    "curate.test_pool": 5,
    "curate.min_test_pool": 1,
    "curate.validation_pool": 1,
    "curate.one_side_chars": None,
    "curate.longest_chars": None,
    "curate.max_buckets": 2,
    "curate.bases": ["other"],
    "curate.keep_days": 300.0,
    "curate.settle_after_days": 30.0,
    "curate.near_duplicate": 0.99,
    "curate.echo": None,
    "curate.truncated": [],
    "curate.exempt": {},
    "curate.principal_share": None,
    "curate.contradictions": "keep",
    "curate.fresh_share": 1.0,
    "curate.good_enough_margin": 0.2,
    "curate.rarity": None,
    "curate.drift": None,
}
CHOICES = {
    "reward.difficulty_on_negative": {"amplify", "ignore"},
    "reward.squash": {"tanh", "clip"},
    "reward.overlap": {"chrf", "bleu"},
    "curate.threshold": {"effective", "tiered"},
    "curate.provisional": {"take", "wait"},
    "curate.implicit": {"learn", "judge"},
    "release.mode": {"auto", "manual"},
}
WITHOUT_CHOICE = {
    "release.rule",
    "intake.presidio",  # another package, that need not be there
    "intake.seal",  # keys are random: test_sealing.py
}
KEYS = [f"{stage.name}.{key}" for stage in STAGES for key in stage.policy.model_fields]


def other_value(name: str, value: Any) -> Any:
    if name in CHOICES:
        [other] = CHOICES[name] - {value}
        return other
    if name in OTHER:
        return OTHER[name]
    assert isinstance(value, int | float), f"{name}: has no other value in this test yet, one that a recorded decision depends on"
    return type(value)(value / 2)


@pytest.mark.parametrize("name", [name for name in KEYS if name not in WITHOUT_CHOICE])
def test_some_recorded_decision_depends_on_each_policy_key(name: str) -> None:
    stage, _, key = name.partition(".")
    history, today = read(path_of(stage, STAGE[stage].version)), STAGE[stage].policy().model_dump(mode="json")

    def changed(line: Line) -> Line:
        if not isinstance(line, Activation):
            return line
        body = {**today, **line.rules.body}
        return replace(line, rules=replace(line.rules, body={**body, key: other_value(name, body[key])}))

    twin = History(tuple(changed(line) for line in history.lines))
    assert differences(twin, STAGE[stage]), f"{name}: nothing in {stage}'s history depends on it"


def test_the_other_values_are_of_keys_that_there_are() -> None:
    assert {*OTHER, *CHOICES, *WITHOUT_CHOICE} <= set(KEYS)


def types_on(topic: str) -> set[str]:
    return {str(event.__struct_config__.tag) for event in BY_NAME[topic].events}


@pytest.mark.parametrize("stage", list(STAGE))
def test_every_counter_of_a_stage_has_counted(stage: str) -> None:
    positions = [
        decode_position(unpack(end.changelog[POSITION_KEY]) or b"") for history in histories_of(stage) for end in history.ends
    ]
    tallied = {name for position in positions for name in position.counters if STAGES_BY_NAME[stage].is_tally(name)}
    assert bool(tallied) is bool(STAGES_BY_NAME[stage].tallies)
    counted = {name for position in positions for name, count in position.counters.items() if count} - tallied
    assert counted == {RECORDS, DEAD, *STAGES_BY_NAME[stage].counters}


@pytest.mark.parametrize("stage", list(STAGE))
def test_the_policy_of_every_input_partition_changed_on_the_way(stage: str) -> None:
    for history in histories_of(stage):
        assert all(rules.digest == digest(rules.body) for rules in history.activations)
        for end in history.ends:
            mine = [rules for rules in history.activations if (rules.topic, rules.partition) == (end.topic, end.partition)]
            assert len({rules.digest for rules in mine}) == len(mine) >= 2, (end.topic, end.partition)
        assert {end.topic for end in history.ends} == set(STAGES_BY_NAME[stage].inputs)


@pytest.mark.parametrize("stage", list(STAGE))
def test_events_of_every_type_were_read_and_written(stage: str) -> None:
    seen: dict[str, set[str]] = {}
    for history in histories_of(stage):
        for entry in history.entries:
            try:
                event = msgspec.json.decode(text_of(entry.value))
            except msgspec.DecodeError:
                continue
            if isinstance(event, dict):
                seen.setdefault(entry.topic, set()).add(str(event.get("type")))
    for topic in STAGES_BY_NAME[stage].inputs:
        assert types_on(topic) <= seen[topic]
    written_types = {(topic, event["type"]) for topic, event in written(stage)}
    for topic in STAGES_BY_NAME[stage].outputs:
        mine = {kind for on, kind in written_types if on == topic}
        others = [name for name in BY_NAME[topic].writers if name != stage]
        assert mine <= types_on(topic)
        assert mine if others else mine == types_on(topic)


def test_intake_refused_input_for_every_reason() -> None:
    codes = {event["data"]["error"]["code"] for topic, event in written("intake") if topic == "dead-letters"}
    assert codes == {*CODES, "wrong_topic"}
    topics = {event["data"]["topic"] for topic, event in written("intake") if topic == "dead-letters"}
    assert topics == {"interactions", "feedback"}


def test_intake_saw_both_modes_bytes_that_are_no_text_and_fields_that_nobody_knows() -> None:
    entries = [entry for history in histories_of("intake") for entry in history.entries]
    assert any(name == "ce_type" for entry in entries for name, _ in entry.headers)
    assert any(isinstance(entry.value, Base64) for entry in entries)
    assert any(entry.value is None for entry in entries)
    values = [str(output.value) for entry in entries for output in entry.outputs if output.topic == "signals"]
    assert any('"mystery"' in value for value in values)
    assert any("[email]" in value for value in values)
    assert any("[secret]" in value for value in values)
    for kind in (*IntakePolicy().scrub, "order", "staff"):
        assert any(f"[{kind.upper()}_1]" in value for value in values), kind
    given = {str(kind.__struct_config__.tag) for kind in get_args(InputEvent)}
    assert given <= {event["type"] for _, event in written("intake")}


def test_every_stage_met_a_record_that_it_could_not_process() -> None:
    for stage in ("link", "attribute", "reward", "curate", "release"):
        codes = {event["data"]["error"]["code"] for topic, event in written(stage) if topic == "dead-letters"}
        checked = {"unknown_writer"} if any(rules.checks_writers for rules in STAGE[stage].versions.values()) else set()
        assert codes == {"stage_error", *(["waiting_limit"] if stage in ("link", "attribute") else []), *checked}, stage


def test_attribute_credited_by_every_policy_and_took_back() -> None:
    events = [event for _, event in written("attribute")]
    kinds = {event["type"] for event in events}
    assert kinds == {"headrace.feedback.recorded.v1", "headrace.feedback.retracted.v1", "headrace.record.rejected.v1"}
    shares = {event["data"]["attributed_from"]["share"] for event in events if "attributed_from" in event["data"]}
    assert {1.0, 0.5} < shares
    assert len(shares) > 5
    derived = {event["data"]["attributed_from"].get("derived_by") for event in events if "attributed_from" in event["data"]}
    assert derived == {None, "rephrased@1", "kept@1", "undone@1"}
    bodies = [rules.body for history in histories_of("attribute") for rules in history.activations]
    assert {body["credit"] for body in bodies} == {"off", "last", "all", "decay"}


def test_reward_rejected_and_withdrew_for_every_reason() -> None:
    events = [event for _, event in written("reward")]
    rejected = {event["data"]["reason"] for event in events if event["type"] == "headrace.signal.rejected.v1"}
    assert rejected == {"duplicate", "conflict", "erased", "voice_limit", "expired"}
    withdrawn = {event["data"]["reason"] for event in events if event["type"] == "headrace.example.withdrawn.v1"}
    assert withdrawn == {"retracted", "erased", "feedback_retracted"}
    examples = [event["data"] for event in events if event["type"] == "headrace.example.rewarded.v1"]
    assert {example["contradicted"] for example in examples} == {True, False}
    assert {example["train"] for example in examples} == {True, False}
    assert {"correction" in example["components"] for example in examples} == {True, False}
    assert {"score" in example for example in examples} == {True, False}
    assert {example.get("maturity") for example in examples} == {None, "provisional", "final"}
    assert {example.get("derived") for example in examples} >= {None, 1, 2}
    assert any(event["type"] == "headrace.example.settled.v1" for event in events)
    assert max(example["revision"] for example in examples) > 3
    assert {example["reward"] > 0 for example in examples} == {True, False}
    assert any(example["bucket"] != f"{example['artifact_type']}/{example['model']}" for example in examples)


def test_curate_rejected_for_every_reason_and_cut_for_every_cause() -> None:
    events = [event for _, event in written("curate")]
    rejected = {event["data"]["reason"] for event in events if event["type"] == "headrace.example.rejected.v1"}
    assert rejected == set(REJECTIONS)
    batches = [event["data"] for event in events if event["type"] == "headrace.batch.ready.v1"]
    assert {batch["cause"] for batch in batches} == {"target", "age", "drift", "rarity"}
    assert len({batch["bucket"] for batch in batches}) > 3
    assert {member["role"] for batch in batches for member in batch["members"]} == {"train", "negative"}
    assert {member["split"] for batch in batches for member in batch["members"]} == {"train", "validation"}
    assert any(batch["test_pool"] for batch in batches)
    assert any(batch.get("validation_pool") for batch in batches)
    examples = [
        msgspec.msgpack.decode(value)
        for history in histories_of("curate")
        for end in history.ends
        for key, value in current(end, STAGE["curate"]).items()
        if key.startswith("example:")
    ]
    assert {prompt.get("drawn", False) for batch in batches for prompt in batch.get("prompts", ())} == {True, False}
    statuses = {
        "open",
        "test",
        "validation",
        "drawn",
        "waiting",
        "provisional",
        "cut",
        "past",
        "rejected",
        "withdrawn",
        "retracted",
        "erased",
    }
    assert {status for _, status, *_ in examples} == statuses


def test_release_gave_every_kind_of_answer_for_every_reason() -> None:
    answers = [event for topic, event in written("release") if topic == "releases.history"]
    assert {event["type"] for event in answers} == types_on("releases.history")
    declined = {event["data"]["reason"].partition(":")[0] for event in answers if event["type"] == "headrace.release.declined.v1"}
    assert declined == {
        "already_served",
        "awaiting_promotion",
        "harm",
        "insufficient_evidence",
        "invalid",
        "needs_decision",
        "no_gain",
        "no_useful_gain",
        "no_wins",
        "not_evaluated",
        "nothing_before",
        "paused",
        "pending",
        "revoked",
        "stale",
        "unknown_release",
    }
    judged = {
        (head["verdict"], head["reason"].partition(":")[0]) for event in answers for head in event["data"].get("evidence", ())
    }
    assert judged == {
        ("promote", "evidence"),
        ("pending", "few_groups"),
        ("pending", "no_evidence"),
        ("declined", "harm"),
        ("declined", "no_useful_gain"),
        ("invalid", "identical"),
        ("invalid", "same_answers"),
        ("needs_decision", "few_groups"),
        ("needs_decision", "heavy_tail"),
        ("needs_decision", "no_evidence"),
        ("needs_decision", "protected"),
        ("needs_decision", "selected_rows"),
    }
    assert {head["claim"] for event in answers for head in event["data"].get("evidence", ())} == {
        "per_release",
        "strict",
        "plain",
    }
    assert any(event["data"].get("watch", {}).get("proposed") for event in answers)
    served = {event["type"] for topic, event in written("release") if topic == "releases"}
    assert served == types_on("releases")
    tracked = [event["data"]["satisfied"] for topic, event in written("release") if topic == "examples"]
    assert set(tracked) == {True, False}
    repeated = [entry for history in histories_of("release") for entry in history.entries if not entry.outputs]
    assert repeated, "an event that had been answered already"
