"""From what is known of a session to what its derivations see in it, and what of that is new or gone. Pure; writes no event."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, NamedTuple

import msgspec

from headrace_processors.attribute.derivation import Derivation, SessionReport, SessionSign, SessionTurn
from headrace_processors.attribute.policy import DerivationPolicy
from headrace_processors.attribute.state import (
    SIGNS,
    ReportContent,
    SessionState,
    SignRecord,
    member_key,
    word_key,
)
from headrace_schemas.derived import InteractionSketch
from headrace_schemas.ids import derive_id

Derivations = Sequence[tuple[str, Derivation, DerivationPolicy]]
_SKETCH = msgspec.json.Decoder(InteractionSketch)
_REPORT = msgspec.json.Decoder(ReportContent)


class Derived(NamedTuple):
    """What stands after a record, and of it what is `new`, with what was seen; `gone`: what stood and does not any more."""

    signs: tuple[SignRecord, ...]
    found: int
    new: Sequence[tuple[SignRecord, SessionSign]]
    gone: Sequence[SignRecord]


def derived(
    derivations: Derivations, session_id: str, session: SessionState, get: Callable[[str], Any], taken_back: Set[str]
) -> Derived:
    """`get`: of the state with the changes of this step; `taken_back`: interactions and reports that are no more since this
    record. What was seen in what is not known any more, as the session went on, stands until that is taken back."""
    turns, reports = _turns(session_id, session, get), _reports(session_id, session, get)
    wanted = _wanted(derivations, turns, reports)
    known = {turn.interaction_id for turn in turns} | {report.report_id for report in reports}

    def stays(record: SignRecord) -> bool:
        parts = {record.interaction_id, *record.causes}
        return not parts & taken_back and not parts <= known

    standing = {record.identity for record in session.signs}
    still = [record for record in session.signs if record.identity in wanted]
    unseen = [record for record in session.signs if record.identity not in wanted]
    others, gone = [record for record in unseen if stays(record)], [record for record in unseen if not stays(record)]
    seen = {(record.kind, record.interaction_id) for record in others}  # and need not be again
    new: list[tuple[SignRecord, SessionSign]] = []
    found = session.found
    for identity, sign in wanted.items():
        kind, derivation, interaction_id, _ = identity
        if identity not in standing and (kind, interaction_id) not in seen:
            found += 1
            feedback_id = derive_id("derived", session_id, kind, derivation, interaction_id, found)
            new.append((SignRecord(*identity, feedback_id), sign))
    signs = (*others, *still, *(record for record, _ in new))[-SIGNS:]  # still behind others: forgotten, it would be found anew
    return Derived(signs, found, new, gone)


Identity = tuple[str, str, str, tuple[str, ...]]


def _wanted(
    derivations: Derivations, turns: Sequence[SessionTurn], reports: Sequence[SessionReport]
) -> Mapping[Identity, SessionSign]:
    """By identity, in an order that does not depend on that of arrival; of more than SIGNS the last in time."""
    found = {
        (kind, f"{derivation.name}@{derivation.version}", sign.interaction_id, tuple(sign.causes)): sign
        for kind, derivation, row in derivations
        for sign in derivation.find(turns, reports, row)
    }
    if len(found) > SIGNS:
        found = dict(sorted(found.items(), key=lambda seen: (seen[1].time_ns, seen[0]))[-SIGNS:])
    return dict(sorted(found.items()))


def _turns(session_id: str, session: SessionState, get: Callable[[str], Any]) -> list[SessionTurn]:
    """Interactions of which there is something to compare: none of what was retracted, or came before derivations were wanted."""
    found: list[SessionTurn] = []
    for member in session.members:
        value = get(member_key(session_id, member.interaction_id))
        if value is not None:
            known = _SKETCH.decode(value)
            sketches = known.question, known.output, known.context
            found.append(SessionTurn(member.interaction_id, member.time_ns, known.agent, known.latency_ms, *sketches))
    return found


def _reports(session_id: str, session: SessionState, get: Callable[[str], Any]) -> list[SessionReport]:
    found: list[SessionReport] = []
    for record in session.reports:
        value = get(word_key(session_id, record.source, record.feedback_id))
        if value is not None:
            said = _REPORT.decode(value)
            found.append(SessionReport(record.feedback_id, record.time_ns, said.kind, said.name, said.about, said.content))
    return found
