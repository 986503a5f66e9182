"""What became of one corpus in the ring: the account of its feedback, its batches, and each decision with its evidence. Reads the
log of a deployment; starts nothing.

A problem is what must never be: a row that is nowhere, a record that no box counts, a batch that nobody answered, or one that was
declined for want of evidence. What a corpus of enough groups lacks for a release is said as missing.
"""

from __future__ import annotations

import base64
import sys
from collections import Counter
from typing import Any

from headrace_lake.feedback_account import account_of
from headrace_lake.kafka_log import KafkaLog
from headrace_lake.log import events_of
from headrace_schemas.derived import Evaluation, Example, HeadEvidence, ReleaseDecision
from headrace_schemas.events import (
    BatchReady,
    EvaluationCompleted,
    Event,
    ExampleRejected,
    ExampleRewarded,
    RecordRejected,
    TrainingCompleted,
    TrainingFailed,
)
from headrace_schemas.ids import derive_id
from headrace_schemas.topology import RECORDS, STAGES_BY_NAME
from headrace_streams.settings import Settings

ENOUGH_GROUPS = 80  # of a corpus, from which on it must come to a release
WANTS = ("few_groups", "no_evidence", "no_groups")  # reasons that only want more evidence


async def collect(
    settings: Settings, counters: dict[str, Counter[str]], raw: list[tuple[str, bytes]], feedback: int
) -> dict[str, Any]:
    """`counters` by stage; `raw`: bad records that were published, by topic; `feedback`: rows that were published."""
    log = KafkaLog(settings)
    problems = _uncounted(counters)
    account = await account_of(log)
    if account.feedback.total() != feedback:
        problems.append(f"{feedback} rows of feedback were published, {account.feedback.total()} are accounted for")
    problems += _dead_letters(raw, [event async for event in events_of(log, "dead-letters")])
    newest: dict[str, Example] = {}
    revisions = 0
    async for event in events_of(log, "examples"):
        if isinstance(event, ExampleRewarded):
            newest[event.data.example_id] = event.data
            revisions += 1
    rejections = [event async for event in events_of(log, "rejections")]
    batches = [event.data async for event in events_of(log, "batches") if isinstance(event, BatchReady)]
    runs = [event async for event in events_of(log, "runs")]
    evaluations = [event.data async for event in events_of(log, "outcomes") if isinstance(event, EvaluationCompleted)]
    history: list[Any] = [event async for event in events_of(log, "releases.history")]
    by_request = {derive_id("evaluation", each.evaluation_id): each for each in evaluations}
    decisions = [_decision(event, by_request.get(event.data.request_id)) for event in history]
    problems += _badly_answered(decisions, evaluations)
    failed = [event.data.error for event in runs if isinstance(event, TrainingFailed)]
    problems += [f"a run failed: {error}" for error in failed]
    groups = len({example.prompt_group for example in newest.values()})
    promoted = sum(decision["answer"] == "promoted" for decision in decisions)
    return {
        "counters": {stage: dict(sorted(counted.items())) for stage, counted in counters.items()},
        "rejections": dict(
            Counter(event.data.reason for event in rejections if isinstance(event, ExampleRejected)).most_common()
        ),
        "examples": len(newest),
        "groups": groups,
        "revisions": revisions,
        "share of |reward| > 0.99": round(sum(abs(one.reward) > 0.99 for one in newest.values()) / max(1, len(newest)), 4),
        "account": account.to_builtins(),
        "batches": [{"members": len(batch.members), "cause": batch.cause, "test": len(batch.test_pool)} for batch in batches],
        "trained": sum(isinstance(event, TrainingCompleted) for event in runs),
        "decisions": decisions,
        "promoted": promoted,
        "missing": _missing(decisions) if batches and not promoted and groups >= ENOUGH_GROUPS else None,
        "problems": problems,
    }


def _uncounted(counters: dict[str, Counter[str]]) -> list[str]:
    found = []
    for stage, counted in counters.items():
        topology = STAGES_BY_NAME[stage]
        total = sum(count for name, count in counted.items() if name != RECORDS and not topology.is_tally(name))
        if counted[RECORDS] != total:
            found.append(f"{stage}: in {counted[RECORDS]} is not {total}")
    return found


def _dead_letters(raw: list[tuple[str, bytes]], events: list[Event]) -> list[str]:
    dead = [base64.b64decode(event.data.value_base64 or "") for event in events if isinstance(event, RecordRejected)]
    lost, unexpected = Counter(value for _, value in raw) - Counter(dead), len(dead) - len(raw)
    found = [f"{lost.total()} bad records are not in dead letters"] if lost else []
    return found + ([f"{unexpected} dead letters that nobody meant to be bad"] if unexpected else [])


def _decision(event: Any, evaluation: Evaluation | None) -> dict[str, Any]:
    """One answer of release, with the rows and groups of the evaluation that it answers, and what each head had."""
    data: ReleaseDecision = event.data
    kind = type(event).__name__.removeprefix("Release").lower()
    found: dict[str, Any] = {"answer": kind, "reason": data.reason, "heads": [_head(head) for head in data.evidence or ()]}
    if evaluation is not None:
        results = {result.version_id: result.groups for result in evaluation.heads or ()}
        groups = results.get(evaluation.version_id, [])
        gain = evaluation.comparison.loss_gain
        found |= {
            "evaluation": evaluation.evaluation_id,
            "rows": evaluation.comparison.n,
            "groups": len(groups),
            "groups of all heads": {version: len(each) for version, each in results.items()},
            "loss": [round(evaluation.incumbent["loss"].value, 4), round(evaluation.candidate["loss"].value, 4)],
            "gain": [round(gain.value, 4), round(gain.low, 4), round(gain.high, 4)],
        }
    return found


def _head(head: HeadEvidence) -> dict[str, Any]:
    return {
        "version": head.version_id[:8],
        "verdict": head.verdict,
        "reason": head.reason,
        "h": head.h,
        "looks": head.looks,
        "counted": head.groups,
        "new": len(head.seen),
        "old": head.old_groups,
        "mean": round(head.mean, 4),
        "capital": [round(head.capital, 2), round(head.needed, 2)],
        "harm": [round(head.harm, 2), round(head.alarm, 2)],
    }


def _badly_answered(decisions: list[dict[str, Any]], evaluations: list[Evaluation]) -> list[str]:
    answered = Counter(decision.get("evaluation") for decision in decisions)
    found = [
        f"evaluation {each.evaluation_id} of {each.bucket} is unanswered"
        for each in evaluations
        if not answered[each.evaluation_id]
    ]
    for decision in decisions:
        for head in decision["heads"]:
            if head["verdict"] == "declined" and head["reason"].startswith(WANTS):
                found.append(f"head {head['version']} is declined for want of evidence: {head['reason']}")
    return found


def _missing(decisions: list[dict[str, Any]]) -> str:
    """Of the heads of all looks, what the one nearest to a release lacked at its last look."""
    last = {head["version"]: head for decision in decisions for head in decision["heads"]}
    if not last:
        return "no head was looked at"
    best = max(last.values(), key=lambda head: head["capital"][0] - head["capital"][1])
    capital, needed = best["capital"]
    return f"{best['verdict']}: {best['reason']}: {capital} of {needed} nats on {best['counted']} groups in {best['looks']} looks"


def show(name: str, report: dict[str, Any]) -> None:
    """The table of one corpus."""
    print(
        f"\n{name}: {report['published']} published, {report['published raw']} bad ones raw, {report['seconds']} s;"
        f" base: {report['base']}"
    )
    for stage, counters in report["counters"].items():
        print(f"  {stage:8}", "  ".join(f"{name} {count}" for name, count in counters.items()))
    print("  rejected", "  ".join(f"{reason} {count}" for reason, count in report["rejections"].items()) or "none")
    print(
        f"  {report['examples']} examples of {report['groups']} groups in {report['revisions']} revisions,"
        f" |reward| > 0.99: {report['share of |reward| > 0.99']:.1%}, {len(report['batches'])} batches, {report['trained']}"
        f" trained, {report['promoted']} promoted"
    )
    for what, boxes in report["account"].items():
        print(f"  {what} ({sum(boxes.values())}):", "  ".join(f"{box} {count}" for box, count in boxes.items()) or "none")
    for decision in report["decisions"]:
        print(f"    {decision['answer']}: {decision['reason']}")
        if "rows" in decision:
            print(
                f"      on {decision['rows']} rows, {decision['groups']} groups: loss {decision['loss']}, gain {decision['gain']}"
            )
        for head in decision["heads"]:
            print(
                f"      head {head['version']} (h {head['h']}, look {head['looks']}): {head['verdict']}: {head['reason']};"
                f" {head['new']} new of {head['counted']} groups, {head['old']} old, mean {head['mean']},"
                f" {head['capital']} nats, harm {head['harm']}"
            )
    if report["missing"]:
        print("  MISSING for a release:", report["missing"])
    for problem in report["problems"]:
        print("  PROBLEM", problem)
    sys.stdout.flush()
