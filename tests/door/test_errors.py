"""One root for every error of ours: what an agent can catch, and which exit code each means."""

from __future__ import annotations

import importlib
import inspect
import pickle
import pkgutil
from collections.abc import Iterator

import pytest

import headrace
from headrace_cli.common import CliError, fail
from headrace_schemas.root_error import HeadraceError

PACKAGES = (
    "headrace_schemas",
    "headrace",
    "headrace_streams",
    "headrace_cli",
    "headrace_processors",
    "headrace_lake",
    "headrace_trainer",
    "headrace_demo",
)
# Exceptions that are none of the root's: nobody outside the module can meet them.
PRIVATE = {"headrace_streams.runtime.fold_runner._Otherwise": "a way out of a loop"}


def defined_errors() -> Iterator[type[BaseException]]:
    """Every exception class that a module of ours defines."""
    for package in PACKAGES:
        root = importlib.import_module(package)
        for found in pkgutil.walk_packages(root.__path__, f"{package}."):
            if found.name.endswith("__main__"):
                continue
            module = importlib.import_module(found.name)
            for kind in vars(module).values():
                if inspect.isclass(kind) and issubclass(kind, BaseException) and kind.__module__ == module.__name__:
                    yield kind


def test_every_error_of_ours_derives_from_the_root() -> None:
    kinds = {f"{kind.__module__}.{kind.__name__}": kind for kind in defined_errors()}
    assert len(kinds) > 20
    strangers = {name for name, kind in kinds.items() if not issubclass(kind, HeadraceError)}
    assert strangers == set(PRIVATE)


def test_every_error_means_an_exit_code_that_the_command_promises() -> None:
    for kind in defined_errors():
        if issubclass(kind, HeadraceError):
            assert kind.exit_code in (1, 2, 3, 4, 130), kind


@pytest.mark.parametrize(
    ("name", "builtin", "code"),
    [
        ("InvalidEvent", ValueError, 2),
        ("SettingsError", ValueError, 2),
        ("BrokerUnavailable", ConnectionError, 3),
        ("StoreError", Exception, 3),
        ("AdapterRefused", headrace.StoreError, 4),
        ("OutboxError", Exception, 4),
        ("OutboxFull", headrace.OutboxError, 4),
        ("Undelivered", Exception, 4),
    ],
)
def test_an_agent_catches_all_of_the_door_by_one_name(name: str, builtin: type[Exception], code: int) -> None:
    kind = getattr(headrace, name)
    error = kind("bad_value", None, "why") if name == "InvalidEvent" else kind("why")
    assert isinstance(error, headrace.HeadraceError)
    assert isinstance(error, builtin)
    assert fail(error) == (code, "why")


def test_an_error_that_says_nothing_is_called_by_its_kind() -> None:
    assert fail(headrace.OutboxFull()) == (4, "OutboxFull")


def test_a_command_ends_with_the_code_that_it_chose() -> None:
    assert fail(CliError(1, "no")) == (1, "no")
    assert CliError.exit_code == 4


def test_an_error_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(headrace.InvalidEvent("bad_value", "data.x", "why")))
    assert (error.code, error.field, error.message) == ("bad_value", "data.x", "why")
