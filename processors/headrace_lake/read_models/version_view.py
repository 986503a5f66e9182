"""Versions of a lake: each against what was served, with intervals, by slice and suite, and how the evidence grew look by look.
Knows the events of versions, outcomes and releases.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum
from typing import Any

import msgspec
from msgspec import Struct

from headrace_lake.lineage import RecordPlace
from headrace_lake.query import LakeQuery
from headrace_lake.read_models.conditions import ConditionNode
from headrace_lake.read_models.evaluation_answers import EvaluationAnswers, evaluation_answers
from headrace_lake.read_models.paging import PAGE, PageCursor, next_page, page_of
from headrace_lake.read_models.recorded import RecordedEvent, decision_of, in_force, recorded, rules_of_task
from headrace_lake.read_models.release_gate import gate_tree
from headrace_lake.views import DECISIONS, event, table_of
from headrace_processors.release.policy import ReleasePolicy
from headrace_schemas.derived import Comparison, Evaluation, GroupResult, HeadEvidence, Measure, Requirement
from headrace_schemas.events import EvaluationCompleted, ModelVersionCreated
from headrace_streams.settings import Settings

LOOKS = 200


class VersionSummary(Struct, frozen=True, kw_only=True):
    """A version in a list, with its newest comparison and the last answer about it."""

    version_id: str
    bucket: str
    adapter: str
    place: str
    appended_ms: int
    batch_id: str
    run_id: str
    rows: int
    tokens: int
    seconds: float
    compared: Comparison | None = None
    answer: str | None = None
    reason: str | None = None
    release_id: str | None = None


class VersionList(Struct, frozen=True, kw_only=True):
    """Versions, newest first."""

    rows: list[VersionSummary]
    below: str | None = None


class MetricPair(Struct, frozen=True, kw_only=True):
    """A metric of the candidate and of what was served, with 95 % intervals."""

    name: str
    candidate: Measure | None
    incumbent: Measure | None


class SliceGain(Struct, frozen=True, kw_only=True):
    """What a kind of rows gains, as the mean over its groups. `unit`: nats a token, or share of successes."""

    name: str
    kind: str
    groups: int
    gain: float
    better: int
    worse: int
    unit: str
    protected: bool = False


class EvidenceLook(Struct, frozen=True, kw_only=True):
    """One look at a head, as an answer of release recorded it."""

    place: str
    appended_ms: int
    release_id: str
    evidence: HeadEvidence


class VersionView(Struct, frozen=True, kw_only=True):
    """One version. `gate`: the conditions of the newest answer to it; `looks`: how its evidence grew."""

    summary: VersionSummary
    hyperparameters: dict[str, Any]
    parent_adapter: str | None
    dataset_digest: str | None
    evaluation_id: str | None
    evaluated_ms: int | None
    compared_with: str | None
    metrics: list[MetricPair]
    slices: list[SliceGain]
    requirements: list[Requirement]
    ungraded: dict[str, int]
    gate: ConditionNode | None
    looks: list[EvidenceLook]
    answers: EvaluationAnswers | None
    evaluations: int


def version_list(lake: LakeQuery, bucket: str | None = None, below: PageCursor | None = None, *, page: int = PAGE) -> VersionList:
    """The newest versions, of one bucket or of all."""
    where, parameters = page_of(event("model_version.created"), bucket, below)
    made = recorded(lake, "versions", where, parameters, limit=page + 1, newest=True)[::-1]
    shown = made[:page]
    ids = [each.event.data.version_id for each in shown if isinstance(each.event, ModelVersionCreated)]
    evaluations = _comparisons(lake, ids)
    answers = _answers(lake, ids)
    rows = [_summary(each, evaluations, answers) for each in shown]
    return VersionList(rows=rows, below=next_page(rows, more=len(made) > page))


def version_view(
    lake: LakeQuery, settings: Settings, version_id: str, outcome: str = "win", offset: int = 0
) -> VersionView | None:
    """One version with some of its answers; None where there is none of that id."""
    where, named = "version_id = $id", {"id": version_id}
    made = next(iter(recorded(lake, "versions", f"{event('model_version.created')} AND {where}", named, limit=1)), None)
    if made is None or not isinstance(made.event, ModelVersionCreated):
        return None
    version = made.event.data
    evaluated = recorded(lake, "outcomes", f"{event('evaluation.completed')} AND {where}", named, limit=LOOKS, newest=True)
    evaluation = evaluated[-1] if evaluated else None
    compared = evaluation.event.data if evaluation is not None and isinstance(evaluation.event, EvaluationCompleted) else None
    looks = _looks(lake, version.bucket, version_id)
    answered = recorded(lake, "releases.history", f"{DECISIONS} AND {where}", named, limit=LOOKS, newest=True)
    decision = decision_of(answered[-1]).data if answered else None
    source = answered[-1].source if answered else None
    policy = None if evaluation is None else release_policy(lake, source or evaluation.place)
    summary = _summary(
        made,
        {} if compared is None else {version_id: compared.comparison},
        {} if not answered else {version_id: answered[-1]},
    )
    return VersionView(
        summary=summary,
        hyperparameters=version.hyperparameters,
        parent_adapter=version.parent_adapter,
        dataset_digest=version.dataset_digest,
        evaluation_id=None if compared is None else compared.evaluation_id,
        evaluated_ms=None if evaluation is None else evaluation.appended_ms,
        compared_with=None if compared is None else compared.parent_release_id or "base",
        metrics=[] if compared is None else _metrics(compared),
        slices=[] if compared is None else slice_gains(compared, version_id),
        requirements=[] if compared is None else compared.requirements,
        ungraded={} if compared is None else compared.ungraded or {},
        gate=gate_tree(policy, compared, decision),
        looks=looks,
        answers=None if compared is None else evaluation_answers(lake, settings, compared, outcome, offset),
        evaluations=len(evaluated),
    )


def slice_gains(evaluation: Evaluation, version_id: str) -> list[SliceGain]:
    """Gains by side, by protected slice and by suite, of the version's own groups."""
    head = next((each for each in evaluation.heads or [] if each.version_id == version_id), None)
    if head is None:
        return []
    kinds: dict[tuple[str, str, bool], list[GroupResult]] = {}
    for group in head.groups:
        kinds.setdefault(("side", group.side, False), []).append(group)
        for name in group.slices or []:
            kinds.setdefault(("slice", name, True), []).append(group)
    for suite in head.suites or []:
        kinds[("suite", suite.name, suite.protected)] = list(suite.tasks)
    return [gain for (kind, name, protected), groups in kinds.items() for gain in _gains(kind, name, protected, groups)]


def _gains(kind: str, name: str, protected: bool, groups: Sequence[GroupResult]) -> list[SliceGain]:
    found: list[SliceGain] = []
    for field, unit in (("success_gain", "share of successes"), ("loss_gain", "nats a token")):
        values = [value for group in groups if (value := getattr(group, field)) is not None]
        if values:
            found.append(
                SliceGain(
                    name=name,
                    kind=kind,
                    groups=len(values),
                    gain=fsum(values) / len(values),
                    better=sum(value > 0 for value in values),
                    worse=sum(value < 0 for value in values),
                    unit=unit,
                    protected=protected,
                )
            )
    return found


def _summary(made: RecordedEvent, compared: dict[str, Comparison], answers: dict[str, RecordedEvent]) -> VersionSummary:
    assert isinstance(made.event, ModelVersionCreated)
    version = made.event.data
    answer = answers.get(version.version_id)
    answered = None if answer is None else decision_of(answer)
    return VersionSummary(
        version_id=version.version_id,
        bucket=version.bucket,
        adapter=version.adapter.digest,
        place=str(made.place),
        appended_ms=made.appended_ms,
        batch_id=version.batch_id,
        run_id=version.run_id,
        rows=version.rows,
        tokens=version.tokens,
        seconds=version.seconds,
        compared=compared.get(version.version_id),
        answer=None if answered is None else answered.kind,
        reason=None if answered is None else answered.data.reason,
        release_id=None if answered is None else answered.data.release_id,
    )


def _comparisons(lake: LakeQuery, ids: Sequence[str]) -> dict[str, Comparison]:
    """The newest of each version, read without its groups, which are most of an evaluation."""
    rows = lake.all(
        f"SELECT version_id, try(value->'$.data.comparison') FROM {table_of('outcomes')} WHERE {event('evaluation.completed')} "
        "AND list_contains($ids, version_id) ORDER BY partition, log_offset",
        {"ids": list(ids)},
    )
    return {version_id: msgspec.json.decode(text, type=Comparison) for version_id, text in rows if text is not None}


def _answers(lake: LakeQuery, ids: Sequence[str]) -> dict[str, RecordedEvent]:
    answered = recorded(
        lake, "releases.history", f"{DECISIONS} AND list_contains($ids, version_id)", {"ids": list(ids)}, newest=True
    )
    return {version_id: each for each in answered if (version_id := decision_of(each).data.version_id) is not None}


def _looks(lake: LakeQuery, bucket: str, version_id: str) -> list[EvidenceLook]:
    """Every answer of the bucket whose evidence names the version."""
    answered = recorded(
        lake,
        "releases.history",
        f"{DECISIONS} AND bucket = $bucket AND contains(try(value->>'$.data.evidence'), $id)",
        {"bucket": bucket, "id": version_id},
        limit=LOOKS,
        newest=True,
    )
    return [
        EvidenceLook(place=str(each.place), appended_ms=each.appended_ms, release_id=decision.release_id, evidence=head)
        for each in answered
        for decision in [decision_of(each).data]
        for head in decision.evidence or []
        if head.version_id == version_id
    ]


def _metrics(evaluation: Evaluation) -> list[MetricPair]:
    names = dict.fromkeys([*evaluation.candidate, *evaluation.incumbent])
    return [
        MetricPair(name=name, candidate=evaluation.candidate.get(name), incumbent=evaluation.incumbent.get(name))
        for name in names
    ]


def release_policy(lake: LakeQuery, source: RecordPlace) -> ReleasePolicy | None:
    """Of release, as it was in force when it answered what lies at `source`."""
    rules = in_force(rules_of_task(lake, "release", source.topic, source.partition, source.offset), source.offset)
    policy = None if rules is None else rules.policy
    return policy if isinstance(policy, ReleasePolicy) else None
