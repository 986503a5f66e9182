"""What became of all feedback on the log: every row is learnt, validation, test, waiting or left out by a counted reason.

Knows the events of the topics, not the stages' rules or state. Two sums are exact by construction, as each row is put in one box:
rows of feedback over what became of them, and the examples that they made over what became of those. A row is what somebody
published: a word on a session is one, however many interactions are credited with it, and what a derivation saw is none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from msgspec import Struct, field

from headrace_lake.batches import BatchState, rows_of
from headrace_lake.log import Log, events_of
from headrace_schemas.derived import Batch, Example, Member, PromptMember
from headrace_schemas.events import (
    BatchReady,
    Event,
    ExampleRejected,
    ExampleRewarded,
    ExampleWithdrawn,
    FeedbackRecorded,
    FeedbackRetracted,
    InteractionRecorded,
    RecordRedriven,
    RecordRejected,
    SessionFeedbackRecorded,
    SessionFeedbackRetracted,
    SignalRejected,
    TrainingCompleted,
    TrainingStarted,
)
from headrace_schemas.inputs import Attribution
from headrace_schemas.selection import is_validation, learnt_members, watched
from headrace_schemas.session_feedback import CONTENT, UNDONE

LEARNT, VALIDATION, TEST, WAITING, LEFT_OUT = "learnt", "validation", "test", "waiting", "left out"
_RANKS = {LEARNT: 0, TEST: 1, VALIDATION: 2, WAITING: 3, LEFT_OUT: 4}  # the least counts where a row is in several batches
_NEGATIVE = "negative: supervised training learns from none"
_Fate = tuple[str, str]  # what became of it, and why
_Feedback = tuple[str, str, str]  # interaction, source, feedback id


class FeedbackAccount(Struct, kw_only=True):
    """`feedback`: rows of feedback by (what became of them, why); `examples`: the judged interactions, likewise; `not_named`:
    of the learnt ones, rows that a run left out and did not name, as older trainers do not, by reason; `derived`: what nobody
    said and derivations saw, by derivation, as far as it stands."""

    feedback: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: Counter[tuple[str, str]] = field(default_factory=Counter)
    not_named: Counter[str] = field(default_factory=Counter)
    derived: Counter[str] = field(default_factory=Counter)

    def to_builtins(self) -> dict[str, dict[str, int]]:
        """For printing: `learnt`, or `left out: duplicate`, to its count, the largest first."""
        boxes = {"feedback": self.feedback, "examples": self.examples}
        named = {
            name: {f"{what}: {why}" if why else what: count for (what, why), count in box.most_common()}
            for name, box in boxes.items()
        }
        return {**named, "not_named": dict(self.not_named.most_common()), "derived": dict(self.derived.most_common())}


async def account_of(log: Log) -> FeedbackAccount:
    """Reads `signals`, `examples`, `rejections`, `batches`, `runs` and, for what was no event or waits for a link or its session,
    `dead-letters`, `refs` and `sessions`."""
    account = FeedbackAccount()
    interactions: set[str] = set()
    rows: list[_Feedback] = []
    retracted: set[_Feedback] = set()
    attributed: dict[_Feedback, Attribution] = {}
    async for event in events_of(log, "signals"):
        if isinstance(event, InteractionRecorded):
            interactions.add(event.data.interaction_id or event.id)
        elif isinstance(event, FeedbackRecorded):
            if event.data.attributed_from is None:
                rows.append(_identity(event))
            else:
                attributed[_identity(event)] = event.data.attributed_from
        elif isinstance(event, FeedbackRetracted):
            retracted.add((event.data.interaction_id or "", event.source, event.data.feedback_id))
    refused, rejected = await _rejections(log)
    fates = await _example_fates(log, account, rejected)
    account.examples.update(fates.values())

    def fate_of(interaction: str) -> _Fate:
        if interaction in fates:
            return fates[interaction]
        return (LEFT_OUT, "unknown") if interaction in interactions else (WAITING, "its interaction")

    seen: set[_Feedback] = set()
    for row in rows:
        interaction, _, feedback_id = row
        if row in seen:
            box = (LEFT_OUT, "repeated")
        elif row in retracted:
            box = (LEFT_OUT, "retracted")
        elif (interaction, feedback_id) in refused:
            box = (LEFT_OUT, refused[interaction, feedback_id])
        else:
            box = fate_of(interaction)
        seen.add(row)
        account.feedback[box] += 1
    credited: dict[_Feedback, list[_Fate]] = {}
    for derived, source in attributed.items():
        interaction, writer, _ = derived
        if derived in retracted:
            continue
        if source.derived_by is not None:
            account.derived[source.derived_by] += 1
        else:
            credited.setdefault((source.session_id, writer, source.feedback_id), []).append(fate_of(interaction))
    account.feedback.update(await _of_sessions(log, credited))
    account.feedback.update(await _never_signals(log, {(source, feedback_id) for _, source, feedback_id in rows}))
    return account


async def _of_sessions(log: Log, credited: Mapping[_Feedback, Sequence[_Fate]]) -> Counter[_Fate]:
    """Words on sessions: each as the interaction that most was made of, of those that are credited with it."""
    boxes = Counter[_Fate]()
    words: dict[_Feedback, str] = {}
    retracted: set[_Feedback] = set()
    async for event in events_of(log, "sessions"):
        if isinstance(event, SessionFeedbackRecorded):
            word = event.data.session_id, event.source, event.data.feedback_id
            if word in words:
                boxes[LEFT_OUT, "repeated"] += 1
            words.setdefault(word, event.data.kind)
        elif isinstance(event, SessionFeedbackRetracted):
            retracted.add((event.data.session_id, event.source, event.data.feedback_id))
    for word, kind in words.items():
        if word in retracted:
            boxes[LEFT_OUT, "retracted"] += 1
        elif word in credited:
            boxes[min(credited[word], key=lambda fate: (_RANKS[fate[0]], fate[1]))] += 1
        elif kind in (CONTENT, UNDONE):
            boxes[LEFT_OUT, "a report"] += 1
        else:
            boxes[WAITING, "an interaction of its session"] += 1
    return boxes


async def _never_signals(log: Log, resolved: set[tuple[str, str]]) -> Counter[tuple[str, str]]:
    """Feedback that is not on `signals`. What was published once more after it was a dead letter is a row where it went."""
    boxes = Counter[tuple[str, str]]()
    dead: set[tuple[int, int]] = set()
    redriven: set[tuple[int, int]] = set()
    async for event in events_of(log, "dead-letters"):
        if isinstance(event, RecordRejected | RecordRedriven) and event.data.topic == "feedback":
            (dead if isinstance(event, RecordRejected) else redriven).add((event.data.partition, event.data.offset))
    boxes[LEFT_OUT, "no event"] += len(dead - redriven)
    async for event in events_of(log, "refs"):
        if isinstance(event, FeedbackRecorded) and (event.source, event.data.feedback_id or event.id) not in resolved:
            boxes[WAITING, "a link"] += 1
    return +boxes


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
            left_out = event.data.left_out or {}
            account.not_named.update({} if event.data.left_out_examples else left_out.get("training", {}))
    fates: dict[str, tuple[str, str]] = {}
    for example_id, example in newest.items():
        if example_id in used:
            fate = used[example_id]
        elif example_id in withdrawn:
            fate = (LEFT_OUT, withdrawn[example_id])
        elif example_id in rejected:
            fate = (LEFT_OUT, rejected[example_id][1])
        else:
            fate = (WAITING, "an open bucket" if example.reward > 0 else f"an open bucket, {_NEGATIVE}")
        fates[example.interaction_id] = fate
    return fates


def _used(batches: list[Event], runs: list[Event]) -> Mapping[str, tuple[str, str]]:
    """What batches and runs made of their members: of several, what counts most."""
    best: dict[str, tuple[int, _Fate]] = {}

    def hold(example_ids: Iterable[str], *fate: str) -> None:
        what, why = fate
        ranked = (_RANKS[what], (what, why))
        for example_id in example_ids:
            best[example_id] = min(ranked, best.get(example_id, ranked))

    states = {row.batch_id: row.state for row in rows_of(batches, runs)}
    ended = _ended(runs)
    for batch in (event.data for event in batches if isinstance(event, BatchReady)):
        run = ended.get(batch.batch_id, _Run())
        for side, fate in (("training", LEARNT), ("test", TEST), ("prompts", TEST), ("validation", VALIDATION)):
            left_out = run.left_out.get(side, {})
            for reason, example_ids in left_out.items():
                hold(example_ids, LEFT_OUT, reason)
            gone = run.withdrawn.union(*left_out.values())
            hold(
                (one.example_id for one in _of_side(batch, side, run.avoids) if one.example_id not in gone),
                *_held(fate, states[batch.batch_id]),
            )
        left_out = run.left_out.get("rehearsal", {})
        for reason, example_ids in left_out.items():
            hold(example_ids, LEFT_OUT, reason)
        unread = frozenset[str]().union(*left_out.values())
        hold((member.example_id for member in run.rehearsal if member.example_id not in unread), LEARNT, "")
        for member in batch.members:
            if member.role == "negative" and not run.avoids:
                hold([member.example_id], LEFT_OUT, _NEGATIVE)
            elif not member.weight > 0:
                hold([member.example_id], LEFT_OUT, "no weight")
    return {example_id: fate for example_id, (_, fate) in best.items()}


class _Run(NamedTuple):
    """What the run that ended with a version used and left out, by side and reason; `avoids`: it learnt from negatives, too."""

    rehearsal: Sequence[Member] = ()
    withdrawn: frozenset[str] = frozenset()
    left_out: Mapping[str, Mapping[str, Sequence[str]]] = MappingProxyType({})
    avoids: bool = False


def _ended(runs: list[Event]) -> dict[str, _Run]:
    """The last run of each batch that ended with a version."""
    starts = {event.data.run_id: event.data for event in runs if isinstance(event, TrainingStarted)}
    ended: dict[str, _Run] = {}
    for event in runs:
        if isinstance(event, TrainingCompleted):
            start, left_out = starts.get(event.data.run_id), event.data.left_out_examples or {}
            if start is None:
                ended[event.data.batch_id] = _Run(left_out=left_out)
                continue
            gone = frozenset(start.withdrawn or ())
            ended[event.data.batch_id] = _Run(start.rehearsal, gone, left_out, bool(start.avoids))
    return ended


def _of_side(batch: Batch, side: str, avoids: bool) -> Sequence[Member | PromptMember]:
    match side:
        case "training":
            return learnt_members(batch.members, avoids)
        case "validation":
            return [member for member in watched(batch) if is_validation(member)]
        case "test":
            return batch.test_pool
        case _:
            return batch.prompts or []


def _held(fate: str, state: BatchState) -> tuple[str, str]:
    """What became of the members of a batch in this state whose fate is `fate` once it is trained."""
    if fate != LEARNT or state == "trained":
        return fate, ""
    return (LEFT_OUT, "its batch failed") if state == "failed" else (WAITING, f"its batch: {state}")
