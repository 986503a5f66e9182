"""Releases of a lake: the chain of each bucket, each with a text of its own, whether it is really served and does better. Knows
the events of releases and what is served by the adapters that answers name.
"""

from __future__ import annotations

from collections import Counter

from msgspec import Struct, structs

from headrace_lake.lineage import RecordPlace
from headrace_lake.query import LakeQuery
from headrace_lake.read_models.conditions import ConditionNode
from headrace_lake.read_models.paging import PAGE, PageCursor, next_page, page_of
from headrace_lake.read_models.recorded import RecordedEvent, decision_of, places_where, read_at, recorded, recorded_at
from headrace_lake.read_models.release_gate import gate_tree
from headrace_lake.read_models.release_text import release_text
from headrace_lake.read_models.version_view import release_policy
from headrace_lake.views import DECISIONS, event, table_of
from headrace_schemas.derived import Batch, Evaluation, HarmEvidence, HeadEvidence, ModelVersion, ReleaseDecision, Requirement
from headrace_schemas.events import BatchReady, EvaluationCompleted, ModelVersionCreated
from headrace_streams.release_log import CHANGES

TRAFFIC = 5_000  # answers of agents, the newest, that shares are of
JUDGED = 4_000  # revisions of a bucket, the newest, that success is of
CHAIN = 50
_SERVING = event(*(f"release.{kind}" for kind in CHANGES))


class ReleaseRow(Struct, frozen=True, kw_only=True):
    """An answer of release. `serves`: what it is about is served now."""

    release_id: str
    bucket: str
    sequence: int
    kind: str
    place: str
    appended_ms: int
    adapter: str | None
    version_id: str | None
    reason: str
    requested_by: str | None
    serves: bool = False


class ReleaseList(Struct, frozen=True, kw_only=True):
    """Answers, newest first. `served`: of each bucket what is served now."""

    bucket: str | None
    rows: list[ReleaseRow]
    served: list[ReleaseRow]
    below: str | None = None


class AdapterTraffic(Struct, frozen=True, kw_only=True):
    """What agents answered with. `adapter` None: the base alone. `release_id`: the newest that served it; `share` of the answers
    that were looked at; `success`: share of those that were judged whose quality is above 0."""

    adapter: str | None
    release_id: str | None
    answers: int
    share: float
    judged: int
    success: float | None


class ReleaseView(Struct, frozen=True, kw_only=True):
    """One release. `text` by heading; `chain`: the answers of its bucket around it, newest first; `traffic`: by adapter, of the
    `looked_at` newest answers of its kind of work; `before` and `after`: success of what it followed, and of what it serves."""

    row: ReleaseRow
    text: dict[str, str]
    gate: ConditionNode | None
    evidence: list[HeadEvidence]
    watch: HarmEvidence | None
    batch_ids: list[str]
    evaluation_id: str | None
    parent_release_id: str | None
    base_digest: str | None
    requirements: list[Requirement]
    chain: list[ReleaseRow]
    traffic: list[AdapterTraffic]
    looked_at: int
    before: AdapterTraffic | None
    after: AdapterTraffic | None


def release_list(lake: LakeQuery, bucket: str | None = None, below: PageCursor | None = None, *, page: int = PAGE) -> ReleaseList:
    """The newest answers, of one bucket or of all."""
    where, parameters = page_of(DECISIONS, bucket, below)
    found = recorded(lake, "releases.history", where, parameters, limit=page + 1, newest=True)[::-1]
    served = served_now(lake)
    rows = [_row(each, served) for each in found[:page]]
    shown = [row for name, row in sorted(served.items()) if bucket in (None, name)]
    return ReleaseList(bucket=bucket, rows=rows, served=shown, below=next_page(rows, more=len(found) > page))


def served_now(lake: LakeQuery) -> dict[str, ReleaseRow]:
    """By bucket, the answer that says what is served now."""
    places = lake.all(
        f"SELECT partition, max(log_offset) FROM {table_of('releases.history')} WHERE {DECISIONS} AND {_SERVING} "
        "GROUP BY partition, bucket"
    )
    answers = recorded_at(lake, "releases.history", [RecordPlace("releases.history", *row) for row in places])
    return {decision_of(each).data.bucket: structs.replace(_row(each, {}), serves=True) for each in answers}


def release_view(lake: LakeQuery, release_id: str) -> ReleaseView | None:
    """One release; None where the lake has none of that id."""
    answered = next(
        iter(recorded(lake, "releases.history", f"{DECISIONS} AND release_id = $id", {"id": release_id}, limit=1)), None
    )
    if answered is None:
        return None
    decision = decision_of(answered).data
    served = served_now(lake)
    row = _row(answered, served)
    version, evaluation, batches = _made_of(lake, decision)
    around = recorded(
        lake, "releases.history", f"{DECISIONS} AND bucket = $bucket", {"bucket": decision.bucket}, limit=CHAIN, newest=True
    )
    previous = next((told for told in map(decision_of, around) if told.data.release_id == decision.parent_release_id), None)
    traffic, looked_at = adapter_traffic(lake, decision.bucket)
    by_adapter = {each.adapter: each for each in traffic}
    judged = evaluation is not None or bool(decision.evidence)
    policy = release_policy(lake, answered.source) if judged and answered.source is not None else None
    before = None if previous is None else _digest(previous.data)
    serves = row.kind in CHANGES
    return ReleaseView(
        row=row,
        text=release_text(
            row.kind,
            decision,
            version=version,
            batches=batches,
            evaluation=evaluation,
            previous=None if previous is None else previous.data,
        ),
        gate=gate_tree(policy, evaluation, decision) if judged else None,
        evidence=decision.evidence or [],
        watch=decision.watch,
        batch_ids=decision.batch_ids,
        evaluation_id=decision.evaluation_id,
        parent_release_id=decision.parent_release_id,
        base_digest=decision.base_digest,
        requirements=[] if evaluation is None else evaluation.requirements,
        chain=[_row(each, served) for each in reversed(around)],
        traffic=traffic,
        looked_at=looked_at,
        before=by_adapter.get(before) if serves else None,
        after=by_adapter.get(_digest(decision)) if serves else None,
    )


def adapter_traffic(lake: LakeQuery, bucket: str) -> tuple[list[AdapterTraffic], int]:
    """With what the newest answers of a bucket's kind of work were given, and how well; how many were looked at. The base's name
    decides nothing here: an agent may call its model as it likes."""
    artifact_type = bucket.partition("/")[0]
    rows = read_at(
        lake,
        "signals",
        places_where(lake, "signals", event("interaction.recorded"), limit=TRAFFIC),
        "try(json_extract_string(t.value, ['$.data.artifact_type', '$.data.adapter']))",
    )
    answers = Counter[str | None](said[1] for (said,) in rows if said is not None and said[0] == artifact_type)
    judged, right = _judged(lake, bucket)
    releases = dict(
        lake.all(
            f"SELECT try(value->>'$.data.adapter.digest'), arg_max(release_id, log_offset) FROM {table_of('releases.history')} "
            f"WHERE {DECISIONS} AND bucket = $bucket AND {_SERVING} GROUP BY ALL",
            {"bucket": bucket},
        )
    )
    whole = answers.total()
    found = [
        AdapterTraffic(
            adapter=adapter,
            release_id=releases.get(adapter),
            answers=answers[adapter],
            share=answers[adapter] / whole if whole else 0.0,
            judged=judged[adapter],
            success=right[adapter] / judged[adapter] if judged[adapter] else None,
        )
        for adapter in dict.fromkeys([*answers, *judged])
    ]
    return sorted(found, key=lambda each: (-each.answers, -each.judged)), whole


def _judged(lake: LakeQuery, bucket: str) -> tuple[Counter[str | None], Counter[str | None]]:
    """Judged answers of the newest revisions of a bucket, and the good ones among them, by adapter; each example once."""
    where = f"{event('example.rewarded')} AND bucket = $bucket"
    rows = read_at(
        lake,
        "examples",
        places_where(lake, "examples", where, {"bucket": bucket}, limit=JUDGED),
        "t.example_id, try(json_extract_string(t.value, ['$.data.adapter', '$.data.quality']))",
        "ORDER BY t.partition, t.log_offset",
    )
    judged: Counter[str | None] = Counter()
    right: Counter[str | None] = Counter()
    for adapter, quality in {example_id: said for example_id, said in rows if said is not None}.values():
        judged[adapter] += 1
        right[adapter] += quality is not None and float(quality) > 0
    return judged, right


def _made_of(lake: LakeQuery, decision: ReleaseDecision) -> tuple[ModelVersion | None, Evaluation | None, list[Batch]]:
    version: ModelVersion | None = None
    evaluation: Evaluation | None = None
    if decision.version_id is not None:
        made = recorded(
            lake, "versions", f"{event('model_version.created')} AND version_id = $id", {"id": decision.version_id}, limit=1
        )
        version = next((each.event.data for each in made if isinstance(each.event, ModelVersionCreated)), None)
    if decision.evaluation_id is not None:
        told = recorded(
            lake, "outcomes", f"{event('evaluation.completed')} AND evaluation_id = $id", {"id": decision.evaluation_id}, limit=1
        )
        evaluation = next((each.event.data for each in told if isinstance(each.event, EvaluationCompleted)), None)
    cut = recorded(
        lake, "batches", f"{event('batch.ready')} AND list_contains($ids, batch_id)", {"ids": decision.batch_ids}, limit=20
    )
    return version, evaluation, [each.event.data for each in cut if isinstance(each.event, BatchReady)]


def _digest(decision: ReleaseDecision) -> str | None:
    return None if decision.adapter is None else decision.adapter.digest


def _row(answer: RecordedEvent, served: dict[str, ReleaseRow]) -> ReleaseRow:
    kind, _, decision = decision_of(answer)
    now = served.get(decision.bucket)
    return ReleaseRow(
        release_id=decision.release_id,
        bucket=decision.bucket,
        sequence=decision.sequence,
        kind=kind,
        place=str(answer.place),
        appended_ms=answer.appended_ms,
        adapter=_digest(decision),
        version_id=decision.version_id,
        reason=decision.reason,
        requested_by=decision.requested_by,
        serves=now is not None and now.release_id == decision.release_id,
    )
