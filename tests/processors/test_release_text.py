"""A release's text and its gate say what its records say, whoever asked and whatever the rule said. Pure examples."""

from __future__ import annotations

from typing import Any

import pytest

from headrace_lake.read_models.conditions import ConditionNode
from headrace_lake.read_models.release_gate import gate_tree
from headrace_lake.read_models.release_text import release_text
from headrace_processors.release.policy import ReleasePolicy
from headrace_schemas.codec import decode
from headrace_schemas.derived import Evaluation, HarmEvidence, HeadEvidence, ReleaseDecision
from headrace_schemas.events import EvaluationCompleted
from support.outcomes import adapter, evaluation


def decision(reason: str, **more: Any) -> ReleaseDecision:
    known: dict[str, Any] = {
        "release_id": "r-2", "sequence": 7, "bucket": "sql/tiny", "artifact_type": "sql", "base": "tiny", "batch_ids": [],
        "reason": reason, "policy_digests": {}, "request_id": "e-1", "version_id": "v-1", "adapter": adapter("v-1"),
    }  # fmt: skip
    return ReleaseDecision(**{**known, **more})


def compared(**more: Any) -> Evaluation:
    event = decode(evaluation("v-1", bucket="sql/tiny", **more))
    assert isinstance(event, EvaluationCompleted)
    return event.data


def head(**more: Any) -> HeadEvidence:
    known: dict[str, Any] = {
        "version_id": "v-1", "adapter": "a", "verdict": "pending", "reason": "no_evidence", "waits": True, "h": 2, "cut": 1,
        "since": 0, "claim": "per_release", "measure": "loss", "alpha": 0.008, "needed": 4.8, "capital": 1.0, "useless": 0.2,
        "harm": -1.0, "alarm": 3.0, "looks": 3, "groups": 20, "discordant": 9, "selected": 0, "clipped_low": 0,
        "clipped_high": 0, "mean": 0.05, "scale": 1.0, "bets": [], "old_groups": 0, "old_digest": "", "seen": [],
    }  # fmt: skip
    return HeadEvidence(**{**known, **more})


def conditions(tree: ConditionNode | None) -> dict[str, bool | None]:
    """Every condition of a tree by its name."""
    assert tree is not None
    found: dict[str, bool | None] = {}
    for part in tree.parts:
        found |= conditions(part) if part.parts else {}
        found[part.name] = part.holds
    return found


def test_a_promotion_says_who_decided_and_what_was_served_before() -> None:
    said = release_text("promoted", decision("gate: gain", parent_release_id="r-1"), previous=decision("x", sequence=5))
    assert said["why"].startswith("Of sql/tiny, adapter ")
    assert said["why"].endswith("was promoted: gate: gain. Here the policy alone decided.")
    assert said["chain"] == "It is answer number 7 of its bucket; before it release r-1 (number 5) was served."
    assert list(said) == ["why", "chain"]  # nothing else is known


def test_a_roll_back_to_the_base_says_so() -> None:
    said = release_text("rolled_back", decision("requested, to base", adapter=None, requested_by="ann"))
    assert said["why"] == "Of sql/tiny, the base was rolled back to: requested, to base. Here ann asked for it."
    assert said["what changed"] == "It serves the base again, without an adapter."


def test_a_verdict_says_evidence_comparison_and_the_watch() -> None:
    watch = HarmEvidence(version_id="v-0", looks=2, groups=9, harm=1.0, alarm=3.0, proposed=True)
    said = release_text("declined", decision("no_evidence", evidence=[head()], watch=watch), evaluation=compared())
    assert "After 3 looks at 20 groups it is +0.05 nats a token on average; its log capital is 1 of the 4.8" in said["verdict"]
    assert "loss gain 0.2 [0.1, 0.3] on 200 rows" in said["verdict"]
    assert said["verdict"].endswith("2 looks, 9 groups, and a roll-back is proposed.")


@pytest.mark.parametrize(
    ("reason", "broken", "not_asked"),
    [
        ("stale: it was compared with r-0", "what it was compared with is still what is served", ["no person has to promote it"]),
        ("paused: the bucket's releases are paused", "the bucket's releases are not paused", ["no person has to promote it"]),
        ("awaiting_promotion: …", "no person has to promote it", []),
        ("revoked: adapter a", "it was not revoked", ["the bucket's releases are not paused"]),
    ],
)
def test_a_gate_says_what_stood_in_the_way_and_what_was_not_asked_then(reason: str, broken: str, not_asked: list[str]) -> None:
    found = conditions(gate_tree(ReleasePolicy(rule="gate"), compared(), decision(reason)))
    assert [name for name, holds in found.items() if holds is False] == [broken]
    assert all(found[name] is None for name in not_asked)


def test_a_gate_that_the_comparison_does_not_pass_asks_no_person() -> None:
    found = conditions(gate_tree(ReleasePolicy(rule="gate"), compared(low=-0.1, wins=1, losses=2), decision("no_gain: …")))
    assert [name for name, holds in found.items() if holds is False] == [
        "the gain in loss is sure", "more wins than losses", "the comparison speaks for it (rule gate)",
    ]  # fmt: skip
    assert found["no person has to promote it"] is None


@pytest.mark.parametrize(
    ("more", "broken"),
    [
        ({}, ["the bet that it is no better has lost"]),
        ({"harm": 3.5, "reason": "harm", "verdict": "declined"}, ["no harm is shown", "the bet that it is no better has lost"]),
        ({"groups": 4}, ["enough groups", "the bet that it is no better has lost"]),
        ({"capital": 5.0, "verdict": "promote", "reason": "evidence"}, []),
        ({"capital": 5.0, "verdict": "needs_decision", "reason": "selected_rows"}, ["no person has to decide"]),
    ],
)
def test_evidence_is_a_tree_of_bets_against_their_thresholds(more: dict[str, Any], broken: list[str]) -> None:
    tree = gate_tree(ReleasePolicy(), compared(), decision("…", evidence=[head(**more)]))
    assert tree is not None
    assert [part.name for part in tree.parts[0].parts if part.holds is False] == broken
