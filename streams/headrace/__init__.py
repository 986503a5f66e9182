"""The door: what agents import to say what they did, hear what people thought of it, and follow what to serve.

Names are loaded when they are first used, so that `import headrace` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.recorder import AsyncRecorder, Recorder, Undelivered
    from headrace.releases import AsyncRelease, AsyncReleases, Release, Releases
    from headrace.statements import Call, InvalidEvent
    from headrace_streams.outbox import OutboxError, OutboxFull
    from headrace_streams.store import AdapterRefused, StoreError

_HOMES = {
    "AdapterRefused": "headrace_streams.store",
    "AsyncRecorder": "headrace.recorder",
    "AsyncRelease": "headrace.releases",
    "AsyncReleases": "headrace.releases",
    "Call": "headrace.statements",
    "InvalidEvent": "headrace.statements",
    "OutboxError": "headrace_streams.outbox",
    "OutboxFull": "headrace_streams.outbox",
    "Recorder": "headrace.recorder",
    "Release": "headrace.releases",
    "Releases": "headrace.releases",
    "StoreError": "headrace_streams.store",
    "Undelivered": "headrace.recorder",
}

__all__ = [
    "AdapterRefused",
    "AsyncRecorder",
    "AsyncRelease",
    "AsyncReleases",
    "Call",
    "InvalidEvent",
    "OutboxError",
    "OutboxFull",
    "Recorder",
    "Release",
    "Releases",
    "StoreError",
    "Undelivered",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'headrace' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
