"""Scrubbing by rule version 1: what is found, what is left alone, that nothing is found twice, and that no text makes it slow."""

from __future__ import annotations

import time

import pytest
import re2
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headrace_processors.intake.version_1.scrub import PATTERNS, FirstScrubber
from headrace_processors.intake.version_1.text_fields import text_fields

SCRUBBER = FirstScrubber()
HEX = "0123456789abcdef"
PEM = (
    "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,AB12\n\n"
    "MIIEow/+==\nab12\n-----END RSA PRIVATE KEY-----"
)

FOUND = [
    ("write to bob.smith+x@mail.foo.co.uk, please", "write to [email], please"),
    ("josé@example.org", "[email]"),
    ("AKIA" + "ABCDEFGH12345678", "[secret]"),
    ("ghp_" + "a1" * 18, "[secret]"),
    ("github_pat_" + "a1_" * 10, "[secret]"),
    ("glpat-" + "a1b2" * 5, "[secret]"),
    ("xoxb-" + "123456-abcdef", "[secret]"),
    ("use sk-proj-" + "a1B2" * 8 + ".", "use [secret]."),
    ("sk-" + HEX * 2, "[secret]"),
    ("sk_live_" + "a1B2" * 5, "[secret]"),
    ("AIza" + "a" * 35, "[secret]"),
    ("hf_" + "aB" * 17, "[secret]"),
    ("SG." + "a1" * 10 + "." + "b2" * 10, "[secret]"),
    ("dop_v1_" + HEX * 4, "[secret]"),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-_123", "[secret]"),
    ("Authorization: Bearer a1b2c3d4e5f6g7h8", "Authorization: Bearer [secret]"),
    ("Authorization: Basic dXNlcjpwYXNzd29yZDE=", "Authorization: Basic [secret]"),
    ("postgres://joe:hunter2@db:5432/x", "postgres://joe:[secret]@db:5432/x"),
    ("API_KEY=ab12cd34ef56", "API_KEY=[secret]"),
    ('{"client_secret": "ab12cd34ef56"}', '{"client_secret": "[secret]"}'),
    ("password = 'correcthorse'", "password = '[secret]'"),
    ("auth_token: tok12345678", "auth_token: [secret]"),
    ("secret:\n  password: hunter2hunter", "secret:\n  password: [secret]"),
    (f"before\n{PEM}\nafter", "before\n[secret]\nafter"),
]
LEFT = [
    "x@w.transpose()",
    "+@pytest.mark.slow",
    "git@github.com:a/b.git",
    "user@localhost",
    "token = tokenizer.encode2(text)",
    "max_tokens: 4096",
    "password = get_password()",
    "the bearer of bad news, a bearer authentication-scheme",
    "http://localhost:8080/a@b",
    "2026-11-21T10:00:00Z 192.168.0.1 550e8400-e29b-41d4-a716-446655440000",
    "sha256:" + HEX * 4,
    "task-completed-by-somebody-2026-11-21-v2",
    "def f(secret: str) -> None: ...",
    "select count(*) from orders where key = 1",
]


@pytest.mark.parametrize(("text", "clean"), FOUND)
def test_what_is_private_becomes_a_placeholder(text: str, clean: str) -> None:
    assert SCRUBBER.clean(text) == clean


@pytest.mark.parametrize("text", LEFT)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert SCRUBBER.clean(text) == text


def test_only_the_wanted_kinds() -> None:
    text = "a.b@c.org AKIAABCDEFGH12345678"
    assert FirstScrubber(["email"]).clean(text) == "[email] AKIAABCDEFGH12345678"
    assert FirstScrubber(["secret"]).clean(text) == "a.b@c.org [secret]"
    assert FirstScrubber([]).clean(text) == text


PIECES = st.sampled_from(
    [*(text for text, _ in FOUND), *LEFT, "[email]", "[secret]", "@", ":", "=", "key", "token", " ", "a1b2c3d4"]
)
TEXTS = st.lists(PIECES | st.text(max_size=8), max_size=6).map("".join)


@settings(max_examples=300)
@given(TEXTS)
@example("token=[secret]ab12cd34@x.org")
@example("AKIAABCDEFGH12345678" * 2)
@example("AKIAABCDEFGH12345678ghp_" + "a1" * 18)
@example("a@b.cdAKIA1234567890123456")
def test_scrubbing_twice_is_scrubbing_once(text: str) -> None:
    once = SCRUBBER.clean(text)
    assert SCRUBBER.clean(once) == once


@settings(max_examples=300)
@given(TEXTS)
def test_the_necessary_condition_misses_nothing_that_the_exact_pattern_finds(text: str) -> None:
    for pattern in PATTERNS:
        if re2.search(pattern.exact, text):
            assert re2.search(pattern.necessary, text), (pattern, text)


@pytest.mark.parametrize(
    "piece",
    ["tokentoken", "token=", "a@", "a@b.", "a@b.cd ", "://a:", ":", "eyJ", "bearer ", "a1", "-----BEGIN PRIVATE KEY-----"],
)
def test_time_is_linear_on_texts_made_to_be_slow(piece: str) -> None:
    text = (piece * 100_000)[:100_000]
    begin = time.process_time()
    SCRUBBER.clean(text)
    assert time.process_time() - begin < 1


def test_texts_are_everything_but_handles() -> None:
    secret = "x@y.org"
    message = {
        "role": secret,
        "content": "t1",
        "tool_calls": [{"id": secret, "name": secret, "arguments": {"name": "t2"}}],
        "new": "t3",
    }
    parts = {"role": "user", "content": [{"type": "text", "text": "t4"}, {"type": "ref", "media_type": secret, "uri": "t5"}]}
    data = {
        "interaction_id": secret,
        "agent": {"name": secret, "motto": "t6"},
        "prompt": [message, parts],
        "output": "t7",
        "context": [{"id": secret, "content": "t8"}],
        "tools": [{"name": secret, "description": "t9", "parameters": {"id": {"name": "t10"}}}],
        "refs": [{"system": secret, "id": secret}],
        "data_subject": secret,
        "attributes": {"id": "t11", "name": "t12"},
        "principal": {"id": secret},
        "over": [secret],
        "mystery": ["t13", {"id": "t14"}],
    }
    fields = text_fields({"id": secret, "source": secret, "extension": "t15", "data": data})
    assert sorted(int(field.text[1:]) for field in fields) == list(range(1, 16))
