"""The intake stage: what others publish is validated, scrubbed and re-keyed, or becomes a dead letter. Stateless fold.

Facts go to `signals` under their interaction id (an erasure to every partition of it), whatever names or teaches a foreign id
goes to `refs` under that id. Fields that we do not know pass through, scrubbed like the rest. Handles (text_fields.py) are never
touched: joins and erasure go by them. Counters: signals, dead; and, of places that got a placeholder, scrubbed_<kind>.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from msgspec import structs

from headrace_processors.intake.claims import claim_of_refused, claims_of, owner_of
from headrace_processors.intake.policy import IntakePolicy
from headrace_processors.intake.routing import dead, misplaced, routed
from headrace_processors.intake.scrub.pattern import Pattern
from headrace_processors.intake.scrub.scrubber import (
    PATTERNS,
    PATTERNS_2,
    PATTERNS_3,
    WORK_LIMIT,
    RecordScrubber,
    Scrubber,
    Work,
    WorkExceeded,
)
from headrace_processors.intake.sessions import check_origin, check_report, session_joined, session_routed
from headrace_processors.intake.text_fields import TextField, common_texts, rename, text_fields
from headrace_schemas.codec import DecodeError, encode, encode_tree
from headrace_schemas.events import SubjectErased
from headrace_schemas.ids import derive_id
from headrace_schemas.inputs import COMMENT_LIMIT
from headrace_schemas.published import Published, decode_published
from headrace_schemas.topology import SCRUBBED
from headrace_streams.kafka.unpacking import UnreadValue
from headrace_streams.runtime.stage import Claim, Record, StatelessFold, Step

NEWEST = 5  # rule version
ERASES_ALWAYS = 5  # the first under which no erasure becomes a dead letter for what else it says
_ERASED = str(SubjectErased.__struct_config__.tag).encode()


class IntakeFold(StatelessFold):
    """`headrace_streams.runtime.stage.Fold` under one policy."""

    erases = True
    opens = False  # anybody may write its inputs, and they are plain

    def __init__(
        self,
        policy: IntakePolicy,
        work_limit: int = WORK_LIMIT,
        *,
        patterns: Sequence[Pattern] = PATTERNS,
        version: int = NEWEST,
    ) -> None:
        self._version = version
        self._sessions = policy.sessions is True
        self._sketches = policy.sketches is True and version > 4
        self._work_limit = work_limit
        self.seals = policy.seal == "subjects"
        self._scrubber = Scrubber(policy.scrub, policy.rules, _recogniser(policy), patterns=patterns)

    def step(self, state: Mapping[str, Any], record: Record) -> Step:
        published: Published | None = None
        try:
            published = decode_published(record.value, record.headers, append_time_ms=record.timestamp, sessions=self._sessions)
            strayed = misplaced(record, published.event)
            if strayed is not None:
                return self._dead(record, None, strayed)
            if self._version > 4:
                check_report(published)
                check_origin(published)
            value, counts = self._scrubbed(published)
            if published.on_session:
                writes = session_routed(published.event, value, self._version, self._sketches)
            else:
                writes = routed(published.event, value)
        except DecodeError as error:
            return self._dead(record, published, dead(record, error.code, error.field, error.message))
        counters = {"signals": 1}
        if counts:
            counters.update((SCRUBBED + kind, count) for kind, count in counts.items())
        if self.seals and (owner := owner_of(published.event, value, self._version)):
            writes[0] = writes[0]._replace(owner=owner)  # what follows from it (links, copies) has no texts
        if self._sessions and (joined := session_joined(published.event, value, self._sketches)) is not None:
            writes.append(joined)
        return Step(writes, {}, counters)

    def claims(self, record: Record) -> Sequence[Claim]:
        """Where it does not seal, what was sealed before has to be forgotten all the same."""
        if record.value is None or isinstance(record.value, UnreadValue) or not (self.seals or _ERASED in record.value):
            return ()
        try:
            published = decode_published(record.value, record.headers, append_time_ms=record.timestamp)
            if misplaced(record, published.event) is None:
                claims = claims_of(published.event, published.written(), self._version)
                return claims if self.seals else [claim for claim in claims if claim.erases]
        except DecodeError:
            pass
        if not self.seals:
            return ()
        claim = claim_of_refused(record.value, record.headers, record.timestamp * 1_000_000, self._version)
        return () if claim is None else [claim]

    def _dead(self, record: Record, published: Published | None, step: Step) -> Step:
        """A dead letter, sealed with a key that `claims` has asked for: an event's as if it was passed on, that of what is none
        where it can be read whose texts it holds."""
        if not self.seals or record.value is None:
            return step
        if published is not None:
            owner = owner_of(published.event, published.written(), self._version)
        else:
            claim = claim_of_refused(record.value, record.headers, 0, self._version)
            owner = "" if claim is None else claim.owner
        return step._replace(outputs=[write._replace(owner=owner) for write in step.outputs]) if owner else step

    def _scrubbed(self, published: Published) -> tuple[bytes, dict[str, int]]:
        """The event as it is passed on, and how many places got a placeholder, by kind. DecodeError when it costs too much; an
        erasure then says only whom it erases: its keys go in any case."""
        try:
            return self._scrubbed_within_limit(published)
        except DecodeError:
            if self._version < ERASES_ALWAYS or not isinstance(published.event, SubjectErased):
                raise
        event = structs.replace(published.event, subject=None, dataschema=None, datacontenttype=None)
        return encode(event), {}

    def _scrubbed_within_limit(self, published: Published) -> tuple[bytes, dict[str, int]]:
        if published.strict and not self._scrubber.may_find("\n".join(common_texts(published.event))):
            return published.written(), {}
        tree = published.tree()
        fields = text_fields(tree)
        if not self._scrubber.may_find("\n".join([*fields.lines(), *(name for _, name in fields.names)])):
            return encode_tree(tree), {}
        scrubber = RecordScrubber(self._scrubber, fields.texts(), Work(self._work_limit))
        for field in fields.values:
            try:
                self._clean(field, tree, scrubber)
            except WorkExceeded:
                where = _path(tree, field)
                message = f"{where}: more looks private up to here than one record may cost; publish it in smaller pieces"
                raise DecodeError("over_limit", where, message) from None
        try:
            _clean_names(fields.names, scrubber)
        except WorkExceeded:
            message = "data: more looks private in names of fields than one record may cost; publish it in smaller pieces"
            raise DecodeError("over_limit", "data", message) from None
        return encode_tree(tree), scrubber.counts

    @staticmethod
    def _clean(field: TextField, tree: dict[str, Any], scrubber: RecordScrubber) -> None:
        holder, key, value, name = field
        clean = scrubber.named(name, value) if name else scrubber.clean(value)
        if clean == value:
            return
        if holder is tree["data"]:
            if key == "comment":  # a placeholder may be longer than what it stands for, and a comment must stay a valid one
                clean = clean[:COMMENT_LIMIT]
            elif key == "session_id":  # sessions stay apart: a placeholder would make one of all in which an address stands
                clean = derive_id("session", value)
        holder[key] = clean


def _clean_names(names: list[tuple[dict[str, Any], str]], scrubber: RecordScrubber) -> None:
    changes: dict[int, tuple[dict[str, Any], dict[str, str]]] = {}
    for holder, name in names:
        clean = scrubber.clean(name)
        if clean != name:
            changes.setdefault(id(holder), (holder, {}))[1][name] = clean
    for holder, renamed in changes.values():
        rename(holder, renamed)


def _path(tree: dict[str, Any], field: TextField) -> str:
    """The dotted path of a field, which is somewhere in `tree`."""
    todo: list[tuple[str, Any]] = [("", tree)]
    while todo:
        path, node = todo.pop()
        if node is field.holder:
            return f"{path}[{field.key}]" if isinstance(node, list) else f"{path}.{field.key}".removeprefix(".")
        if isinstance(node, dict):
            todo.extend((f"{path}.{name}".removeprefix("."), item) for name, item in node.items())
        elif isinstance(node, list):
            todo.extend((f"{path}[{index}]", item) for index, item in enumerate(node))
    return "data"


def _recogniser(policy: IntakePolicy) -> Any:
    if policy.presidio is None:
        return None
    from headrace_processors.intake.scrub.presidio import recogniser

    return recogniser(policy.presidio)


def build(body: Mapping[str, Any], digest: str, version: int = NEWEST) -> IntakeFold:
    """The fold under a policy body. It names no policy in what it writes, so `digest` is not used."""
    patterns = PATTERNS_2 if version == 2 else PATTERNS_3 if version < 5 else PATTERNS
    return IntakeFold(IntakePolicy.model_validate(body), patterns=patterns, version=version)


build_2, build_3, build_4 = (partial(build, version=version) for version in (2, 3, 4))
