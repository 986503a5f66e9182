"""A vocabulary of records for each topic that a stage reads, for suites that run over every fold of the table."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from headrace_processors.reward import fold as reward
from headrace_schemas.codec import encode
from support.signals import StageRun, at, event, feedback, feedback_retracted, interaction, interaction_retracted, subject_erased

GOLDENS = Path(__file__).parents[1] / "goldens"
JIRA = {"system": "jira", "id": "OPS-7"}
BUCKET = "sql/tiny"


@cache
def inputs_of(topic: str) -> tuple[bytes, ...]:
    """Events of every type that `topic` holds, in an order in which each of them has something to do."""
    return tuple(_VOCABULARIES[topic]())


def _interactions() -> list[bytes]:
    return [
        interaction("i1", refs=[JIRA, {"system": "jira", "id": "OPS-9"}], mystery=1, data_subject="bob"),
        interaction("i2", output="write to bob@example.org"),
        event("interaction.linked", {"interaction_id": "i1", "ref": JIRA}),
        interaction_retracted("i2"),
        subject_erased("bob"),
        feedback(),
    ]


def _feedback() -> list[bytes]:
    return [
        feedback("f1", comment="token=ab12cd34ef56"),
        feedback("f2", None, ref=JIRA),
        feedback("f3", "i1", "preference", over=["i2", "i3"]),
        feedback_retracted("f1"),
        interaction(),
    ]


def _refs() -> list[bytes]:
    other = {"system": "jira", "id": "OPS-8"}
    return [
        feedback("f1", None, ref=JIRA, mystery=[1]),
        feedback("f2", None, "preference", ref=JIRA, over=["i2"]),
        event("interaction.linked", {"interaction_id": "i1", "ref": JIRA}, minute=1),
        feedback("f3", None, ref=JIRA),
        feedback("f4", None, ref=other),
        event("interaction.linked", {"interaction_id": "i3", "ref": JIRA}, minute=2),
        event("interaction.linked", {"interaction_id": "i2", "ref": other}, minute=2),
        event("ref.expired", {"ref": other, "last_heard": at(2)}, source="headrace:link"),
    ]


def _sessions() -> list[bytes]:
    def joined(name: str, minute: float, session: str = "s1") -> bytes:
        return event("session.joined", {"session_id": session, "interaction_id": name}, id=f"j-{name}", minute=minute)

    def said(name: str, kind: str = "success", session: str = "s1", **data: Any) -> bytes:
        fields = {"session_id": session, "feedback_id": name, "kind": kind, **data}
        return event("session_feedback.recorded", fields, id=f"e-{name}", source="people:test", minute=9)

    def unsaid(name: str, session: str = "s1") -> bytes:
        fields = {"session_id": session, "feedback_id": name}
        return event("session_feedback.retracted", fields, id=f"u-{name}", source="people:test", minute=10)

    return [
        joined("i1", 1),
        joined("i2", 2),
        joined("i9", 20),
        said("f1", score=80, comment="done", mystery=[1]),
        said("f1", score=81),
        said("f2", interaction_id="i2"),
        said("f3", "user_correction", corrected_output="select 2"),
        said("f4", session="s2"),
        joined("o1", 3, "s2"),
        unsaid("f2"),
        unsaid("f5"),
        said("f5"),
        said("f6", session="s3"),
        event("session.expired", {"session_id": "s3", "last_heard": at(2)}, source="headrace:attribute"),
    ]


def _signals() -> list[bytes]:
    user: dict[str, Any] = {"principal": {"id": "u", "kind": "human"}}
    return [
        interaction("i1", data_subject="bob", tools=[{"name": "db", "parameters": {"z": 1, "a": {"y": 1.0, "b": None}}}]),
        interaction("i2", artifact_type="code"),
        interaction("i2", output="another"),
        feedback("f1", score=90),
        feedback("f1", score=10),
        feedback("f2", "i2", "explicit_negative", **user),
        feedback("f3", "i2", "explicit_positive", minute=2, **user),
        feedback(
            "f4",
            kind="user_correction",
            corrected_output={"role": "assistant", "content": [{"type": "text", "text": "select 2"}]},
        ),
        feedback("f5", "i2", "preference", over=["i1"]),
        feedback("f6", "i3"),
        feedback_retracted("f6", "i3"),
        feedback_retracted("f5", "i2"),
        feedback_retracted("f7", "i2"),
        feedback("f8", "i1", attributed_from={"session_id": "s1", "feedback_id": "g1", "share": 0.25}),
        interaction_retracted("i2"),
        interaction_retracted("i4"),
        subject_erased("bob"),
        event("interaction.expired", {"interaction_id": "i3", "last_heard": at(2)}, source="headrace:reward"),
        event("erasure.continued", {"subject": "0" * 32, "portion": 1}, source="headrace:reward"),
    ]


def _examples() -> list[bytes]:
    """What the reward stage makes of a number of interactions, good and bad, and of second thoughts about them."""
    stage = StageRun(reward.build({}, "sha256:test"), "signals")
    for number in range(12):
        stage.feed(interaction(f"i{number}", prompt=f"how many of {number % 9}?", output=f"select {number}", train=number != 3))
        stage.feed(
            feedback(f"f{number}", f"i{number}", "explicit_negative" if number % 4 == 1 else "success", score=(number * 37) % 101)
        )
    stage.feed(feedback("g0", "i0", "user_correction", corrected_output="select count(*) from shop"))
    stage.feed(feedback("g2", "i2", "explicit_negative", score=0), interaction_retracted("i4"), feedback_retracted("f5", "i5"))
    examples = [
        output.value if isinstance(output.value, bytes) else encode(output.value)
        for output in stage.outputs
        if output.topic == "examples"
    ]
    ticks = [
        event("clock.ticked", {"bucket": BUCKET, "time": at(minute)}, source="headrace:curate", minute=minute)
        for minute in (1, 9)
    ]
    tracked = _golden("requirements.tracked", bucket=BUCKET)
    return [*examples[:10], ticks[0], *examples[10:], tracked, ticks[1]]


def _outcomes() -> list[bytes]:
    second = {"evaluation_id": "eval-3", "version_id": "ver-3", "parent_release_id": None}
    return [
        _golden("evaluation.completed", parent_release_id=None, parent_adapter=None),
        _golden("evaluation.completed", id="second", **second),
        *(_golden(f"{name}.requested") for name in ("pause", "promote", "rollback", "resume", "revoke")),
    ]


def _golden(kind: str, *, id: str | None = None, **data: Any) -> bytes:
    tree = msgspec.json.decode((GOLDENS / f"headrace.{kind}.v1.json").read_bytes())
    fields = {name: value for name, value in {**tree["data"], **data}.items() if value is not None}
    return msgspec.json.encode({**tree, "id": id or tree["id"], "time": at(0), "data": fields})


_VOCABULARIES = {
    "interactions": _interactions,
    "feedback": _feedback,
    "refs": _refs,
    "sessions": _sessions,
    "signals": _signals,
    "examples": _examples,
    "outcomes": _outcomes,
}
