"""The dialog of an action over HTTP: what will happen, a reason, and one request however often it is sent. Knows no action."""

from __future__ import annotations

import asyncio
import functools
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from headrace_console.action import ActionAnswer, ActionRefused, ActionRequest, ConsoleAction
from headrace_console.guard import VISITOR
from headrace_console.page import PageRequest
from headrace_streams.settings import Settings

REASON, CHARACTERS = "reason", 1000
REMEMBERED = 1000  # requests whose second click finds the first one's answer
_ID = re.compile(r"[0-9a-f]{32}")

Render = Callable[..., Awaitable[web.StreamResponse]]


class ActionDesk:
    """Takes requests. `render(request, template, model)` makes the page, `model` made at one cut of the lake."""

    def __init__(self, settings: Settings, known: Mapping[str, ConsoleAction], render: Render) -> None:
        self._settings, self._known, self._render = settings, known, render
        self._asked: dict[str, asyncio.Task[ActionAnswer]] = {}

    async def dialog(self, request: web.Request) -> web.StreamResponse:
        """GET: what will happen, and the form."""
        action, subject = self._action(request), request.query.get("subject", "")
        return await self._render(request, "action.html", functools.partial(_offer, action, subject))

    async def take(self, request: web.Request) -> web.StreamResponse:
        """POST: the request, once, and its answer."""
        action, form = self._action(request), await request.post()
        given = {name: str(value) for name, value in form.items() if isinstance(value, str)}
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
        except ActionRefused as error:
            return {**model, "given": dict(given), "refused": str(error), "request_id": asked.request_id}
        return {**model, "given": dict(given), "answer": answer, "request_id": asked.request_id}

    def _once(self, action: ConsoleAction, asked: ActionRequest) -> asyncio.Task[ActionAnswer]:
        """The request that has this id, under way or answered: a second click waits for the first one's answer."""
        task = self._asked.get(asked.request_id)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None or task.result().pending)):
            while len(self._asked) >= REMEMBERED:
                del self._asked[next(iter(self._asked))]
            task = self._asked[asked.request_id] = asyncio.create_task(_apart(action, self._settings, asked))
        return task

    def _action(self, request: web.Request) -> ConsoleAction:
        action = self._known.get(request.match_info["action"])
        if action is None:
            raise web.HTTPNotFound(text=f"there is nothing that is called {request.match_info['action']!r}")
        visitor = request[VISITOR]
        if not visitor.may(action.right):
            raise web.HTTPForbidden(text=f"{action.title} is for the role {action.right}, which {visitor.name} has not")
        return action


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
