"""What every request passes: a host that is ours, a visitor that is known, no other site behind it. Knows HTTP, no page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from aiohttp import web
from aiohttp.typedefs import Middleware

from headrace_console.access import ConsoleAccess, same
from headrace_console.page import PageVisitor

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

VISITOR: web.RequestKey[PageVisitor] = web.RequestKey("visitor", PageVisitor)
FORM_TOKEN = "form_token"
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'; "
    "form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
OPEN = ("/assets/", "/session")  # what is answered to everybody: no text of the log is there
_READS = ("GET", "HEAD")


def guard(access: ConsoleAccess, hosts: Collection[str]) -> Middleware:
    """The middleware. `hosts` are names (with a port, if it is not the default) by which the console may be called."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        if (request.headers.get("Host") or "").lower() not in hosts:
            raise web.HTTPMisdirectedRequest(text="this console is not called by that name: --allow-host adds one")
        if not _ours(request):
            raise web.HTTPForbidden(text="a request from another site is not answered")
        visitor = access.visitor(request.headers, request.cookies, request.remote)
        if visitor is None and not request.path.startswith(OPEN):
            raise web.HTTPUnauthorized(text="sign in first")
        if visitor is not None:
            request[VISITOR] = visitor
        if request.method not in _READS and request.path != "/session":
            given = (await form_of(request)).get(FORM_TOKEN, "")
            if not same(given, access.form_token(request.headers, request.cookies)):
                raise web.HTTPForbidden(text="the form is of another session: load the page again")
        return await handler(request)

    return guarded


async def form_of(request: web.Request) -> dict[str, str]:
    """The texts of a form. 400 for a body that is no form of UTF-8."""
    try:
        if (request.charset or "utf-8").lower() != "utf-8":
            raise ValueError(f"its charset is {request.charset!r}, not utf-8")
        return {name: value for name, value in (await request.post()).items() if isinstance(value, str)}
    except (ValueError, LookupError, AssertionError) as error:
        raise web.HTTPBadRequest(text=f"the form can't be read: {error}") from error


def _ours(request: web.Request) -> bool:
    """Whether no other site is behind a request. A link from elsewhere may lead here (it shows the page, and does nothing)."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if request.method in _READS:
        links = request.headers.get("Sec-Fetch-Mode") == "navigate" and request.headers.get("Sec-Fetch-Dest") == "document"
        return site in (None, "same-origin", "none") or links
    if site is not None:
        return site == "same-origin"
    return origin is not None and origin.partition("://")[2].lower() == (request.headers.get("Host") or "").lower()


async def hardened(request: web.Request, response: web.StreamResponse) -> None:
    """Headers of every answer, whatever it is."""
    response.headers.update(HEADERS)
    if not request.path.startswith("/assets/"):
        response.headers.setdefault("Cache-Control", "no-store")
    response.headers.pop("Server", None)
