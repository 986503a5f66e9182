"""Why an example was not taken: the rule, the figure that broke it beside its bound, and the twin of a duplicate. Knows curate's
own filters and runs them again; decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from headrace_lake.lineage import RecordPlace
from headrace_lake.query import LakeQuery
from headrace_lake.read_models.recorded import RecordedEvent, TaskPolicy, in_force, recorded, recorded_at
from headrace_lake.read_models.text_diff import DiffPart, word_diff
from headrace_lake.views import event
from headrace_processors.curate import near_duplicates
from headrace_processors.curate.appraisal import Appraisal, appraise
from headrace_processors.curate.policy import CuratePolicy
from headrace_processors.curate.texts import ExampleTexts, texts_of
from headrace_schemas.derived import Example, ExampleRejection
from headrace_schemas.events import ExampleRejected, ExampleRewarded
from headrace_schemas.text import normalise

TWINS = 2_000  # revisions of the bucket, the newest before it, among which a twin is looked for
TWIN_REASONS = ("duplicate", "near_duplicate", "target_learnt", "overflow")


class RejectionTwin(Struct, frozen=True, kw_only=True):
    """The example that was there, or is worth more. `similarity` as curate measures it, 1 for the same content."""

    example_id: str
    revision: int
    place: str
    reward: float
    similarity: float | None
    prompt: list[DiffPart]
    target: list[DiffPart]


class RejectionReason(Struct, frozen=True, kw_only=True):
    """One rejection. `figure` names what was measured; `value` and `bound` are None where the rule has no figure."""

    reason: str
    rule: str
    place: str
    appended_ms: int
    revision: int
    figure: str | None = None
    value: float | str | None = None
    bound: float | str | None = None
    policy_key: str | None = None
    twin: RejectionTwin | None = None
    note: str | None = None


def rejection_reason(
    lake: LakeQuery,
    rejected: RecordedEvent,
    example: RecordedEvent | None,
    rules_of: Callable[[int], Sequence[TaskPolicy]],
    *,
    twins: bool = True,
) -> RejectionReason:
    """Of a rejection on the log; `example`: the revision that it is about, where the lake has it; `rules_of`: curate's over a
    partition. `twins`: what put it out is looked for, too."""
    assert isinstance(rejected.event, ExampleRejected)
    said = rejected.event.data
    known: dict[str, Any] = {
        "reason": said.reason,
        "rule": said.rule,
        "place": str(rejected.place),
        "appended_ms": rejected.appended_ms,
        "revision": said.revision,
    }
    source = rejected.source
    if example is None or not isinstance(example.event, ExampleRewarded) or source is None:
        return RejectionReason(**known, note="the lake does not hold the revision that it is about")
    rules = in_force(rules_of(source.partition), source.offset)
    if rules is None:
        return RejectionReason(**known, note="the lake does not hold the policy that was in force")
    policy = rules.policy
    assert isinstance(policy, CuratePolicy)
    version = rules.activation.version
    figure, value, bound, key = _figure(said, example.event.data, policy, version)
    twin, note = None, None
    if said.reason in TWIN_REASONS and not twins:
        note = "a twin is looked for in the newest rejections alone"
    elif said.reason in TWIN_REASONS:
        twin = _twin(lake, said, example, source, policy, version)
        if twin is None and said.reason != "overflow":
            note = f"its twin is not among the {TWINS} revisions of the bucket before it"
        if twin is not None and said.reason == "near_duplicate":
            value = twin.similarity
    return RejectionReason(**known, figure=figure, value=value, bound=bound, policy_key=key, twin=twin, note=note)


_Figure = tuple[str | None, float | str | None, float | str | None, str | None]


def _figure(said: ExampleRejection, example: Example, policy: CuratePolicy, version: int) -> _Figure:
    """(what was measured, how much, the bound, the key of the policy)."""
    texts = texts_of(version, example.content)
    asked = texts.prompt if texts.question is None else texts.question
    longest = policy.longest_chars
    match said.reason:
        case "low_score":
            return "score", example.score, policy.train_above, "train_above"
        case "no_reward":
            return "reward", example.reward, 0.0, None
        case "question_too_long":
            return "characters of the question", len(asked), longest, "longest_chars"
        case "answer_too_long":
            return "characters of the answer", len(texts.target), None if longest is None else 2 * longest, "longest_chars"
        case "generic":
            return "characters of the target", len(texts.target.strip()), policy.generic_chars, "generic_chars"
        case "echo":
            return "similarity to what was asked", _echo(texts), policy.echo, "echo"
        case "truncated":
            return "finish reason", example.finish_reason, ", ".join(policy.truncated), "truncated"
        case "contradicted":
            return "voices", example.voices, None, "contradictions"
        case "near_duplicate":
            return "similarity", None, policy.near_duplicate, "near_duplicate"
        case "target_learnt":
            return "characters of the target", len(normalise(texts.target)), policy.one_side_chars, "one_side_chars"
        case "overflow":
            return "|reward|", abs(example.reward), policy.open_limit, "open_limit"
        case "too_many_buckets":
            return None, None, policy.max_buckets, "max_buckets"
        case "stale_revision":
            return "revision", said.revision, None, None
    return None, None, None, None


def _echo(texts: ExampleTexts) -> float | None:
    said = near_duplicates.sketch(normalise(texts.target).casefold())
    alike = [
        near_duplicates.similarity(near_duplicates.sketch(normalise(text).casefold()), said)
        for text in (texts.prompt, texts.question)
        if text is not None
    ]
    return round(max(alike), 3) if alike else None


def _twin(
    lake: LakeQuery, said: ExampleRejection, example: RecordedEvent, source: RecordPlace, policy: CuratePolicy, version: int
) -> RejectionTwin | None:
    """The record that put it out, where that is another one; else the most alike that was there before it."""
    if source != example.place:
        other = next(iter(recorded_at(lake, "examples", [source])), None)
        if other is None or not isinstance(other.event, ExampleRewarded):
            return None
        ours, theirs = _appraised([example, other], policy, version)
        return _made(example, other, _similarity(ours, theirs), version)
    if said.reason not in ("duplicate", "near_duplicate"):
        return None
    before = recorded(
        lake,
        "examples",
        f"{event('example.rewarded')} AND bucket = $bucket AND partition = $partition AND log_offset < $offset",
        {"bucket": said.bucket, "partition": source.partition, "offset": source.offset},
        limit=TWINS,
        newest=True,
    )
    newest = {each.event.data.example_id: each for each in before if isinstance(each.event, ExampleRewarded)}
    newest.pop(said.example_id, None)
    others = list(newest.values())
    looked_at = _appraised([example, *others], policy, version)
    alike = [(_similarity(looked_at[0], appraised) or 0.0, number) for number, appraised in enumerate(looked_at[1:])]
    least = 1.0 if said.reason == "duplicate" else policy.near_duplicate or 1.0
    best, number = max(alike, default=(0.0, 0))
    return None if best < least else _made(example, others[number], best, version)


def _appraised(records: Sequence[RecordedEvent], policy: CuratePolicy, version: int) -> list[Appraisal]:
    given = [(each.event.data, each.value) for each in records if isinstance(each.event, ExampleRewarded)]
    return appraise(policy, version, given)


def _similarity(one: Appraisal, other: Appraisal) -> float | None:
    """1 for the same content, else of the sketches, where both have one."""
    if one.content[:16] == other.content[:16]:
        return 1.0
    if not one.sketch or not other.sketch:
        return None
    return round(near_duplicates.similarity(one.sketch, other.sketch), 4)


def _made(example: RecordedEvent, other: RecordedEvent, similarity: float | None, version: int) -> RejectionTwin:
    assert isinstance(example.event, ExampleRewarded)
    assert isinstance(other.event, ExampleRewarded)
    ours, theirs = (texts_of(version, each.content) for each in (example.event.data, other.event.data))
    twin = other.event.data
    return RejectionTwin(
        example_id=twin.example_id,
        revision=twin.revision,
        place=str(other.place),
        reward=twin.reward,
        similarity=similarity,
        prompt=word_diff(theirs.prompt, ours.prompt),
        target=word_diff(theirs.target, ours.target),
    )
