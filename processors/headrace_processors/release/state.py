"""State of the release stage: what was evaluated, what was served, what was revoked and answered. Data; decides nothing.

A `name=` is a field's name on the log.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field, json

from headrace_processors.release.evidence_state import EvidenceState
from headrace_schemas.derived import Adapter, Requirement
from headrace_schemas.ids import derive_id


class ServableVersion(Struct, frozen=True, omit_defaults=True):
    """What may be served: the adapter of an evaluated version, by its latest evaluation; without one, the base itself.

    `refusal`: what the rule said against it, "" for nothing; `base_digest`: of the base that it was judged on;
    `dataset_digest`: of what it learnt from and watched; None: not said."""

    adapter: Adapter | None = None
    version_id: str | None = None
    evaluation_id: str | None = None
    batch_ids: list[str] = []
    requirements: list[Requirement] = []
    policy_digests: dict[str, str] = {}
    refusal: str = ""
    base_digest: str | None = None
    dataset_digest: str | None = None

    @property
    def digest(self) -> str | None:
        return None if self.adapter is None else self.adapter.digest


class ServedRelease(Struct, frozen=True, omit_defaults=True):
    """A release that was served once. `previous`: the release that a roll-back from it leads to; None is the base."""

    release_id: str
    version: ServableVersion = field(name="candidate")
    previous: str | None = field(name="before", default=None)


class ReleaseBucket(Struct, frozen=True, omit_defaults=True):
    """`serving`: id of the release that is served; None before the first, which is the base. `oldest` and `newest`: state keys of
    the answered requests between which all are that will be forgotten; empty: none. `groups`: how many it remembers at most."""

    name: str
    sequence: int = 0
    serving: str | None = None
    paused: bool = False
    oldest: str = ""
    newest: str = ""
    groups: int = 0


class AnswerReference(Struct, frozen=True):
    """That a digest was revoked: by which answer."""

    release_id: str


class AnsweredRequest(Struct, frozen=True, omit_defaults=True):
    """That a request was answered: by which answer, and at which fold time in ms; 0 for one that is never forgotten. `later`:
    state key of the request that was answered after it."""

    release_id: str
    at_ms: int = 0
    later: str = ""


class GroupSeen(Struct, frozen=True, omit_defaults=True):
    """At which position of its bucket a prompt group was first seen; `last`: about when it was looked at for the last time, 0:
    not since."""

    position: int
    last: int = 0


def bucket_key(bucket: str) -> str:
    return f"bucket:{bucket}"


def version_key(version_id: str, bucket: str) -> str:
    return f"version:{version_id}:{bucket}"


def release_key(release_id: str, bucket: str) -> str:
    return f"release:{release_id}:{bucket}"


def revoked_key(digest: str, bucket: str) -> str:
    return f"revoked:{digest}:{bucket}"


def evidence_key(bucket: str) -> str:
    return f"evidence:{bucket}"


def seen_key(group: str, bucket: str) -> str:
    return f"seen:{group}:{bucket}"


def answered_key(bucket: str, source: str, event_id: str) -> str:
    return f"answered:{derive_id('answered', bucket, source, event_id)}"


_TYPES: dict[str, Any] = {
    "bucket": ReleaseBucket,
    "version": ServableVersion,
    "release": ServedRelease,
    "revoked": AnswerReference,
    "answered": AnsweredRequest,
    "evidence": EvidenceState,
    "seen": GroupSeen,
}


def load(key: str, value: bytes) -> Any:
    """ValueError when the key is none of release's or the value is not what belongs to it."""
    kind = _TYPES.get(key.partition(":")[0])
    if kind is None:
        raise ValueError(f"state key: {key!r} is none of release's")
    return json.decode(value, type=kind)
