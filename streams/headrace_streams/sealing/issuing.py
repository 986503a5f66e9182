"""What is written to `keys` before records are folded that need it. Pure but for the keys themselves, which are random.

A random key is no decision of a fold: it stands on the log before anything is sealed with it, and a replay reads it there.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Iterable

from headrace_schemas.derived import KeyBelonging, KeyErasure, KeyIssue, SubjectKeysErasure
from headrace_schemas.events import Event, KeyBelongs, KeyErased, KeyIssued, SubjectKeysErased, make
from headrace_schemas.ids import derive_id
from headrace_schemas.times import rfc3339
from headrace_streams.runtime.stage import Claim
from headrace_streams.sealing import cipher
from headrace_streams.sealing.keyring import FOREIGN_OWNER, Keyring

WRITER = "intake.keys"
MILLISECOND = 1_000_000  # ns


def issued(ring: Keyring, claims: Iterable[Claim], now_ms: int, new_key: Callable[[], bytes] = cipher.new_key) -> list[Event]:
    """The events that `claims` ask for, in their order: nothing for what the keyring says already."""
    written: list[Event] = []
    told: set[tuple[str, ...]] = set()  # what belongs to whom
    new: set[str] = set()  # owners of keys that are issued here

    def write(kind: type[Event], data: object, name: str) -> None:
        written.append(make(kind, data, id=name, writer=WRITER, time_ms=now_ms))

    for claim in claims:
        owner, subject, time_ns = claim.owner, claim.subject, claim.time_ns // MILLISECOND * MILLISECOND  # as it is written
        time = rfc3339(time_ns // MILLISECOND)
        if claim.erases:
            if time_ns > ring.mark(subject) or ring.owners(subject) or any(subject == known[1] for known in told):
                time = rfc3339(max(time_ns, ring.mark(subject)) // MILLISECOND)  # compaction keeps the last one only
                write(SubjectKeysErased, SubjectKeysErasure(subject=subject, time=time), derive_id("keys.erased", subject, time))
            continue
        if ring.is_erased(owner):
            continue
        if claim.makes_key and not ring.is_known(owner) and owner not in new:
            key_id = uuid.uuid4().hex
            new.add(owner)
            told.add((owner, subject))
            if subject and time_ns <= ring.mark(subject):
                write(KeyErased, KeyErasure(key_id=key_id, owner=owner, subject=subject), key_id)
                continue
            secret = base64.b64encode(new_key()).decode()
            data = KeyIssue(
                key_id=key_id, owner=owner, time=time, secret_base64=secret, subject=subject or None, under=claim.under or None
            )
            write(KeyIssued, data, key_id)
        elif subject and not ring.is_of(owner, subject) and (owner, subject) not in told:
            told.add((owner, subject))
            key_id = derive_id("key.belongs", owner, subject)
            write(KeyBelongs, KeyBelonging(key_id=key_id, owner=owner, time=time, subject=subject), key_id)
        if claim.of and (owner, claim.of, time) not in told and _is_news(ring, owner, claim.of, time_ns, owner in new):
            told.add((owner, claim.of, time))
            key_id = derive_id("key.belongs", owner, claim.of, *((time,) if owner.startswith(FOREIGN_OWNER) else ()))
            write(KeyBelongs, KeyBelonging(key_id=key_id, owner=owner, time=time, of=claim.of), key_id)
    return written


def _is_news(ring: Keyring, owner: str, of: str, time_ns: int, is_new: bool) -> bool:
    """Whether it is to be written that `owner` belongs to another. A foreign id means what the latest link says; what owned its
    texts before each feedback had a key belongs to all that were named."""
    if not owner.startswith(FOREIGN_OWNER):
        return (is_new or ring.is_known(owner)) and not ring.belongs(owner, of)
    known = ring.meaning(owner)
    return known is None or time_ns > known.time_ns or (time_ns == known.time_ns and of != known.owner)


def erasures(ring: Keyring, now_ms: int, most: int) -> list[Event]:
    """What writes over the first `most` records that still hold a key which is erased."""
    return [
        make(
            KeyErased,
            KeyErasure(key_id=left.key_id, owner=left.owner, subject=left.subject),
            id=derive_id("key.erased", left.key_id),
            writer=WRITER,
            time_ms=now_ms,
        )
        for left in ring.leftovers[:most]
    ]
