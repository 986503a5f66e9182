"""The dialog of an action over HTTP: what will happen, a reason, and one request however often it is sent. Knows no action."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from headrace_console.action import ActionAnswer, ActionRefused, ActionRequest, ConsoleAction
from headrace_console.guard import FORM_TOKEN, VISITOR, form_of
from headrace_console.page import PageRequest
from headrace_streams.settings import Settings

REASON, CHARACTERS = "reason", 1000
REMEMBERED = 1000  # requests whose second click finds the first one's answer
_ID = re.compile(r"[0-9a-f]{32}")

Render = Callable[..., Awaitable[web.StreamResponse]]


class _OtherWords(ActionRefused):
    """A form whose request is made already asks for something else now."""


class ActionDesk:
    """Takes requests. `render(request, template, model)` makes the page, `model` made at one cut of the lake."""

    def __init__(self, settings: Settings, known: Mapping[str, ConsoleAction], render: Render) -> None:
        self._settings, self._known, self._render = settings, known, render
        self._asked: dict[str, tuple[str, asyncio.Task[ActionAnswer]]] = {}

    async def dialog(self, request: web.Request) -> web.StreamResponse:
        """GET: what will happen, and the form."""
        action, subject = self._action(request), request.query.get("subject", "")
        return await self._render(request, "action.html", functools.partial(_offer, action, subject))

    async def take(self, request: web.Request) -> web.StreamResponse:
        """POST: the request, once, and its answer."""
        action, given = self._action(request), await form_of(request)
        subject, request_id = given.get("subject", ""), given.get("request_id", "")
        if not _ID.fullmatch(request_id):
            raise web.HTTPBadRequest(text="the form's request_id is not one that this console gave out")
        effect = functools.partial(_effect, action, subject)
        return await self._render(request, "action.html", effect, then=functools.partial(self._perform, action, given, request))

    async def _perform(
        self, action: ConsoleAction, given: Mapping[str, str], request: web.Request, model: dict[str, Any]
    ) -> dict[str, Any]:
        asked = ActionRequest(
            subject=model["subject"],
            reason=" ".join(given.get(REASON, "").split())[:CHARACTERS],
            requested_by=request[VISITOR].name,
            request_id=given["request_id"],
            fields=dict(given),
            effect=model["effect"],
        )
        try:
            action.check(asked, given.get("typed", ""))
            answer = await asyncio.shield(self._once(action, asked))
        except _OtherWords as error:
            return {**model, "given": dict(given), "refused": str(error), "request_id": secrets.token_hex(16)}
        except ActionRefused as error:
            return {**model, "given": dict(given), "refused": str(error), "request_id": asked.request_id}
        return {**model, "given": dict(given), "answer": answer, "request_id": asked.request_id}

    def _once(self, action: ConsoleAction, asked: ActionRequest) -> asyncio.Task[ActionAnswer]:
        """The request that has this id, under way or answered: a second click waits for the first one's answer. _OtherWords."""
        words, (first, task) = _words(action, asked), self._asked.get(asked.request_id, ("", None))
        if task is not None and not (task.done() and (task.cancelled() or task.exception() is not None)):
            if first != words:
                raise _OtherWords(
                    "this form has been sent before, with other words, and those count: send it again if these are to count too"
                )
            if not (task.done() and task.result().pending):
                return task
        while len(self._asked) >= REMEMBERED:
            del self._asked[next(iter(self._asked))]
        task = asyncio.create_task(_apart(action, self._settings, asked))
        self._asked[asked.request_id] = words, task
        return task

    def _action(self, request: web.Request) -> ConsoleAction:
        action = self._known.get(request.match_info["action"])
        if action is None:
            raise web.HTTPNotFound(text=f"there is nothing that is called {request.match_info['action']!r}")
        visitor = request[VISITOR]
        if not visitor.may(action.right):
            raise web.HTTPForbidden(text=f"{action.title} is for the role {action.right}, which {visitor.name} has not")
        return action


def _words(action: ConsoleAction, asked: ActionRequest) -> str:
    """A digest of all that a request asks for, and of who asks."""
    fields = {name: value for name, value in asked.fields.items() if name != FORM_TOKEN}
    return hashlib.sha256(repr((action.name, asked.requested_by, sorted(fields.items()))).encode()).hexdigest()


async def _apart(action: ConsoleAction, settings: Settings, asked: ActionRequest) -> ActionAnswer:
    """In a thread with a loop of its own: it reads the log, and pages do not wait for that."""

    async def perform() -> ActionAnswer:
        return await action.perform(settings, asked)

    return await asyncio.to_thread(lambda: asyncio.run(perform()))


def _effect(action: ConsoleAction, subject: str, asked: PageRequest) -> dict[str, Any]:
    return {
        "action": action.name,
        "title": action.title,
        "kind": action.subject,
        "final": action.final,
        "reason": action.reason,
        "subject": subject,
        "effect": action.effect(asked, subject),
        "request_id": None,
        "given": {},
        "refused": None,
        "answer": None,
    }


def _offer(action: ConsoleAction, subject: str, asked: PageRequest) -> dict[str, Any]:
    return {**_effect(action, subject, asked), "request_id": secrets.token_hex(16)}
