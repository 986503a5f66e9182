"""The reward of a published revision, term by term: the stage's own fold run again over the signals of one interaction, under
the rules that were in force. Knows the lake and the fold; no formula of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct, structs

from headrace_lake.lineage import RecordPlace
from headrace_lake.log import LogRecord
from headrace_lake.query import LakeQuery
from headrace_lake.read_models.recorded import STAGE, RecordedEvent, TaskPolicy, in_force, recorded, rules_of_task
from headrace_processors.reward.trace import RewardTrace, VoiceTrace
from headrace_schemas.codec import decode
from headrace_schemas.derived import Example, Weights
from headrace_schemas.events import ExampleRewarded, FeedbackRecorded
from headrace_schemas.sealed_fields import ERASED, SEALED
from headrace_schemas.topology import STAGES_BY_NAME
from headrace_streams.runtime.fold_runner import FoldRunner
from headrace_streams.runtime.provenance import origin_without_input
from headrace_streams.runtime.stage import InvalidBody, UnknownVersion

SIGNALS = 2000  # of one interaction that are folded again
_COUNTS = {topic: 1 for topic in (*STAGES_BY_NAME["reward"].outputs, "dead-letters", "signals")}


class StatementRecord(Struct, frozen=True, kw_only=True):
    """One thing that somebody said, where it lies on the log."""

    feedback_id: str
    source: str
    place: str
    appended_ms: int
    kind: str
    score: float | None = None
    scale: tuple[float, float] | None = None
    principal: str | None = None
    check: str | None = None
    comment: str | None = None
    corrects: bool = False


class VoiceRecord(Struct, frozen=True, kw_only=True):
    """A voice of a trace with its statements."""

    voice: VoiceTrace
    statements: list[StatementRecord]


class RewardExplanation(Struct, frozen=True, kw_only=True):
    """A reward in its terms. `agrees`: the fold, run again over the interaction's signals, says what was published, byte for
    byte, but for the balance, which depends on the whole partition; else `differs` says why that can't be, or what is another."""

    agrees: bool
    differs: str | None = None
    trace: RewardTrace | None = None
    voices: list[VoiceRecord] = []
    policy_digest: str | None = None
    policy_place: str | None = None
    rule_version: int | None = None
    from_offset: int | None = None


def reward_explanation(
    lake: LakeQuery, published: RecordedEvent, signals: Sequence[RecordedEvent] | None = None
) -> RewardExplanation:
    """Of one revision of an example, as it lies on `examples`. `signals`: of its interaction, if they are at hand."""
    assert isinstance(published.event, ExampleRewarded)
    example, source = published.event.data, published.source
    if source is None or source.topic != "signals":
        return RewardExplanation(agrees=False, differs="it does not say which signal led to it")
    if example.content.prompt == ERASED:
        return RewardExplanation(agrees=False, differs="its texts are erased")
    if example.content.prompt == SEALED:
        return RewardExplanation(agrees=False, differs="its texts are sealed: for who may read topic keys")
    said = signals_of(lake, example.interaction_id) if signals is None else signals
    said = [each for each in said if each.place.partition == source.partition and each.place.offset <= source.offset]
    if not any(each.place == source for each in said):
        return RewardExplanation(agrees=False, differs=f"the lake does not hold {source}, the signal that led to it")
    rules = rules_of_task(lake, "reward", "signals", source.partition, source.offset)
    last = in_force(rules, source.offset)
    if last is None:
        return RewardExplanation(agrees=False, differs="the lake does not hold the policy that was in force")
    known: dict[str, Any] = {
        "policy_digest": last.activation.digest,
        "policy_place": str(last.place),
        "rule_version": last.activation.version,
        "from_offset": last.activation.from_offset,
    }
    try:
        trace, again = _folded(said, rules, source, example.interaction_id)
    except (UnknownVersion, InvalidBody) as error:
        return RewardExplanation(agrees=False, differs=str(error), **known)
    differs = _difference(again, example)
    voices = [] if trace is None else [_voice(voice, said) for voice in trace.voices]
    return RewardExplanation(agrees=differs is None, differs=differs, trace=trace, voices=voices, **known)


def signals_of(lake: LakeQuery, interaction_id: str) -> list[RecordedEvent]:
    """All that was ever said of an interaction, in the order of the log."""
    return recorded(lake, "signals", "interaction_id = $id", {"id": interaction_id}, limit=SIGNALS)


def _folded(
    signals: Sequence[RecordedEvent], rules: Sequence[TaskPolicy], source: RecordPlace, interaction_id: str
) -> tuple[RewardTrace | None, Example | None]:
    """The trace of the reward after the signal at `source`, and the example that it wrote."""
    runner = FoldRunner(STAGE["reward"], "signals", source.partition, _COUNTS)
    active: TaskPolicy | None = None
    made: Example | None = None
    for each in signals:
        wanted = in_force(rules, each.place.offset)
        if wanted is None:
            continue
        if wanted is not active:
            body = wanted.activation
            runner.activate(body.version, body.body, body.digest)
            active = wanted
        key, headers = interaction_id.encode(), origin_without_input(each.origin)
        record = LogRecord("signals", each.place.partition, each.place.offset, each.appended_ms, key, each.value, headers)
        for produced in runner.run(record).produced:
            event = decode(produced.value) if produced.topic == "examples" and each.place == source else None
            if isinstance(event, ExampleRewarded):
                made = event.data
    fold: Any = runner.fold
    return (None if fold is None else fold.trace(runner.state, interaction_id)), made


def _difference(again: Example | None, published: Example) -> str | None:
    """What the fold says otherwise now; None when it says the same, byte for byte, but for the balance."""
    if again is None:
        return "run again over the signals that are left, the fold writes no example here"
    same = structs.replace(again, weights=Weights(balance=published.weights.balance))
    if msgspec.json.encode(same) == msgspec.json.encode(published):
        return None
    names = [name for name in published.__struct_fields__ if getattr(same, name) != getattr(published, name)]
    return f"run again over the signals that are left, the fold says another {', '.join(names) or 'text'}"


def _voice(voice: VoiceTrace, signals: Sequence[RecordedEvent]) -> VoiceRecord:
    wanted = set(voice.said)
    statements: dict[tuple[str, str], StatementRecord] = {}
    for each in signals:
        if not isinstance(each.event, FeedbackRecorded):
            continue
        data = each.event.data
        identity = each.event.source, data.feedback_id or each.event.id
        if identity in wanted and identity not in statements:
            statements[identity] = StatementRecord(
                feedback_id=identity[1],
                source=identity[0],
                place=str(each.place),
                appended_ms=each.appended_ms,
                kind=data.kind,
                score=data.score,
                scale=data.scale,
                principal=None if data.principal is None else f"{data.principal.kind}:{data.principal.id}",
                check=data.name,
                comment=data.comment,
                corrects=data.corrected_output is not None,
            )
    return VoiceRecord(voice=voice, statements=[statements[identity] for identity in voice.said if identity in statements])
