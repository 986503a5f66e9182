"""The console over HTTP: pages from the table, their errors as pages, assets. Knows aiohttp; decides nothing, holds no state
that matters.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import importlib.resources
import logging
import mimetypes
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import msgspec
from aiohttp import web

from headrace_console.access import SESSION_SECONDS, ConsoleAccess, TokenAccess
from headrace_console.actions import actions
from headrace_console.asking import ActionDesk
from headrace_console.doctor_watch import DoctorSeen, DoctorWatch
from headrace_console.guard import FORM_TOKEN, VISITOR, Handler, form_of, guard, hardened
from headrace_console.key_watch import KeyWatch
from headrace_console.live import LiveFeed
from headrace_console.page import GROUPS, ConsolePage, PageMissing, PageRequest, PageVisitor
from headrace_console.pages import pages
from headrace_console.reading import LakeBusy, LakeReader
from headrace_console.rendering import WHOLE, environment
from headrace_console.status_watch import StatusSeen, StatusWatch
from headrace_lake.manifest import LakeError, Manifest
from headrace_lake.query import LakeQuery, QueryRefused, QueryStopped
from headrace_streams.settings import Settings

log = logging.getLogger("headrace.console")

BODY_BYTES = 256 * 1024  # of what a form may send
RETRY_SECONDS = 2
_TITLES = {
    400: "That can't be answered", 401: "Sign in", 403: "Not allowed", 404: "Not there", 405: "Not a page", 421: "Another name",
    500: "A fault of the console", 503: "Not now",
}  # fmt: skip


class ConsoleSite:
    """The application and what it reads from."""

    def __init__(
        self,
        settings: Settings,
        reader: LakeReader,
        access: ConsoleAccess,
        hosts: Collection[str],
        status: StatusWatch,
        *,
        doctor: DoctorWatch | None = None,
        feeder: Callable[[], str] = str,
        keys: KeyWatch | None = None,
    ) -> None:
        self._keys = keys
        self._settings, self._reader, self._access, self._status = settings, reader, access, status
        self._look, self._feeder = (DoctorSeen if doctor is None else doctor.look), feeder
        self._pages, known = pages(), actions()
        heads = frozenset(page.path.split("/")[1] for page in self._pages if "{" in page.path)
        self._templates = environment(heads, known.values())
        desk = ActionDesk(settings, known, self._show)
        self._assets = _assets()
        self._templates.globals |= {"assets": {name: f"/assets/{name}?{version}" for name, (_, version) in self._assets.items()}}
        self.app = web.Application(
            client_max_size=BODY_BYTES,
            middlewares=[self._errors, guard(access, {host.lower() for host in hosts})],
        )
        self.app.on_response_prepare.append(hardened)
        self.app.router.add_get("/assets/{name}", self._asset)
        live = LiveFeed(reader, status)
        self.app.on_shutdown.append(live.end)
        self.app.router.add_get("/live", live.answer)
        self.app.router.add_get("/session", self._sign_in_page)
        self.app.router.add_post("/session", self._sign_in)
        self.app.router.add_get("/do/{action}", desk.dialog)
        self.app.router.add_post("/do/{action}", desk.take)
        for page in self._pages:
            self.app.router.add_get(page.path, functools.partial(self._page, page))

    async def _page(self, page: ConsolePage, request: web.Request) -> web.StreamResponse:
        visitor = request[VISITOR]
        if not visitor.may(page.right):
            raise web.HTTPForbidden(text=f"{page.title} is for the role {page.right}; {visitor.name} has {_listed(visitor)}")
        if page.uses_status:
            await self._status.first()
        else:
            self._status.looked_at()
        return await self._show(request, page.template, page.model, page=page)

    async def _show(
        self,
        request: web.Request,
        template: str,
        read: Callable[[PageRequest], Any],
        *,
        page: ConsolePage | None = None,
        then: Callable[[Any], Awaitable[Any]] | None = None,
    ) -> web.StreamResponse:
        """What `read` finds at one cut of the lake (and what `then` makes of it), as a page or as JSON; made in a thread."""
        seen = self._status.newest

        def answer(lake: LakeQuery, manifest: Manifest) -> tuple[Any, PageRequest, dict[str, Any]]:
            asked = PageRequest(
                lake, manifest, self._settings, request[VISITOR], dict(request.match_info), _query(request), seen,
                self._look, self._reader.folder.path, self._feeder(),
            )  # fmt: skip
            model, cut = read(asked), _cut(manifest, seen)
            return (model if then is not None else self._body(request, template, model, asked, cut, page)), asked, cut

        opener = None if self._keys is None or not request[VISITOR].may("privacy") else await self._keys.opener()
        found, asked, cut = await self._reader.read(answer, request[VISITOR].name, opener)
        if then is not None:
            model = await then(found)
            found = await asyncio.to_thread(self._body, request, template, model, asked, cut, page)
        body, content_type = found
        response = web.Response(body=body, content_type=content_type, charset="utf-8")
        response.headers["Headrace-Cut"] = cut["digest"]
        return response

    def _body(
        self, request: web.Request, template: str, model: Any, asked: PageRequest, cut: dict[str, Any], page: ConsolePage | None
    ) -> tuple[bytes, str]:
        if asked.query.get("format") == "json":
            return msgspec.json.encode(model, enc_hook=str), "application/json"
        text = self._rendered(template, request, asked.visitor, page=page, model=model, asked=asked, cut=cut)
        return text.encode(errors="replace"), "text/html"

    def _rendered(self, template: str, request: web.Request, visitor: PageVisitor | None, **values: Any) -> str:
        shown = [page for page in self._pages if page.group is not None and visitor is not None and visitor.may(page.right)]
        navigation = [(group, [page for page in shown if page.group == group]) for group in GROUPS]
        common: dict[str, Any] = {
            "cut": None,
            "page": None,
            "asked": None,
            "visitor": visitor,
            "deployment": self._settings.deployment,
            "path": "/" + request.rel_url.raw_path.lstrip("/\\"),  # `//host/` would lead to another site
            "query": _query(request),
            "pages": self._pages,
            "navigation": [(group, listed) for group, listed in navigation if listed],
            WHOLE: request.query.get(WHOLE) == "1",
            FORM_TOKEN: self._access.form_token(request.headers, request.cookies),
        }
        return self._templates.get_template(template).render({**common, **values})

    @web.middleware
    async def _errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """An error as a page (or as JSON): its status, one line, and what to do."""
        headers: dict[str, str] = {}
        try:
            return await handler(request)
        except web.HTTPRedirection:
            raise
        except web.HTTPException as error:
            status, text = error.status, error.text or error.reason
            if text == f"{status}: {error.reason}":  # aiohttp's own
                text = f"there is no page {request.path}"
            headers.update({name: error.headers[name] for name in ("Retry-After", "Allow") if name in error.headers})
        except PageMissing as error:
            status, text = 404, str(error)
        except QueryRefused as error:
            status, text = 400, str(error)
        except QueryStopped as error:  # not to be tried again by itself: it would take as long
            status, text = 503, str(error)
        except (LakeBusy, LakeError) as error:
            status, text = 503, str(error)
            headers["Retry-After"] = str(RETRY_SECONDS)
        except Exception as error:
            log.exception("%s %s", request.method, request.path)
            status, text = 500, f"{type(error).__name__}: the console's log says where"
        if request.query.get("format") == "json":
            return web.json_response({"error": text, "status": status}, status=status, headers=headers)
        template = "sign_in.html" if status == 401 and self._access.sign_in else "error.html"
        visitor = request.get(VISITOR)
        body = self._rendered(
            template,
            request,
            visitor,
            status=status,
            title=_TITLES.get(status, "That did not work"),
            text=text,
            again="Retry-After" in headers,
        )
        return web.Response(text=body, content_type="text/html", status=status, headers=headers)

    async def _asset(self, request: web.Request) -> web.StreamResponse:
        found = self._assets.get(request.match_info["name"])
        if found is None:
            raise web.HTTPNotFound(text="there is no such file")
        content, version = found
        kept = "public, max-age=31536000, immutable" if request.query_string == version else "no-cache"
        content_type = mimetypes.guess_type(request.match_info["name"])[0] or "application/octet-stream"
        return web.Response(body=content, content_type=content_type, headers={"Cache-Control": kept})

    async def _sign_in_page(self, request: web.Request) -> web.StreamResponse:
        if request.get(VISITOR) is not None:
            raise web.HTTPSeeOther("/")
        raise web.HTTPUnauthorized(text="sign in first")

    async def _sign_in(self, request: web.Request) -> web.StreamResponse:
        if not isinstance(self._access, TokenAccess):
            raise web.HTTPNotFound(text="who you are is said by the proxy before this console")
        session = self._access.session((await form_of(request)).get("token", "").strip())
        if session is None:
            raise web.HTTPUnauthorized(text="that is not the token: `headrace console` prints it when it starts")
        response = web.Response(status=303, headers={"Location": "/"})
        response.set_cookie(
            self._access.cookie,
            session,
            max_age=SESSION_SECONDS,
            httponly=True,
            samesite="Strict",
            path="/",
            secure=request.secure,
        )
        return response


def _query(request: web.Request) -> dict[str, str]:
    """What stands behind `?`, the first of each name."""
    return {name: request.query.getone(name) for name in request.query}


def _listed(visitor: PageVisitor) -> str:
    return ", ".join(sorted(visitor.rights)) or "none"


def _cut(manifest: Manifest, seen: StatusSeen) -> dict[str, Any]:
    """What the header says of the cut. `behind`: offsets up to where the log ended when it was last asked, None where that is not
    known; `late`: at most so many seconds."""
    newest = max((segment.last_ms for segment in manifest.segments), default=None)
    offsets = manifest.cut
    behind = sum(max(0, end - offsets.get(place, 0)) for place, end in seen.ends.items()) if seen.ends else None
    late = max(0.0, (seen.at_ms - newest) / 1000) if behind and seen.at_ms is not None and newest is not None else None
    digest = hashlib.sha256(msgspec.json.encode(offsets)).hexdigest()[:16]
    return {"at": newest, "offsets": offsets, "digest": digest, "behind": behind, "late": late}


def _assets() -> dict[str, tuple[bytes, str]]:
    """Files that pages load: content, and a version that changes with it."""
    folder = importlib.resources.files("headrace_console") / "assets"
    found = {}
    for file in folder.iterdir():
        content = file.read_bytes()
        found[file.name] = content, hashlib.sha256(content).hexdigest()[:16]
    return found
