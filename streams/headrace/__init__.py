"""The door: what agents import to say what they did, hear what people thought of it, and follow what to serve.

Names are loaded when they are first used, so that `import headrace` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.adapters import Adapters
    from headrace.fields import (
        AgentFields,
        Call,
        CallErrorFields,
        ContextItemFields,
        ExperimentFields,
        FeedbackFields,
        InteractionFields,
        PrincipalFields,
        PromptTemplateFields,
    )
    from headrace.publishing import InvalidEvent
    from headrace.recorder import AsyncRecorder, Recorder, Undelivered
    from headrace.releases import AsyncRelease, AsyncReleases, Release, Releases
    from headrace.rendering import parse_answer, render
    from headrace_schemas.chat_template import PromptLost
    from headrace_schemas.root_error import HeadraceError
    from headrace_streams.adapter_files import AdapterRefused, StoreError
    from headrace_streams.kafka.clients import BrokerUnavailable
    from headrace_streams.outbox.outbox import OutboxError, OutboxFull
    from headrace_streams.settings import SettingsError

_HOMES = {
    "AdapterRefused": "headrace_streams.adapter_files",
    "Adapters": "headrace.adapters",
    "AgentFields": "headrace.fields",
    "AsyncRecorder": "headrace.recorder",
    "AsyncRelease": "headrace.releases",
    "AsyncReleases": "headrace.releases",
    "BrokerUnavailable": "headrace_streams.kafka.clients",
    "Call": "headrace.fields",
    "CallErrorFields": "headrace.fields",
    "ContextItemFields": "headrace.fields",
    "ExperimentFields": "headrace.fields",
    "FeedbackFields": "headrace.fields",
    "HeadraceError": "headrace_schemas.root_error",
    "InteractionFields": "headrace.fields",
    "InvalidEvent": "headrace.publishing",
    "OutboxError": "headrace_streams.outbox.outbox",
    "OutboxFull": "headrace_streams.outbox.outbox",
    "PrincipalFields": "headrace.fields",
    "PromptLost": "headrace_schemas.chat_template",
    "PromptTemplateFields": "headrace.fields",
    "Recorder": "headrace.recorder",
    "Release": "headrace.releases",
    "Releases": "headrace.releases",
    "SettingsError": "headrace_streams.settings",
    "StoreError": "headrace_streams.adapter_files",
    "Undelivered": "headrace.recorder",
    "parse_answer": "headrace.rendering",
    "render": "headrace.rendering",
}

__all__ = [
    "AdapterRefused",
    "Adapters",
    "AgentFields",
    "AsyncRecorder",
    "AsyncRelease",
    "AsyncReleases",
    "BrokerUnavailable",
    "Call",
    "CallErrorFields",
    "ContextItemFields",
    "ExperimentFields",
    "FeedbackFields",
    "HeadraceError",
    "InteractionFields",
    "InvalidEvent",
    "OutboxError",
    "OutboxFull",
    "PrincipalFields",
    "PromptLost",
    "PromptTemplateFields",
    "Recorder",
    "Release",
    "Releases",
    "SettingsError",
    "StoreError",
    "Undelivered",
    "parse_answer",
    "render",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'headrace' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
