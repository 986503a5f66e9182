"""Who is silent, as the log tells it: raised, ended and muted, by their events. For commands, console, `status` and the observer.

Knows the topic `assessments`; who is missed the worker's observer says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import aclosing
from typing import Any

import msgspec
from msgspec import Struct

from headrace_schemas.codec import decode, encode
from headrace_schemas.derived import Silence, SilenceKind, SilenceMute
from headrace_schemas.events import Event, SilenceEnded, SilenceMuted, SilenceRaised
from headrace_schemas.times import parse_ns
from headrace_streams.kafka.publisher import publish, requested
from headrace_streams.kafka.reader import Reader
from headrace_streams.settings import Settings

TOPIC = "assessments"
KINDS: tuple[SilenceKind, ...] = SilenceKind.__args__  # type: ignore[attr-defined]
SilenceKey = tuple[str, str]  # kind and subject


class OpenSilence(Struct, frozen=True, kw_only=True):
    """A silence that is not over. `raised`: when it was said; `mute`: the newest word of somebody who knows of it."""

    silence: Silence
    raised: str
    mute: SilenceMute | None = None

    def is_muted(self, now_ms: int) -> bool:
        """Whether nobody wants to be told now."""
        return self.mute is not None and _ms(self.mute.until) > now_ms


class SilenceBook:
    """Silences from their events in the order of the log; of one silence all stand in one partition."""

    def __init__(self) -> None:
        self._raised: dict[SilenceKey, tuple[Silence, str]] = {}
        self._mutes: dict[SilenceKey, SilenceMute] = {}

    def take(self, event: Event | None) -> None:
        match event:
            case SilenceRaised(data=silence):
                self._raised[silence.kind, silence.subject] = silence, event.time or ""
            case SilenceEnded(data=ended):
                self._raised.pop((ended.kind, ended.subject), None)
            case SilenceMuted(data=mute):
                self._mutes[mute.kind, mute.subject] = mute

    def __contains__(self, key: object) -> bool:
        return key in self._raised

    def __iter__(self) -> Iterator[OpenSilence]:
        """Those that are not over, the longest first."""
        found = [
            OpenSilence(silence=silence, raised=raised, mute=self._mutes.get(key))
            for key, (silence, raised) in self._raised.items()
        ]
        return iter(sorted(found, key=lambda each: (_ms(each.silence.since), each.silence.kind, each.silence.subject)))


async def read_silences(reader: Reader) -> SilenceBook:
    """All that the topic says, which is kept 90 days. A deployment of before the topic has none."""
    book = SilenceBook()
    async with aclosing(reader.events(TOPIC, containing=b'"headrace.silence.')) as events:
        async for event in events:
            book.take(event)
    return book


def counts(book: Iterable[OpenSilence], now_ms: int) -> dict[str, int]:
    """How many of each kind somebody should look at: those that are not muted."""
    found: dict[str, int] = dict.fromkeys(KINDS, 0)
    for each in book:
        if not each.is_muted(now_ms):
            found[each.silence.kind] += 1
    return found


def described(each: OpenSilence, now_ms: int) -> dict[str, Any]:
    """A silence as data for people and programs."""
    mute = None if each.mute is None else msgspec.to_builtins(each.mute)
    return {**msgspec.to_builtins(each.silence), "raised": each.raised, "muted": each.is_muted(now_ms), "mute": mute}


async def mute(
    settings: Settings, kind: SilenceKind, subject: str, until: str, reason: str, requested_by: str | None, id: str | None = None
) -> SilenceMuted:
    """Says that somebody knows of a silence, and until when nobody wants to be told. DecodeError for what can't be."""
    data = SilenceMute(kind=kind, subject=subject, until=until, reason=reason, requested_by=requested_by)
    event = requested(SilenceMuted, data, id)
    decode(encode(event))
    await publish(settings, event)
    return event


def _ms(text: str) -> int:
    try:
        return parse_ns(text) // 1_000_000
    except (ValueError, OverflowError):
        return 0
