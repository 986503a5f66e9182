"""A member of a manifest and the record it names, verified by digest. Knows no Kafka, no tokens, not which members are used."""

from __future__ import annotations

from headrace_schemas.canonical import sha256
from headrace_schemas.codec import DecodeError, decode
from headrace_schemas.derived import Example, Member, PromptMember
from headrace_schemas.events import ExampleRewarded
from headrace_schemas.root_error import HeadraceError

MemberKey = tuple[str, int]  # example id and revision
RecordValues = dict[MemberKey, bytes]  # of example records


class MemberRefused(HeadraceError):
    """A record that is not the one that the manifest names."""


def key_of(member: Member | PromptMember) -> MemberKey:
    return member.example_id, member.revision


def verify(member: Member, value: bytes | None) -> Example:
    """The example of `member` out of the record read at its locator. MemberRefused unless it is that very record."""
    locator = f"{member.locator.topic}/{member.locator.partition}/{member.locator.offset}"
    where = f"member {member.example_id} revision {member.revision} at {locator}"
    if value is None:
        raise MemberRefused(f"{where}: there is no such record")
    if (actual := sha256(value)) != member.sha256:
        raise MemberRefused(f"{where}: the record is {actual}, the manifest says {member.sha256}")
    try:
        event = decode(value)
    except DecodeError as error:
        raise MemberRefused(f"{where}: {error}") from error
    if not isinstance(event, ExampleRewarded) or (event.data.example_id, event.data.revision) != key_of(member):
        raise MemberRefused(f"{where}: the record is another's")
    return event.data
