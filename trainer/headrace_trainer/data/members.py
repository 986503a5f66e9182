"""A member of a manifest and the record it names, verified by digest. Knows no Kafka, no tokens, not which members are used."""

from __future__ import annotations

from msgspec import structs

from headrace_schemas.canonical import sha256
from headrace_schemas.codec import DecodeError, decode
from headrace_schemas.derived import Components, Content, DrawnPrompt, Example, Member, PromptMember, Weights
from headrace_schemas.events import Event, ExampleRewarded, PromptDrawn
from headrace_schemas.root_error import HeadraceError
from headrace_streams.runtime.sealing import stored

MemberKey = tuple[str, int]  # example id and revision
RecordValues = dict[MemberKey, bytes]  # of example records


class MemberRefused(HeadraceError):
    """A record that is not the one that the manifest names."""


def key_of(member: Member | PromptMember) -> MemberKey:
    return member.example_id, member.revision


def verify(member: Member, value: bytes | None) -> Example:
    """The example of `member` out of the record read at its locator. MemberRefused unless it is that very record."""
    event, where = _event(member, value)
    if not isinstance(event, ExampleRewarded) or (event.data.example_id, event.data.revision) != key_of(member):
        raise MemberRefused(f"{where}: the record is another's")
    return event.data


def verify_prompt(member: PromptMember, value: bytes | None) -> Example:
    """What `member` asks, as an example without output and target: there is no reference, and what was answered is none.
    MemberRefused unless it is that very record."""
    event, where = _event(member, value)
    if isinstance(event, PromptDrawn) and member.drawn and (event.data.prompt_id, 1) == key_of(member):
        return _unanswered(event.data)
    if not isinstance(event, ExampleRewarded) or member.drawn or (event.data.example_id, event.data.revision) != key_of(member):
        raise MemberRefused(f"{where}: the record is another's")
    return structs.replace(event.data, content=structs.replace(event.data.content, output="", target=""))


def _unanswered(prompt: DrawnPrompt) -> Example:
    content = prompt.content
    return Example(
        example_id=prompt.prompt_id,
        revision=1,
        interaction_id=prompt.interaction_id,
        bucket=prompt.bucket,
        artifact_type=prompt.artifact_type,
        model=prompt.model,
        agent=prompt.agent,
        prompt_group=prompt.prompt_group,
        content=Content(prompt=content.prompt, output="", target="", context=content.context, tools=content.tools),
        quality=0.0,
        reward=0.0,
        components=Components(validation=0.0, feedback=0.0, difficulty=0.0, multiplier=1.0),
        weights=Weights(balance=1.0),
        contradicted=False,
        voices=0,
        event_time=prompt.event_time,
        train=False,
        adapter=prompt.adapter,
        data_subject=prompt.data_subject,
    )


def _event(member: Member | PromptMember, value: bytes | None) -> tuple[Event, str]:
    """The event of a record with the member's digest, and where it lies, for errors."""
    locator = f"{member.locator.topic}/{member.locator.partition}/{member.locator.offset}"
    where = f"member {member.example_id} revision {member.revision} at {locator}"
    if value is None:
        raise MemberRefused(f"{where}: there is no such record")
    if (actual := sha256(stored(value) or b"")) != member.sha256:
        raise MemberRefused(f"{where}: the record is {actual}, the manifest says {member.sha256}")
    try:
        return decode(value), where
    except DecodeError as error:
        raise MemberRefused(f"{where}: {error}") from error
