"""State of the reward stage from version 1 to 2: texts out of the case. Knows both forms, in the bytes of a changelog.

Version 1 had no time of the last record about an interaction: the newest event time that its case holds stands in for it. Where
an overflow left a number as null (version 1 wrote those), the outcome is one that the next statement replaces.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from headrace_processors.reward import keys
from headrace_processors.reward.feedback import PREFERENCE, FeedbackRecord
from headrace_processors.reward.state import ERASED, NOTHING, InteractionContent, InteractionState, RewardOutcome, sized

_ENCODER = msgspec.json.Encoder()
_NS_PER_MS = 1_000_000


class _Texts(msgspec.Struct):
    prompt: Raw
    output: Raw
    context: Raw = NOTHING
    tools: Raw = NOTHING


class _Feedback(msgspec.Struct):
    source: str
    feedback_id: str
    time_ns: int
    digest: str = ""
    kind: str = ""
    score: float | None = None
    name: str | None = None
    principal: str | None = None
    corrected: Raw = NOTHING
    over: Raw = NOTHING
    under: bool = False
    retracted: bool = False


class _Case(msgspec.Struct):
    facts: Raw = NOTHING
    statements: tuple[_Feedback, ...] = ()
    ended: str = ""
    revision: int = 0
    outcome: dict[str, Any] | None = None
    bucket: str = ""
    balance: float = 1.0


class _Facts(msgspec.Struct):
    digest: str
    time_ns: int
    prompt_group: str
    original: _Texts | None = None
    data_subject: str | None = None


_CASE = msgspec.json.Decoder(_Case)
_FACTS = msgspec.json.Decoder(_Facts)
_PIECES = msgspec.json.Decoder(dict[str, Raw])


def upcast(state: Mapping[str, bytes]) -> dict[str, bytes]:
    """A changelog of state version 1 as one of version 2."""
    found: dict[str, bytes] = {}
    for key, value in state.items():
        if key.startswith(keys.INTERACTION):
            found |= _interaction(key.removeprefix(keys.INTERACTION), _CASE.decode(value))
        else:
            found[key] = value
    return found


def _interaction(interaction_id: str, case: _Case) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    facts = None if case.facts is NOTHING else _FACTS.decode(case.facts)
    feedback = []
    for said in case.statements:
        corrected, over = bytes(said.corrected), bytes(said.over)
        record = FeedbackRecord(
            source=said.source,
            feedback_id=said.feedback_id,
            time_ns=said.time_ns,
            digest=said.digest,
            kind=said.kind,
            score=said.score,
            name=said.name,
            principal=said.principal,
            corrected=_digest(corrected) if corrected else None,
            over=_digest(over) if over and said.kind == PREFERENCE and not said.retracted else None,
            under=said.under,
            retracted=said.retracted,
        )
        if record.corrected is not None:
            found[keys.correction_key(interaction_id, record.corrected)] = corrected
        if record.over is not None:
            found[keys.over_key(interaction_id, record.over)] = over
        else:
            over = b""
        feedback.append(sized(record, corrected, over))
    times = [said.time_ns for said in case.statements] + ([] if facts is None else [facts.time_ns])
    fields: dict[str, Any] = {}
    if facts is not None:
        fields["digest"] = facts.digest or ERASED
        if facts.data_subject is not None:
            fields["subject"] = keys.subject_digest(facts.data_subject)
        if facts.original is not None:
            found[keys.CONTENT + interaction_id] = _content(case.facts, facts.original)
    after = InteractionState(
        touched=max(times, default=0) // _NS_PER_MS,
        feedback=tuple(feedback),
        ended=case.ended,  # type: ignore[arg-type]
        revision=case.revision,
        outcome=None if case.outcome is None else _outcome(case.outcome),
        bucket=case.bucket,
        balance=case.balance,
        **fields,
    )
    return {keys.INTERACTION + interaction_id: _ENCODER.encode(after), **found}


def _content(facts: Raw, texts: _Texts) -> bytes:
    """The prompt group stands as if its publisher had given it: what it was derived from is the same."""
    pieces: dict[str, Any] = _PIECES.decode(facts)
    for name in ("digest", "original"):
        del pieces[name]
    pieces |= {"prompt": texts.prompt, "output": texts.output}
    pieces |= {name: value for name, value in (("context", texts.context), ("tools", texts.tools)) if value is not NOTHING}
    return _ENCODER.encode(msgspec.json.decode(_ENCODER.encode(pieces), type=InteractionContent))


def _outcome(outcome: dict[str, Any]) -> RewardOutcome:
    numbers = {**outcome, **outcome.get("components", {})}

    def number(name: str) -> float:
        return numbers.get(name) or 0.0

    return RewardOutcome(
        quality=number("quality"),
        reward=number("reward"),
        validation=number("validation"),
        feedback=number("feedback"),
        difficulty=number("difficulty"),
        multiplier=number("multiplier"),
        correction=numbers.get("correction"),
        score=numbers.get("score"),
        contradicted=numbers["contradicted"],
        voices=numbers["voices"],
        target=numbers.get("target", ""),
    )


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
