"""Who comes in: a token of this machine or a proxy's word, one host, no other site; and what nobody gets without that."""

from __future__ import annotations

import html
import json
import re
import stat
from pathlib import Path
from urllib.parse import urljoin

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from headrace_cli.main import invoke
from headrace_console import access as access_module
from headrace_console.access import AccessRefused, ProxyAccess, TokenAccess, is_loopback, secret_of, token_of
from headrace_console.key_watch import KeyWatch
from headrace_console.pages import pages
from headrace_lake.manifest import LakeFolder
from headrace_lake.text_opener import TextOpener
from headrace_schemas.root_error import USAGE
from headrace_streams.settings import Settings
from support.console import TOKEN, ServedConsole, form_of, served

SECRET = "the-proxy-knows-this-secret"
ELSEWHERE = "https://evil.example"


def test_the_token_is_made_once_for_its_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "console" / "x.token"
    token = token_of(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(token) >= 43
    assert token_of(path) == token


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [(b"short", 0o600, "5 characters"), (b"x" * 40, 0o640, "others can read it"), (b"\xff" * 40, 0o600, "can't be read")],
)
def test_a_token_file_that_others_read_or_that_holds_none_is_refused(
    tmp_path: Path, content: bytes, mode: int, words: str
) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(AccessRefused, match=words) as refused:
        secret_of(path)
    assert refused.value.exit_code == USAGE


def test_a_session_is_the_tokens_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    access = TokenAccess(TOKEN, "c", "me")
    assert access.session(TOKEN[:-1]) is None
    session = access.session(TOKEN)
    assert session is not None

    def who(cookie: str, of: TokenAccess = access) -> str | None:
        found = of.visitor({}, {"c": cookie}, None)
        return None if found is None else found.name

    assert who(session) == "me"
    assert who(session, TokenAccess(TOKEN, "c", "me")) == "me"  # after a restart too
    assert who(session, TokenAccess(TOKEN + "x", "c", "me")) is None
    later = f"{int(session.partition('.')[0]) + 1}.{session.partition('.')[2]}"
    assert [who(each) for each in ("", ".", "x", later, session + "x", session[:-1])] == [None] * 6
    now = access_module._seconds()
    monkeypatch.setattr(access_module, "_seconds", lambda: now + access_module.SESSION_SECONDS + 1)
    assert who(session) is None


def test_a_proxy_is_believed_by_its_address_and_its_secret() -> None:
    access = ProxyAccess(SECRET, ["10.1.0.0/16", "::1/128"])
    said = {"X-Headrace-Secret": SECRET, "X-Forwarded-User": "ada", "X-Forwarded-Groups": "operator, root,viewer"}
    found = access.visitor(said, {}, "10.1.2.3")
    assert found is not None
    assert (found.name, set(found.rights)) == ("ada", {"viewer", "operator"})
    assert access.visitor(said, {}, "::1") is not None
    assert access.visitor(said, {}, "10.2.0.1") is None
    assert access.visitor(said, {}, None) is None
    assert access.visitor({**said, "X-Headrace-Secret": SECRET[:-1]}, {}, "10.1.2.3") is None
    assert access.visitor({**said, "X-Forwarded-User": " "}, {}, "10.1.2.3") is None
    for name in said:  # once by the visitor, once by the proxy: whose word it is can't be known
        twice = CIMultiDictProxy(CIMultiDict([(name, "operator"), *said.items()]))
        assert access.visitor(twice, {}, "10.1.2.3") is None, name
    assert access.visitor(said, {}, "::ffff:10.1.2.3") is not None  # the same address, on a socket for both kinds
    assert access.visitor({**said, "X-Headrace-Secret": "\udcff"}, {}, "10.1.2.3") is None
    nobody = access.visitor({name: said[name] for name in ("X-Headrace-Secret", "X-Forwarded-User")}, {}, "10.1.2.3")
    assert nobody is not None
    assert nobody.rights == {"viewer"}
    for secret, networks in (("short", ["10.0.0.0/8"]), (SECRET, []), (SECRET, ["ten"])):
        with pytest.raises(AccessRefused):
            ProxyAccess(secret, networks)


def test_what_only_this_machine_reaches() -> None:
    own = ("127.0.0.1", "127.8.8.8", "::1", "localhost")
    assert [host for host in (*own, "0.0.0.0", "10.0.0.1", "example.org", "") if is_loopback(host)] == list(own)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "others could come in"),
        (["--host", "::"], "others could come in"),
        (["--proxy-network", "10.0.0.0/8"], "go together"),
        (["--host", "0.0.0.0", "--proxy-network", "10.0.0.0/8"], "go together"),
    ],
)
def test_another_address_without_a_proxy_is_refused_in_one_line(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_DATA_DIR", str(tmp_path))
    assert invoke(["console", *arguments]) == USAGE
    said = capsys.readouterr()
    assert said.out == ""
    assert words in said.err
    assert said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "path", [*sorted({page.path.partition("{")[0] for page in pages()}), "/live", "/do/pause?subject=x", "/nope"]
)
def test_nobody_sees_anything_without_a_session(site: ServedConsole, path: str) -> None:
    for cookie in (None, "headrace-test=1.x.y"):
        answer = site.ask(path, cookie=cookie)
        assert answer.status == 401
        assert "Sign in" in answer.text
        assert "i-1" not in answer.text
        assert "sql/tiny" not in answer.text


def test_the_token_becomes_a_cookie_that_scripts_and_other_sites_do_not_get(site: ServedConsole) -> None:
    wrong = site.ask("/session", form={"token": "x" * 40}, cookie=None)
    assert (wrong.status, "that is not the token" in wrong.text) == (401, True)
    assert wrong.headers["Set-Cookie"] is None
    right = site.ask("/session", form={"token": TOKEN}, cookie=None)
    assert right.status == 303
    cookie = right.headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert TOKEN not in cookie
    assert site.ask("/", cookie=cookie.partition(";")[0]).status == 200


def test_every_answer_says_what_a_browser_may_do_with_it(site: ServedConsole) -> None:
    for path, cookie in (("/", ""), ("/", None), ("/nope", ""), ("/assets/console.js", None), ("/?format=json", "")):
        headers = site.ask(path, cookie=cookie).headers
        policy = headers["Content-Security-Policy"].split("; ")
        assert policy == [
            "default-src 'self'", "object-src 'none'", "base-uri 'none'", "frame-ancestors 'none'", "form-action 'self'",
        ]  # fmt: skip
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
    assert site.ask("/").headers["Cache-Control"] == "no-store"


def test_it_answers_to_its_own_names_alone(site: ServedConsole) -> None:
    port = site.address.rpartition(":")[2]
    for host in ("evil.example", f"evil.example:{port}", f"127.0.0.1.evil.example:{port}", "127.0.0.1", ""):
        assert site.ask("/", headers={"Host": host}).status in (400, 421), host
    assert site.ask("/", headers={"Host": f"localhost:{port}"}).status == 200


def test_a_form_of_another_site_is_refused_however_it_is_sent(site: ServedConsole) -> None:
    form = {**form_of(site.ask("/do/pause?subject=sql/tiny").text), "reason": ""}
    for headers in (
        {"Origin": ELSEWHERE},
        {"Origin": "null"},
        {"Origin": site.address, "Sec-Fetch-Site": "cross-site"},
        {"Origin": site.address, "Sec-Fetch-Site": "same-site"},
        {"Origin": ELSEWHERE, "Sec-Fetch-Site": "none"},
        {"Origin": ""},
    ):
        assert site.ask("/do/pause", form=form, headers=headers).status == 403, headers
    for token in ("", "x", form["form_token"][:-1]):
        assert site.ask("/do/pause", form={**form, "form_token": token}).status == 403
    assert site.ask("/do/pause", form=form).status == 200


def test_another_site_can_link_here_and_embed_nothing(site: ServedConsole) -> None:
    away = {"Sec-Fetch-Site": "cross-site"}
    assert site.ask("/", headers={**away, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}).status == 200
    for mode, dest in (("navigate", "iframe"), ("no-cors", "script"), ("cors", "empty"), ("no-cors", "image")):
        assert site.ask("/?format=json", headers={**away, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}).status == 403


class Opening(TextOpener):
    """Of which one sees that it was at work."""

    def opened(self, value: str, odd: bytes | None = None) -> str:
        return value.replace('"code"', '"opened"')


def test_roles_are_kept(lake: LakeFolder, tmp_path: Path) -> None:
    access = ProxyAccess(SECRET, ["127.0.0.0/8"])
    asked: list[int] = []

    async def keys() -> TextOpener:
        asked.append(1)
        return Opening()

    with served(lake, Settings(data_dir=tmp_path), access, keys=KeyWatch(keys)) as console:
        viewer = {"X-Headrace-Secret": SECRET, "X-Forwarded-User": "<b>ada</b>"}
        operator = {**viewer, "X-Forwarded-Groups": "operator"}
        assert console.ask("/", cookie=None).status == 401
        seen = console.ask("/", cookie=None, headers=viewer)
        assert seen.status == 200
        assert "&lt;b&gt;ada&lt;/b&gt;" in seen.text
        assert console.ask("/do/pause?subject=sql/tiny", cookie=None, headers=viewer).status == 403
        assert console.ask("/do/pause?subject=sql/tiny", cookie=None, headers=operator).status == 200
        assert console.ask("/session", form={"token": TOKEN}, cookie=None).status == 404
        dead = json.loads(console.ask("/records/dead-letters?format=json", cookie=None, headers=viewer).text)["records"][0]
        place = f"/records/dead-letters/{dead['partition']}/{dead['log_offset']}?format=json"
        whole = {**viewer, "X-Forwarded-Groups": "privacy"}
        hidden, raw = (json.loads(console.ask(place, cookie=None, headers=who).text)["event"]["data"] for who in (viewer, whole))
        assert hidden["value_base64"] == "(raw: for the role privacy)"
        assert raw["value_base64"] != hidden["value_base64"]
        assert hidden["headers"] == hidden["value_base64"] != raw["headers"]
        assert ("code" in hidden["error"], "opened" in raw["error"]) == (True, True), "sealed texts are opened for privacy alone"
        assert asked == [1], "and keys are not asked for by every page"


def test_the_token_stands_in_no_page_and_no_header(site: ServedConsole) -> None:
    for path in ("/", "/system", "/pages", "/find?what=i-1", "/do/pause?subject=sql/tiny"):
        answer = site.ask(path)
        assert TOKEN not in answer.text + str(answer.headers)


def test_too_large_a_form_is_not_read(site: ServedConsole) -> None:
    assert site.ask("/do/pause", form={"reason": "x" * 300_000}).status == 413


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/x-www-form-urlencoded; charset=nonsense", b"token=x"),
        ("application/x-www-form-urlencoded", b"token=\xff"),
        ("application/x-www-form-urlencoded; charset=utf-7", b"token=+2AA-"),
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=a", b"--a\r\n"),
    ],
)
def test_a_form_that_can_not_be_read_is_refused_in_one_line(
    site: ServedConsole, kind: str, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    for path in ("/session", "/do/pause"):
        answer = site.ask(path, body=body, headers={"Content-Type": kind})
        assert answer.status == 400, answer.text
        assert "the form can&#39;t be read" in answer.text
    assert caplog.records == []


def test_a_header_or_a_cookie_that_is_no_text_is_nobodys(site: ServedConsole, caplog: pytest.LogCaptureFixture) -> None:
    for path, cookie in (("/", "headrace-test=1.x.\xff"), ("/assets/console.js", "headrace-test=\xff")):
        assert site.ask(path, cookie=cookie).status == (401 if path == "/" else 200)
    assert caplog.records == []


@pytest.mark.parametrize("path", ["//evil.example/x", "/%5Cevil.example/x", "/%2Fevil.example/x", "///evil.example"])
def test_the_sign_in_page_leads_to_no_other_site(site: ServedConsole, path: str) -> None:
    answer = site.ask(path, cookie=None)
    assert answer.status == 401
    links = [html.unescape(link) for link in re.findall(r'href="([^"]*)"', answer.text)]
    assert links
    assert [urljoin(f"{site.address}/session", link.replace("\\", "/")).startswith(site.address) for link in links] == [
        True
    ] * len(links)
