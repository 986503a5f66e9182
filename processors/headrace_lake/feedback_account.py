"""What became of all feedback on the log: every row is learnt, validation, test, waiting or left out by a counted reason.

Knows the events of the topics, not the stages' rules or state. Two sums are exact by construction, as each row is put in one box:
rows of feedback over what became of them, and the examples that they made over what became of those.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from msgspec import Struct, field

from headrace_lake.batches import rows_of
from headrace_lake.log import Log, events_of
from headrace_schemas.derived import Example, Member
from headrace_schemas.events import (
    BatchReady,
    Event,
    ExampleRejected,
    ExampleRewarded,
    ExampleWithdrawn,
    FeedbackRecorded,
    FeedbackRetracted,
    InteractionRecorded,
    RecordRejected,
    SignalRejected,
    TrainingCompleted,
)
from headrace_schemas.selection import is_training

LEARNT, VALIDATION, TEST, WAITING, LEFT_OUT = "learnt", "validation", "test", "waiting", "left out"
_Feedback = tuple[str, str, str]  # interaction, source, feedback id


class FeedbackAccount(Struct, kw_only=True):
    """`feedback`: rows of feedback by (what became of them, why); `examples`: the judged interactions, likewise; `not_tokenised`:
    of the learnt ones, rows that a run left out since its base makes nothing of them, by reason."""

    feedback: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: Counter[tuple[str, str]] = field(default_factory=Counter)
    not_tokenised: Counter[str] = field(default_factory=Counter)

    def to_builtins(self) -> dict[str, dict[str, int]]:
        """For printing: `learnt`, or `left out: duplicate`, to its count, the largest first."""
        boxes = {"feedback": self.feedback, "examples": self.examples}
        named = {
            name: {f"{what}: {why}" if why else what: count for (what, why), count in box.most_common()}
            for name, box in boxes.items()
        }
        return {**named, "not_tokenised": dict(self.not_tokenised.most_common())}


async def account_of(log: Log) -> FeedbackAccount:
    """Reads `signals`, `examples`, `rejections`, `batches`, `runs` and, for what was no event or waits for a link,
    `dead-letters` and `refs`."""
    account = FeedbackAccount()
    interactions: set[str] = set()
    rows: list[_Feedback] = []
    retracted: set[_Feedback] = set()
    async for event in events_of(log, "signals"):
        if isinstance(event, InteractionRecorded):
            interactions.add(event.data.interaction_id or event.id)
        elif isinstance(event, FeedbackRecorded):
            rows.append(_identity(event))
        elif isinstance(event, FeedbackRetracted):
            retracted.add((event.data.interaction_id or "", event.source, event.data.feedback_id))
    refused, rejected = await _rejections(log)
    fates = await _example_fates(log, account, rejected)
    account.examples.update(fates.values())
    seen: set[_Feedback] = set()
    for row in rows:
        interaction, _, feedback_id = row
        if row in seen:
            box = (LEFT_OUT, "repeated")
        elif row in retracted:
            box = (LEFT_OUT, "retracted")
        elif (interaction, feedback_id) in refused:
            box = (LEFT_OUT, refused[interaction, feedback_id])
        elif interaction in fates:
            box = fates[interaction]
        elif interaction in interactions:
            box = (LEFT_OUT, "unknown")
        else:
            box = (WAITING, "its interaction")
        seen.add(row)
        account.feedback[box] += 1
    account.feedback.update(await _never_signals(log, {(source, feedback_id) for _, source, feedback_id in rows}))
    return account


async def _never_signals(log: Log, resolved: set[tuple[str, str]]) -> Counter[tuple[str, str]]:
    """Feedback that is not on `signals`."""
    boxes = Counter[tuple[str, str]]()
    async for event in events_of(log, "dead-letters"):
        if isinstance(event, RecordRejected) and event.data.topic == "feedback":
            boxes[LEFT_OUT, "no event"] += 1
    async for event in events_of(log, "refs"):
        if isinstance(event, FeedbackRecorded) and (event.source, event.data.feedback_id or event.id) not in resolved:
            boxes[WAITING, "a link"] += 1
    return boxes


def _identity(event: FeedbackRecorded) -> _Feedback:
    return event.data.interaction_id or "", event.source, event.data.feedback_id or event.id


async def _rejections(log: Log) -> tuple[dict[tuple[str, str], str], dict[str, tuple[int, str]]]:
    """Reasons of reward by interaction and feedback, where the first of that identity was not taken or fell out; and the newest
    revision of each example that curate did not take, with its reason."""
    refused: dict[tuple[str, str], str] = {}
    rejected: dict[str, tuple[int, str]] = {}
    async for event in events_of(log, "rejections"):
        if isinstance(event, SignalRejected) and event.data.reason not in ("duplicate", "conflict"):
            refused[event.data.interaction_id, event.data.event_id] = event.data.reason
        elif isinstance(event, ExampleRejected) and event.data.revision >= rejected.get(event.data.example_id, (0, ""))[0]:
            rejected[event.data.example_id] = event.data.revision, event.data.reason
    return refused, rejected


async def _example_fates(
    log: Log, account: FeedbackAccount, rejected: Mapping[str, tuple[int, str]]
) -> dict[str, tuple[str, str]]:
    """What became of each example, by its interaction."""
    newest: dict[str, Example] = {}
    withdrawn: dict[str, str] = {}
    async for event in events_of(log, "examples"):
        if isinstance(event, ExampleRewarded):
            newest[event.data.example_id] = event.data
            withdrawn.pop(event.data.example_id, None)
        elif isinstance(event, ExampleWithdrawn):
            withdrawn[event.data.example_id] = event.data.reason
    batches = [event async for event in events_of(log, "batches")]
    runs = [event async for event in events_of(log, "runs")]
    used = _used(batches, runs)
    for event in runs:
        if isinstance(event, TrainingCompleted):
            account.not_tokenised.update((event.data.left_out or {}).get("training", {}))
    fates: dict[str, tuple[str, str]] = {}
    for example_id, example in newest.items():
        if example_id in used:
            fate = used[example_id]
        elif example_id in withdrawn:
            fate = (LEFT_OUT, withdrawn[example_id])
        elif example_id in rejected:
            fate = (LEFT_OUT, rejected[example_id][1])
        else:
            fate = (WAITING, "an open bucket")
        fates[example.interaction_id] = fate
    return fates


def _used(batches: list[Event], runs: list[Event]) -> Mapping[str, tuple[str, str]]:
    """What the batches made of their members: of several, what counts most."""
    states = {row.batch_id: row.state for row in rows_of(batches, runs)}
    best: dict[str, tuple[int, tuple[str, str]]] = {}
    for event in batches:
        if not isinstance(event, BatchReady):
            continue
        state = states[event.data.batch_id]
        for member in event.data.members:
            fate = _fate(member, state)
            best[member.example_id] = min(fate, best.get(member.example_id, fate))
        pools = (
            (1, TEST, (*event.data.test_pool, *(event.data.prompts or ()))),
            (2, VALIDATION, event.data.validation_pool or ()),
        )
        for rank, side, rows in pools:
            for row in rows:
                held = (rank, (side, ""))
                best[row.example_id] = min(held, best.get(row.example_id, held))
    return {example_id: fate for example_id, (_, fate) in best.items()}


def _fate(member: Member, state: str) -> tuple[int, tuple[str, str]]:
    """With its rank: the least counts where a member is in several batches."""
    if member.split == "validation" and member.role == "train":
        return 2, (VALIDATION, "")
    if is_training(member):
        if state == "trained":
            return 0, (LEARNT, "")
        return (4, (LEFT_OUT, "its batch failed")) if state == "failed" else (3, (WAITING, f"its batch: {state}"))
    return 5, (LEFT_OUT, "negative: supervised training learns from none" if member.role == "negative" else "no weight")
