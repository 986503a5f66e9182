"""Whatever is evaluated and commanded in whatever order: what is served was evaluated and is not revoked, and all is answered."""

from __future__ import annotations

from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_schemas.codec import decode
from headrace_schemas.events import EvaluationCompleted, RevokeRequested
from support.examples import BUCKET
from support.outcomes import ReleaseRun, evaluation, pause, promote, resume, revoke, roll_back


class Act(NamedTuple):
    """`back` names a release by how many answers ago it was given; None is the base."""

    kind: str
    version: str
    back: int | None
    low: float
    again: bool


acts = st.builds(
    Act,
    kind=st.sampled_from(["evaluate", "evaluate", "evaluate", "promote", "back", "to", "base", "revoke", "pause", "resume"]),
    version=st.sampled_from(["v1", "v2", "v3", "v4", "v5"]),
    back=st.one_of(st.just(0), st.none(), st.integers(1, 4)),
    low=st.sampled_from([-0.1, 0.1, 0.1]),
    again=st.booleans(),
)
sequences = st.lists(acts, max_size=30)
policies = st.fixed_dictionaries({"mode": st.sampled_from(["auto", "auto", "manual"])})


def record(stage: ReleaseRun, act: Act, number: int) -> bytes:
    """The record of an act at this point; release ids are those that the stage has told."""
    told = stage.written("releases")
    named = told[-1 - act.back].release_id if act.back is not None and act.back < len(told) else None
    match act.kind:
        case "evaluate":
            return evaluation(act.version, named, low=act.low, id=f"e{number}", satisfied=act.again)
        case "promote":
            return promote(act.version, id=f"p{number}")
        case "back":
            return roll_back(id=f"b{number}")
        case "to":
            return roll_back(named or "nothing", id=f"t{number}")
        case "base":
            return roll_back("base", id=f"0{number}")
        case "revoke":
            return revoke(act.version, id=f"r{number}")
        case "pause":
            return pause(id=f"s{number}")
        case _:
            return resume(id=f"c{number}")


@settings(max_examples=200, deadline=None)
@given(sequences, policies)
def test_what_is_served(script: list[Act], policy: dict[str, Any]) -> None:
    stage, evaluated, revoked, asked = ReleaseRun(**policy), set(), set(), []
    for number, act in enumerate(script):
        value = record(stage, act, number)
        event = decode(value)
        if isinstance(event, EvaluationCompleted):
            evaluated.add(event.data.adapter.digest)
        if isinstance(event, RevokeRequested):
            revoked.add(event.data.adapter)
        asked.append(event.id)
        was = stage.serving
        kind, answer = stage.answer(value)
        assert stage.serving is None or stage.serving in evaluated - revoked
        bucket = stage.state[f"bucket:{BUCKET}"]
        assert bucket.serving == stage.current
        if bucket.serving is not None:
            assert stage.state[f"release:{bucket.serving}:{BUCKET}"].version.digest == stage.serving
        assert (stage.serving == was) or kind in ("promoted", "rolledback", "revoked")
        assert kind != "promoted" or policy["mode"] == "auto" or act.kind == "promote"
        assert kind == "declined" or (answer.adapter.digest if answer.adapter else None) == stage.serving
        if act.again:
            kept = stage.dumped()
            assert (stage.feed(value), stage.dumped()) == ([], kept)
    history = stage.written("releases.history")
    assert [answer.request_id for answer in history] == asked
    assert [answer.sequence for answer in history] == list(range(1, len(asked) + 1))
    assert stage.counters.total() == stage.records
    told = [tracking.release_id for tracking in stage.written("examples")]
    assert list(dict.fromkeys(told)) == [release.release_id for release in stage.written("releases")]


@settings(max_examples=100, deadline=None)
@given(sequences, policies)
def test_any_prefix_resumes(script: list[Act], policy: dict[str, Any]) -> None:
    once, stored = ReleaseRun(**policy), ReleaseRun(through_dump=True, **policy)
    for number, act in enumerate(script):
        value = record(once, act, number)
        assert once.feed(value) == stored.feed(value)
    assert once.dumped() == stored.dumped()
