"""What somebody may ask for on the console: an event with a reason and a name, and the answer to it. Knows no HTTP, no page.

The console has no power but this: each action publishes what a command would, and says what came of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct

from headrace_console.page import PageRequest, Right
from headrace_schemas.root_error import USAGE, HeadraceError
from headrace_streams.settings import Settings


class ActionRefused(HeadraceError):
    """What was asked for is not asked of anybody: no reason, another name typed, a field that can't be. One line."""

    exit_code = USAGE


class ActionField(Struct, frozen=True):
    """Something more that the form asks for. `long`: a text of several lines; `choices`: one of these."""

    name: str
    label: str
    value: str = ""
    long: bool = False
    required: bool = False
    choices: Sequence[str] = ()


class ActionEffect(Struct, frozen=True, kw_only=True):
    """What will happen, before it does. `lines`: sentences with figures; `bucket` where the request goes, if it goes to one;
    `fields`: what more is asked for."""

    lines: Sequence[str]
    bucket: str | None = None
    fields: Sequence[ActionField] = ()


class ActionRequest(Struct, frozen=True, kw_only=True):
    """What somebody has sent: about `subject`, because of `reason`, as `requested_by`. `request_id` is the event's id: the same
    one twice is one request."""

    subject: str
    reason: str
    requested_by: str
    request_id: str
    fields: dict[str, str]
    effect: ActionEffect


class ActionAnswer(Struct, frozen=True, kw_only=True):
    """What came of it. `well`: it was done; `pending`: nobody has answered yet, and the request stands; `refers`: (kind, id) of
    what to look at; `next`: the page to go on with."""

    well: bool
    text: str
    pending: bool = False
    refers: Sequence[tuple[str, str]] = ()
    next: str | None = None


class ConsoleAction(Struct, frozen=True, kw_only=True):
    """Something that can be asked for. `subject` says of what kind its subject is ("version"); `effect` looks at the lake and
    raises PageMissing for a subject that is not there; `perform` publishes and waits. `final`: it can't be undone, so the
    subject's name has to be typed."""

    name: str
    title: str
    subject: str
    right: Right
    effect: Callable[[PageRequest, str], ActionEffect]
    perform: Callable[[Settings, ActionRequest], Awaitable[ActionAnswer]]
    final: bool = False
    reason: str = "Reason, kept in the log"  # as the form asks for it; "" where there is no place for one

    def check(self, request: ActionRequest, typed: str) -> None:
        """ActionRefused for a request that lacks what it needs."""
        if self.reason and not request.reason:
            raise ActionRefused("a reason is asked for: it stands in the log beside the request")
        if self.final and typed != request.subject:
            raise ActionRefused(f"it can't be undone: type {request.subject!r} to confirm, not {typed!r}")
        for field in request.effect.fields:
            given = request.fields.get(field.name, "")
            if field.required and not given.strip():
                raise ActionRefused(f"{field.label}: it is asked for")
            if field.choices and given not in field.choices:
                raise ActionRefused(f"{field.label} {given!r}: it is one of {', '.join(field.choices)}")
