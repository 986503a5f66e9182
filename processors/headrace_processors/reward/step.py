"""One step of the reward stage under rule versions 2 to 5: what one record does to state, outputs and counters. Reads no clock.

State is touched as little as a record needs: a feedback decodes and writes the case, reads the content only when a revision may
follow, and no record rewrites a text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import structs

from headrace_processors.reward import events, keys
from headrace_processors.reward.drawing import DRAWN, drawing_of
from headrace_processors.reward.erasure import matching, portions
from headrace_processors.reward.feedback import PREFERENCE, FeedbackRecord, FeedbackSummary, score_of_100
from headrace_processors.reward.formula import balance_of, count_type
from headrace_processors.reward.joins import feedback_joins, interaction_joins
from headrace_processors.reward.maturity import SettleTimes, is_due, labels_of, matured, maturity_of, settled
from headrace_processors.reward.policy import RewardPolicy
from headrace_processors.reward.scoring import group_of, outcome_of, similarity_of
from headrace_processors.reward.state import (
    NOTHING,
    AttributedShare,
    ErasedSubject,
    InteractionContent,
    InteractionState,
    TypeCounts,
    sized,
    without_text,
)
from headrace_processors.reward.texts import InteractionTexts, digest_of, has_texts
from headrace_processors.reward.weighing import hearing_of, summary_of
from headrace_schemas.chat import context_text
from headrace_schemas.derived import Content
from headrace_schemas.events import (
    ErasureContinued,
    Event,
    FeedbackRecorded,
    FeedbackRetracted,
    InteractionExpired,
    InteractionRecorded,
    InteractionRetracted,
    InteractionSettled,
    SubjectErased,
)
from headrace_schemas.plain_chat import prompt_text
from headrace_schemas.text import render
from headrace_schemas.times import parse_ns
from headrace_streams.runtime.sealing import owner_of as sealed_with
from headrace_streams.runtime.stage import Record, Write

STAGE = events.STAGE
_ENCODER = msgspec.json.Encoder()
_CASE = msgspec.json.Decoder(InteractionState)
_IDS = msgspec.json.Decoder(list[str])
_CONTENT: Any = Content  # of raw texts, as they came
_TYPED_CONTENT: Any = InteractionContent  # of decoded ones, which are written in the same bytes
_UNKNOWN = InteractionState(touched=0)


class RewardStep:
    """One step in the making."""

    __slots__ = (
        "_owner",
        "_settle",
        "_stored",
        "_texts",
        "changes",
        "counters",
        "event",
        "outputs",
        "owners",
        "policy",
        "record",
        "state",
        "tallies",
        "version",
    )

    def __init__(
        self,
        policy: RewardPolicy,
        state: Mapping[str, Any],
        record: Record,
        event: Event,
        version: int,
        settle: SettleTimes,
    ) -> None:
        self.version, self._settle = version, settle
        self.policy, self.state, self.record, self.event = policy, state, record, event
        self.outputs: list[Write] = []
        self.changes: dict[str, Any] = {}
        self.counters: dict[str, int] = {}
        self.tallies: Mapping[str, int] = {}  # figures beside the counters of records
        self.owners: dict[str, str] = {}
        self._owner = sealed_with(record.topic, record.headers)
        self._stored = _UNKNOWN  # the case at hand, as it is in the state
        self._texts = InteractionTexts(state, self.changes)

    def interaction_recorded(self, event: InteractionRecorded) -> None:
        data = event.data
        interaction_id, before = self._interaction(data.interaction_id)
        if before.expired:
            return self._too_late(interaction_id)
        digest = digest_of(_ENCODER.encode(data))
        if before.recorded:
            return self._known(interaction_id, before, before.digest, digest)
        time_ns, counter = _time_ns(event), ""
        subject = "" if data.data_subject is None else keys.subject_digest(data.data_subject)
        session = data.session_id if self.version > 4 and self.policy.sessions and data.session_id is not None else ""
        after = structs.replace(before, digest=digest, subject=subject, session=session)
        erased: ErasedSubject | None = self.state.get(keys.SUBJECT + subject) if subject else None
        if erased is not None and time_ns <= erased.time_ns:
            after = after.tombstone("erased")
            self._reject(interaction_id, "erased", "subject")
        elif before.ended:
            after = after.tombstone(before.ended)
        else:
            content = _TYPED_CONTENT(
                event_time=event.time or "",
                time_ns=time_ns,
                artifact_type=data.artifact_type,
                model=data.model,
                agent=data.agent,
                prompt=data.prompt,
                output=data.output,
                prompt_chars=len(prompt_text(data.prompt) if self.version > 2 else render(data.prompt)),
                context_chars=len(context_text(data.context) if self.version > 2 else render(data.context)),
                context=NOTHING if data.context is None else data.context,
                tools=NOTHING if data.tools is None else data.tools,
                prompt_group=data.prompt_group,
                adapter=data.adapter,
                data_subject=data.data_subject,
                train=data.train is not False,
                finish_reason=data.finish_reason,
                traceparent=event.traceparent,
                session_id=data.session_id if self.version > 2 and data.prompt_group is None else None,
                sealed=self._owner is not None,
            )
            self._texts.add_content(interaction_id, content)
            if self._owner is not None:
                self.owners[keys.CONTENT + interaction_id] = self._owner
            if self.version > 2 and data.artifact_type in (self.policy.draw.artifact_types or ()):
                after, counter = self._drawn(interaction_id, after)
            if self.version > 3:
                self._tally(interaction_joins(before, time_ns))
        self._revise(interaction_id, before, after)
        if counter:
            self.counters[counter] = 1

    def _drawn(self, interaction_id: str, case: InteractionState) -> tuple[InteractionState, str]:
        """The case of an interaction that just came, from which a prompt may be drawn, and what that counts as."""
        content = self._texts.content(interaction_id)
        assert content is not None
        bucket = self._bucket_of(content)
        group = group_of(content, self.version) if content.prompt_group is None else content.prompt_group
        counter = drawing_of(self.policy.draw, bucket, group, content)
        if counter != DRAWN:
            return case, counter
        trace = self.event.traceparent
        self.outputs.append(events.prompt_drawn(self.record, interaction_id, bucket, content, group, trace))
        return structs.replace(case, drawn=bucket), counter

    def feedback_recorded(self, event: FeedbackRecorded) -> None:
        data = event.data
        feedback_id = data.feedback_id or event.id
        interaction_id, before = self._interaction(data.interaction_id)
        if before.expired:
            return self._too_late(interaction_id, feedback_id)
        if data.feedback_id is None:
            data = structs.replace(data, feedback_id=feedback_id)
        digest = digest_of(_ENCODER.encode(data))
        known = before.find_feedback(event.source, feedback_id)
        if known is not None and known.received:
            return self._known(interaction_id, before, known.digest, digest)
        retracted = known is not None
        corrected = b"" if retracted or data.corrected_output is None else _ENCODER.encode(data.corrected_output)
        preferred = bool(data.over) and data.kind == PREFERENCE
        over = _ENCODER.encode(data.over) if preferred and not retracted else b""
        feedback = FeedbackRecord(
            source=event.source,
            feedback_id=feedback_id,
            time_ns=_time_ns(event),
            digest=digest,
            kind=data.kind,
            score=score_of_100(data),
            name=data.name,
            principal=None if data.principal is None else data.principal.id,
            speaker=None if data.principal is None else data.principal.kind,
            corrected=digest_of(corrected) if corrected else None,
            over=digest_of(over) if over else None,
            under=data.under is not None,
            retracted=retracted,
        )
        if before.ended:
            feedback, corrected = without_text(feedback, before.ended), b""
        elif self.version > 3 and data.attributed_from is None:
            content = self._texts.content(interaction_id) if before.recorded else None
            self._tally(feedback_joins(before, None if content is None else feedback.time_ns - content.time_ns))
        if data.attributed_from is not None and self.version > 3:
            share = AttributedShare(event.source, feedback_id, data.attributed_from.share)
            before = structs.replace(before, attributed=(*before.attributed, share))
            if self.version > 4 and data.attributed_from.derived_by is not None:
                before = structs.replace(before, derived=(*before.derived, (event.source, feedback_id)))
        self._texts.add(interaction_id, feedback, corrected, over)
        if self._owner is not None and feedback.corrected is not None:
            self.owners[keys.correction_key(interaction_id, feedback.corrected)] = self._owner
        others = data.over or () if retracted and preferred else ()
        self._apply_feedback(interaction_id, before, sized(feedback, corrected, over), others)

    def feedback_retracted(self, event: FeedbackRetracted) -> None:
        data = event.data
        interaction_id, before = self._interaction(data.interaction_id)
        if before.expired:
            return self._too_late(interaction_id, data.feedback_id)
        known = before.find_feedback(event.source, data.feedback_id)
        others: Sequence[str] = ()
        if known is None:
            known = FeedbackRecord(source=event.source, feedback_id=data.feedback_id, time_ns=_time_ns(event))
        elif known.retracted:
            return self._refuse(interaction_id, "duplicate")
        elif known.kind == PREFERENCE and known.over is not None:
            others = self._texts.over(interaction_id, known.over)
        retracted = structs.replace(known, corrected=None, over=None, retracted=True)
        self._apply_feedback(interaction_id, before, sized(retracted), others)

    def interaction_retracted(self, event: InteractionRetracted) -> None:
        interaction_id, before = self._interaction(event.data.interaction_id)
        if before.ended:
            return self._refuse(interaction_id, "duplicate")
        if before.expired:
            return self._withdraw_expired(interaction_id, before, "retracted")
        self._revise(interaction_id, before, before.tombstone("retracted"))

    def interaction_settled(self, event: InteractionSettled) -> None:
        """It counts when it is true by the fold's own time, as an expiry does. Nothing was heard: `touched` stays."""
        interaction_id, before = self._interaction(event.data.interaction_id)
        self.counters = {"applied": 1}
        if is_due(before, self.record.now):
            self._settled(interaction_id, before)
            self.changes[keys.INTERACTION + interaction_id] = _ENCODER.encode(settled(before))

    def _settled(self, interaction_id: str, before: InteractionState) -> None:
        """Says that the label which stands is final."""
        self.outputs.append(events.settled(self.record, interaction_id, before, self.event.traceparent))
        self._tally(labels_of(before, settled(before), self.record.now))

    def interaction_expired(self, event: InteractionExpired, expiry: Callable[[bytes], int | None]) -> None:
        """It counts when it is true by the fold's own time and policy: something may have been heard since it was written."""
        interaction_id = event.data.interaction_id
        key = keys.INTERACTION + interaction_id
        value = self.state.get(key)
        due = None if value is None else expiry(value)
        self.counters = {"applied": 1}
        if value is None or due is None or due > self.record.now:
            return
        before = self._stored = _CASE.decode(value)
        for feedback in before.feedback:
            if not before.recorded and feedback.received:
                self._reject(interaction_id, "expired", "age", feedback.feedback_id, feedback.source)
        remains = before.remains()
        self._texts.keep(interaction_id, before.feedback, ())
        self._texts.drop_content(interaction_id)
        self.changes[key] = None if remains is None else _ENCODER.encode(structs.replace(remains, touched=self.record.now))
        if before.waiting:
            self.counters |= {"waiting": -before.waiting, "expired": before.waiting}
        if before.settles:  # nothing can be said of it any more
            self._settled(interaction_id, before)

    def subject_erased(self, event: SubjectErased) -> None:
        """Every interaction of the subject in this partition: rare enough to look through all of them (0.1 us a key)
        instead of keeping an index. The first portion at once; each of the others by a record of its own: no step is long."""
        subject, time_ns = keys.subject_digest(event.data.data_subject), _time_ns(event)
        before = self.state.get(keys.SUBJECT + subject)
        first, later = portions(matching(self.state, subject), self._pending(subject, before))
        number = max(before.pending, default=0) if before is not None else 0
        pending = () if before is None else before.pending
        for ids in later:
            number += 1
            pending = (*pending, number)
            self.changes[keys.portion_key(subject, number)] = _ENCODER.encode(ids)
        newest = max(time_ns, -1 if before is None else before.time_ns)
        if before != (after := ErasedSubject(newest, pending)):
            self.changes[keys.SUBJECT + subject] = after
        for interaction_id in first:
            self._erase(interaction_id, subject)
        self.counters = {"applied": 1}  # one record, however many interactions it ended; nothing of them waited

    def erasure_continued(self, event: ErasureContinued) -> None:
        subject, number = event.data.subject, event.data.portion
        mark: ErasedSubject | None = self.state.get(keys.SUBJECT + subject)
        ids = self.state.get(keys.portion_key(subject, number))
        if mark is not None and ids is not None:
            for interaction_id in _IDS.decode(ids):
                self._erase(interaction_id, subject)
            self.changes[keys.portion_key(subject, number)] = None
            left = tuple(other for other in mark.pending if other != number)
            self.changes[keys.SUBJECT + subject] = structs.replace(mark, pending=left)
        self.counters = {"applied": 1}

    def _erase(self, interaction_id: str, subject: str) -> None:
        value = self.state.get(keys.INTERACTION + interaction_id)
        if value is None:  # expired meanwhile
            return
        before = self._stored = _CASE.decode(value)
        if before.subject != subject:  # erased meanwhile, or its case says the digest elsewhere
            return
        if before.expired:
            self._withdraw_expired(interaction_id, before, "erased")
        else:
            self._revise(interaction_id, before, before.tombstone("erased"))

    def _pending(self, subject: str, mark: ErasedSubject | None) -> list[bytes]:
        """The portions of an erasure that is under way."""
        return [] if mark is None else [self.state[keys.portion_key(subject, number)] for number in mark.pending]

    def _apply_feedback(
        self, interaction_id: str, before: InteractionState, feedback: FeedbackRecord, retracted_over: Sequence[str]
    ) -> None:
        """`retracted_over`: what a preference that is taken back was over; they hear of it."""
        after, dropped = before.with_feedback(feedback)
        if dropped and after.attributed:
            after = after.with_shares_of_its_feedback()
        for oldest in dropped:
            self._reject(interaction_id, "voice_limit", "voices", oldest.feedback_id)
        if retracted_over:
            self.outputs += events.preference_retractions(self.event, interaction_id, feedback, retracted_over)
        self._revise(interaction_id, before, after, feedback)

    def _revise(
        self, interaction_id: str, before: InteractionState, after: InteractionState, added: FeedbackRecord | None = None
    ) -> None:
        """Writes the revision that `after` deserves, if any, and counts what moved from waiting to applied."""
        scored = after.digest and after.feedback and not after.ended
        summary = summary_of(self.policy, after.feedback, *hearing_of(self.policy, self.version, after)) if scored else None
        if summary is None:
            if after.outcome is not None:
                content = self._texts.content(interaction_id)
                revision = after.revision + 1
                after = structs.replace(after, revision=revision, outcome=None, standing=False, settles=0, final=False)
                trace = self.event.traceparent or (None if content is None else content.traceparent)
                self.outputs.append(events.withdrawn(self.record, interaction_id, after, trace))
        else:
            after = matured(self._settle, before, after, added, self.record.now)
            after = self._scored(interaction_id, after, summary)
            if after.revision == before.revision and is_due(before, self.record.now):
                self.outputs.append(events.settled(self.record, interaction_id, after, self.event.traceparent))
        stored = self._stored.feedback
        if stored or added is None or has_texts(added):
            self._texts.keep(interaction_id, stored if added is None else (*stored, added), after.feedback)
        if after.ended:
            self._texts.drop_content(interaction_id)
            after = self._left(interaction_id, self._prompt_withdrawn(interaction_id, after))
        if after.touched != self.record.now:
            after = structs.replace(after, touched=self.record.now)
        self.changes[keys.INTERACTION + interaction_id] = _ENCODER.encode(after)
        moved = before.waiting - after.waiting
        self.counters = {"applied": 1}
        if moved:
            self.counters = {name: count for name, count in (("applied", 1 + moved), ("waiting", -moved)) if count}
        if self.version > 3:
            self._tally(labels_of(before, after, self.record.now))

    def _left(self, interaction_id: str, after: InteractionState) -> InteractionState:
        """The session of an interaction that has ended hears of it, once."""
        if not after.session:
            return after
        self.outputs.append(events.left_session(self.record, interaction_id, after.session, self.event.traceparent))
        return structs.replace(after, session="")

    def _tally(self, counts: Mapping[str, int]) -> None:
        if not self.tallies:
            self.tallies = counts
        elif counts:
            tallies = dict(self.tallies)
            for name, count in counts.items():
                tallies[name] = tallies.get(name, 0) + count
            self.tallies = tallies

    def _prompt_withdrawn(self, interaction_id: str, after: InteractionState) -> InteractionState:
        """An interaction that has ended takes the prompt that was drawn from it along."""
        if not after.drawn or not after.ended:
            return after
        trace = self.event.traceparent
        self.outputs.append(events.prompt_withdrawn(self.record, interaction_id, after.drawn, after.ended, trace))
        return structs.replace(after, drawn="")

    def _scored(self, interaction_id: str, after: InteractionState, summary: FeedbackSummary) -> InteractionState:
        content = self._texts.content(interaction_id)
        assert content is not None  # what is recorded and not ended has it
        target, alike = content.output, None
        if summary.corrected is not None:
            target = self._texts.corrected(interaction_id, summary.corrected)
            alike = similarity_of(self.policy, self.version, after.similarity, content.output, summary.corrected, target)
        outcome = outcome_of(self.policy, content, summary, alike)
        if after.outcome is not None and outcome.says(after.outcome):
            return after if alike == after.similarity else structs.replace(after, similarity=alike)
        bucket, balance, group = (after.bucket, after.balance, after.group) if after.bucket else self._first_revision(content)
        after = structs.replace(
            after,
            touched=self.record.now,
            revision=after.revision + 1,
            outcome=outcome,
            bucket=bucket,
            balance=balance,
            group=group,
            similarity=alike,
        )
        context = None if content.context is NOTHING else content.context
        tools = None if content.tools is NOTHING else content.tools
        texts: Any = _CONTENT(prompt=content.prompt, output=content.output, target=target, context=context, tools=tools)
        trace = self.event.traceparent or content.traceparent
        self.outputs.append(
            events.rewarded(
                self.record,
                interaction_id,
                after,
                content,
                group if content.prompt_group is None else content.prompt_group,
                outcome,
                texts,
                trace,
                content.finish_reason,
                after.principals,
                maturity_of(after),
                summary.derived or None,
            )
        )
        return after

    def _first_revision(self, content: InteractionContent) -> tuple[str, float, str]:
        """What is fixed at revision 1: bucket, balance and group. The counts of artifact types take this one in."""
        counts = self.state.get(keys.TYPE_COUNTS, TypeCounts({})).by_type
        time_ns = min(content.time_ns, self.record.now * 1_000_000)  # seen from a time ahead, all other counts would be nothing
        self.changes[keys.TYPE_COUNTS] = TypeCounts(count_type(self.policy, counts, content.artifact_type, time_ns))
        balance = balance_of(self.policy, counts, content.artifact_type)
        return self._bucket_of(content), balance, group_of(content, self.version)

    def _bucket_of(self, content: InteractionContent) -> str:
        return f"{content.artifact_type}/{self.policy.base_of(content.artifact_type, content.model, content.agent.role)}"

    def _interaction(self, interaction_id: str | None) -> tuple[str, InteractionState]:
        """Its case. One that an erasure has still to come to is as good as erased."""
        if interaction_id is None:
            raise ValueError("data.interaction_id: missing on signals")
        value = self.state.get(keys.INTERACTION + interaction_id)
        case = self._stored = InteractionState(touched=self.record.now) if value is None else _CASE.decode(value)
        if case.subject and not case.expired:
            mark: ErasedSubject | None = self.state.get(keys.SUBJECT + case.subject)
            if mark is not None and mark.pending:
                quoted = _ENCODER.encode(interaction_id)
                if any(quoted in portion for portion in self._pending(case.subject, mark)):
                    return interaction_id, case.tombstone("erased")
        return interaction_id, case

    def _withdraw_expired(self, interaction_id: str, before: InteractionState, how: Literal["retracted", "erased"]) -> None:
        """Of an expired interaction there is no more than the example, if one stands."""
        after = structs.replace(before, ended=how, standing=False, touched=self.record.now)
        if how == "erased":
            after = structs.replace(after, subject="")
        if before.standing:
            after = structs.replace(after, revision=after.revision + 1)
            self.outputs.append(events.withdrawn(self.record, interaction_id, after, self.event.traceparent))
        after = self._left(interaction_id, self._prompt_withdrawn(interaction_id, after))
        self.changes[keys.INTERACTION + interaction_id] = _ENCODER.encode(after)
        self.counters = {"applied": 1}

    def _too_late(self, interaction_id: str, feedback_id: str | None = None) -> None:
        """About an interaction that expired after it had been an example, or a prompt had been drawn from it. About any other the
        stage knows nothing any more, so that it waits like what comes early, and expires in its turn."""
        self._reject(interaction_id, "expired", "age", feedback_id)
        self.counters = {"expired": 1}

    def _known(self, interaction_id: str, interaction: InteractionState, first: str, digest: str) -> None:
        """An identity that was there before: the same data is a duplicate, other data a conflict, and the first one stays."""
        if interaction.ended == "erased":
            self._reject(interaction_id, "erased", "subject")
            self.counters = {"duplicate": 1}
        else:
            self._refuse(interaction_id, "duplicate" if first == digest else "conflict")

    def _refuse(self, interaction_id: str, counter: Literal["duplicate", "conflict"]) -> None:
        self._reject(interaction_id, counter, "identity")
        self.counters = {counter: 1}

    def _reject(
        self, interaction_id: str, reason: str, rule: str, feedback_id: str | None = None, source: str | None = None
    ) -> None:
        self.outputs.append(events.rejected(self.record, self.event, interaction_id, reason, rule, feedback_id, source))


def _time_ns(event: Event) -> int:
    if event.time is None:
        raise ValueError("time: missing on signals")
    return parse_ns(event.time)
