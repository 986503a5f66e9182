"""What a line says of how to install more is what works here: a clone is on no index."""

from __future__ import annotations

import json
import shlex
from importlib import metadata
from types import SimpleNamespace

import pytest

from headrace_streams.pip_line import pip_line


@pytest.mark.parametrize(
    ("installed_from", "extra", "words"),
    [
        ({"url": "file:///home/ada/headrace", "dir_info": {"editable": True}}, "all", ["-e", "/home/ada/headrace[all]"]),
        ({"url": "file:///my%20code/headrace", "dir_info": {}}, "worker", ["/my code/headrace[worker]"]),
        ({"url": "file:///home/ada/headrace", "dir_info": {"editable": True}}, "", ["-e", "/home/ada/headrace"]),
        ({"url": "file:///tmp/headrace-0.1.0-py3-none-any.whl", "archive_info": {}}, "all", ["headrace[all]"]),
        (None, "all", ["headrace[all]"]),
        (None, "", ["headrace"]),
    ],
    ids=["a clone", "a folder", "no extra", "a wheel", "an index", "an index, no extra"],
)
def test_more_comes_from_where_this_came_from(
    monkeypatch: pytest.MonkeyPatch, installed_from: dict[str, object] | None, extra: str, words: list[str]
) -> None:
    text = None if installed_from is None else json.dumps(installed_from)
    monkeypatch.setattr(metadata, "distribution", lambda name: SimpleNamespace(read_text=lambda file: text))
    assert shlex.split(pip_line(extra)) == ["pip", "install", *words]


def test_without_an_installation_it_is_the_index(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    assert pip_line("all") == "pip install 'headrace[all]'"
