"""One step of the attribute stage: what one record does to its session. Reads no clock.

A step credits anew what is credited otherwise by now, and looks anew for what derivations see.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set
from typing import Any

import msgspec
from msgspec import structs

from headrace_processors.attribute.credit import credits_of
from headrace_processors.attribute.derivation import SessionSign
from headrace_processors.attribute.deriving import Derivations, derived
from headrace_processors.attribute.policy import AttributePolicy
from headrace_processors.attribute.state import (
    MEMBERS,
    REPORTS,
    WORDS,
    WORDS_BYTES,
    ReportContent,
    ReportRecord,
    SessionCredit,
    SessionMember,
    SessionState,
    SessionWord,
    SignRecord,
    member_key,
    session_key,
    word_key,
)
from headrace_processors.reward.texts import digest_of
from headrace_schemas.codec import encode_tree
from headrace_schemas.derived import RecordError
from headrace_schemas.events import (
    Event,
    FeedbackRecorded,
    FeedbackRetracted,
    SessionFeedbackRecorded,
    SessionFeedbackRetracted,
    SessionJoined,
    SessionLeft,
    make,
)
from headrace_schemas.ids import derive_id
from headrace_schemas.inputs import KEY_LIMIT, Attribution, Feedback, FeedbackRetraction
from headrace_schemas.json_limits import tree_of
from headrace_schemas.session_feedback import CONTENT
from headrace_schemas.times import parse_ns
from headrace_schemas.topology import DERIVED
from headrace_streams.runtime.stage import Record, Step, Write
from headrace_streams.runtime.step import dead_letter

STAGE = "attribute"
NAME = "session"  # the check that derived feedback is a voice of: it is no second thought about a word on the interaction itself
DERIVED_NAME = "derived"  # begins the check that what derivations see is a voice of

_SESSION = msgspec.json.Decoder(SessionState)
_ENCODER = msgspec.json.Encoder()
_FEEDBACK = str(FeedbackRecorded.__struct_config__.tag)


class AttributeStep:
    """One step in the making: what one record does to its session."""

    def __init__(
        self,
        policy: AttributePolicy,
        state: Mapping[str, Any],
        record: Record,
        event: Event,
        session_id: str,
        derivations: Derivations | None,
        credits: bool,
    ) -> None:
        self._derivations = derivations  # None: rule version 1, which knew of none
        self._credits = credits  # whether interactions that nobody names are credited
        self._policy, self._state, self._record, self._event, self._id = policy, state, record, event, session_id
        self._key = session_key(session_id)
        value = state.get(self._key)
        self._before = SessionState(touched=record.now) if value is None else _SESSION.decode(value)
        self._outputs: list[Write] = []
        self._changes: dict[str, Any] = {}

    def joined(self, event: SessionJoined) -> Step:
        before = self._before
        interaction_id = event.data.interaction_id
        if any(member.interaction_id == interaction_id for member in before.members):
            return Step((), {}, {"duplicate": 1})
        members = sorted((*before.members, SessionMember(_time_ns(event), interaction_id)))
        if self._derivations is not None:
            if event.data.sketch is not None:
                self._changes[member_key(self._id, interaction_id)] = _ENCODER.encode(event.data.sketch)
            for member in members[:-MEMBERS]:
                self._drop(member_key(self._id, member.interaction_id))
        return self._done(structs.replace(before, members=tuple(members[-MEMBERS:])), None)

    def left(self, event: SessionLeft) -> Step:
        """An interaction that was retracted keeps its share of what was said of the session, and is seen in nothing any more."""
        interaction_id = event.data.interaction_id
        self._drop(member_key(self._id, interaction_id))
        return self._done(self._before, None, "left", {interaction_id})

    def recorded(self, event: SessionFeedbackRecorded) -> Step:
        data, before = event.data, self._before
        digest = digest_of(_ENCODER.encode(data))
        known = before.word(event.source, data.feedback_id)
        reported = before.report(event.source, data.feedback_id)
        if reported is not None or (known is not None and known.received):
            same = digest in {each.digest for each in (known, reported) if each is not None}
            return Step((), {}, {"duplicate" if same else "conflict": 1})
        if known is None and self._derivations is not None and data.kind in self._reports():
            return self._reported(event, digest)
        if known is None and not self._credits and data.interaction_id is None:
            message = "data.interaction_id: missing: the policy credits nobody with what is said of a session"
            error = RecordError(code="missing", field="data.interaction_id", message=message)
            return Step([dead_letter(STAGE, self._record, error)], {}, {"dead": 1})
        if known is None and self._is_full():
            message = f"data.session_id: {len(before.words)} things are known that were said of session {self._id} already"
            error = RecordError(code="waiting_limit", field="data.session_id", message=message)
            return Step([dead_letter(STAGE, self._record, error)], {}, {"dead": 1})
        word = SessionWord(
            source=event.source,
            feedback_id=data.feedback_id,
            time_ns=_time_ns(event),
            digest=digest,
            about=data.interaction_id or "",
            corrects=data.corrected_output is not None,
            retracted=known is not None,
        )
        if not word.retracted:
            self._changes[self._key_of(word)] = self._record.value
        return self._done(self._with(word), word)

    def retracted(self, event: SessionFeedbackRetracted) -> Step:
        known = self._before.word(event.source, event.data.feedback_id)
        reported = self._before.report(event.source, event.data.feedback_id)
        if (known is not None and known.retracted) or (reported is not None and reported.retracted):
            return Step((), {}, {"duplicate": 1})
        if reported is not None:
            return self._unreported(reported)
        if known is None and len(self._before.words) >= WORDS:
            if any(event.data.feedback_id in record.causes for record in self._before.signs):  # a report, known no more
                return self._done(self._before, None, "retracted", {event.data.feedback_id})
            return Step((), {}, {"retracted": 1})  # of what was never taken nothing stands
        word = known or SessionWord(source=event.source, feedback_id=event.data.feedback_id)
        key = self._key_of(word)
        if key in self._state:
            self._changes[key] = None
        word = structs.replace(word, retracted=True)
        return self._done(self._with(word), word, taken_back={event.data.feedback_id})

    def _reports(self) -> set[str]:
        """Kinds of feedback that are no outcome, but a report for derivations to look at."""
        return {CONTENT, *(kind for _, derivation, _ in self._derivations or () for kind in derivation.reads)}

    def _reported(self, event: SessionFeedbackRecorded, digest: str) -> Step:
        data = event.data
        record = ReportRecord(_time_ns(event), event.source, data.feedback_id, digest)
        said = ReportContent(kind=data.kind, name=data.name or "", about=data.interaction_id or "", content=data.content_sketch)
        self._changes[self._key_of(record)] = _ENCODER.encode(said)
        reports = sorted((*self._before.reports, record))
        for oldest in reports[:-REPORTS]:
            self._drop(self._key_of(oldest))
        return self._done(structs.replace(self._before, reports=tuple(reports[-REPORTS:])), None, "reported")

    def _unreported(self, known: ReportRecord) -> Step:
        self._drop(self._key_of(known))
        reports = (structs.replace(each, retracted=True) if each == known else each for each in self._before.reports)
        return self._done(structs.replace(self._before, reports=tuple(reports)), None, "retracted", {known.feedback_id})

    def expired(self, deadline: Any) -> Step:
        """True by the fold's own time and policy, or nothing: something may have been heard since it was written."""
        value = self._state.get(self._key)
        due = None if value is None else deadline(self._key, value)
        if due is None or due > self._record.now:
            return Step((), {}, {"ticks": 1})
        said: list[SessionWord | ReportRecord] = [*self._before.words, *self._before.reports]
        words = sorted(map(self._key_of, said))
        compared = [member_key(self._id, member.interaction_id) for member in self._before.members]
        changes = dict.fromkeys((self._key, *(key for key in (*words, *compared) if key in self._state)))
        waiting = self._before.waiting
        return Step((), changes, {"ticks": 1, **({"waiting": -waiting, "expired": waiting} if waiting else {})})

    def _key_of(self, word: SessionWord | ReportRecord) -> str:
        return word_key(self._id, word.source, word.feedback_id)

    def _drop(self, key: str) -> None:
        """Takes a value away that may not be there."""
        self._changes.pop(key, None)
        if key in self._state:
            self._changes[key] = None

    def _is_full(self) -> bool:
        """Whether the record is one too many beside what was said of the session and stands."""
        words = self._before.words
        said = sum(len(self._state[key]) for key in map(self._key_of, words) if key in self._state)
        return len(words) >= WORDS or said + len(self._record.value or b"") > WORDS_BYTES

    def _with(self, word: SessionWord) -> SessionState:
        words = {known.identity: known for known in self._before.words}
        words[word.identity] = word
        return structs.replace(self._before, words=tuple(words.values()))

    def _done(
        self, after: SessionState, own: SessionWord | None, counter: str = "joined", taken_back: Set[str] = frozenset()
    ) -> Step:
        """Credits anew what is credited otherwise by now, and looks for what derivations see. `own`: the word that the record is
        about, as it was changed by it, else `counter`; `taken_back`: ids of what was retracted by it."""
        after = structs.replace(after, touched=self._record.now, words=tuple(self._credited(after, word) for word in after.words))
        counters: Counter[str] = Counter()
        if self._derivations is not None:
            after = self._seen(after, taken_back, counters)
        self._changes[self._key] = _ENCODER.encode(after)
        for word in after.words:
            known = self._before.word(word.source, word.feedback_id)
            if own is not None and own.identity == word.identity:
                counters["waiting" if word.waiting else word.effect] += 1
            if known is not None and known.waiting and not word.waiting:
                counters["waiting"] -= 1
                counters[word.effect] += 1
        if own is None:
            counters[counter] += 1
        return Step(self._outputs, self._changes, {name: by for name, by in counters.items() if by})

    def _seen(self, after: SessionState, taken_back: Set[str], counters: Counter[str]) -> SessionState:
        """With what derivations see; writes what is new, and then takes back what is no more."""
        if not self._derivations and not after.signs:
            return after

        def get(key: str) -> Any:
            return self._changes[key] if key in self._changes else self._state.get(key)

        found = derived(self._derivations or (), self._id, after, get, taken_back)
        for record, sign in found.new:
            self._outputs.append(self._derived_feedback(record, sign))
            counters[DERIVED + record.kind] += 1
        for record in found.gone:
            self._outputs.append(self._retraction(f"headrace:{STAGE}", record.feedback_id, record.interaction_id))
            counters[DERIVED + record.kind] -= 1
        return structs.replace(after, signs=found.signs, found=found.found)

    def _credited(self, session: SessionState, word: SessionWord) -> SessionWord:
        known = {member.interaction_id for member in session.members}
        if not word.retracted and any(credit.interaction_id not in known for credit in word.credits):
            return word  # the session went on beyond what is known of it: who was credited may no longer be found, and stays so
        wanted = [] if word.retracted or not word.received else credits_of(self._policy, session.members, word)
        standing = {(credit.interaction_id, credit.share): credit for credit in word.credits}
        if [(credit.interaction_id, credit.share) for credit in word.credits] == wanted:
            return word
        revision = word.revision + 1
        credits: list[SessionCredit] = []
        said: dict[str, Any] = {}
        for interaction_id, share in wanted:
            credit = standing.pop((interaction_id, share), None)
            if credit is None:
                named = self._id, word.source, word.feedback_id, interaction_id, revision
                credit = SessionCredit(interaction_id, share, derive_id("attributed", *named))
                said = said or self._said(word)
                self._outputs.append(self._derived(said, word, credit))
            credits.append(credit)
        for credit in standing.values():
            self._outputs.append(self._retraction(word.source, credit.feedback_id, credit.interaction_id))
        return structs.replace(word, revision=revision, credits=tuple(credits))

    def _said(self, word: SessionWord) -> dict[str, Any]:
        """Its event, once for all the interactions that it is credited to."""
        key = self._key_of(word)
        tree: dict[str, Any] = tree_of(self._changes.get(key) or self._state[key])
        return tree

    def _derived(self, said: Mapping[str, Any], word: SessionWord, credit: SessionCredit) -> Write:
        """What was `said`, as said of one interaction: all of it, but its corrected output of the last one only."""
        data: dict[str, Any] = {name: value for name, value in said["data"].items() if name != "session_id"}
        data["interaction_id"], data["feedback_id"] = credit.interaction_id, credit.feedback_id
        data["name"] = f"{NAME}:{data['name']}"[:KEY_LIMIT] if data.get("name") else NAME
        attribution = Attribution(session_id=self._id, feedback_id=word.feedback_id, share=credit.share)
        data["attributed_from"] = msgspec.to_builtins(attribution)
        event_id = derive_id("attributed.feedback", credit.feedback_id)
        return Write("signals", credit.interaction_id, encode_tree({**said, "type": _FEEDBACK, "id": event_id, "data": data}))

    def _retraction(self, source: str, feedback_id: str, interaction_id: str) -> Write:
        event = FeedbackRetracted(
            specversion="1.0",
            id=derive_id("attributed.retraction", feedback_id),
            source=source,
            time=self._event.time,
            traceparent=self._event.traceparent,
            data=FeedbackRetraction(feedback_id=feedback_id, interaction_id=interaction_id),
        )
        return Write("signals", interaction_id, event)

    def _derived_feedback(self, record: SignRecord, sign: SessionSign) -> Write:
        """Nobody's word: without a principal, of a time that does not depend on when it was seen."""
        source = Attribution(
            session_id=self._id,
            feedback_id=record.feedback_id,
            share=1.0,
            derived_by=record.derivation,
            causes=list(record.causes),
        )
        event = make(
            FeedbackRecorded,
            Feedback(
                feedback_id=record.feedback_id,
                interaction_id=record.interaction_id,
                kind=record.kind,
                name=f"{DERIVED_NAME}:{record.kind}",
                attributed_from=source,
            ),
            id=derive_id("attributed.feedback", record.feedback_id),
            writer=STAGE,
            time_ms=sign.time_ns // 1_000_000,
            traceparent=self._event.traceparent,
        )
        return Write("signals", record.interaction_id, event)


def _time_ns(event: Event) -> int:
    if event.time is None:
        raise ValueError("time: missing on sessions")
    return parse_ns(event.time)
