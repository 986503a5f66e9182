"""What every policy is: frozen, named by the digest of its JSON form, read from one TOML file. Knows no stage's keys.

A policy's JSON form is its *body*: what `RulesActivated` carries. On the log a policy is named by the digest of its body as it
was recorded, which today's model need not have.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from headrace_schemas.canonical import digest
from headrace_streams.settings import SettingsError, first_fault


class PolicyError(SettingsError):
    """The policy file can't be read or says something wrong. One line: file, field, value."""


class Policy(BaseModel):
    """Base of all policies: immutable; an unknown key is an error, so that a misspelt constant is never silently a default."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def body(self) -> dict[str, Any]:
        """The JSON form: what stands in the log."""
        return self.model_dump(mode="json")

    @property
    def digest(self) -> str:
        """`sha256:…` of the body: what names this policy in batches and releases that are made under it."""
        return digest(self.body())


P = TypeVar("P", bound=Policy)


def read_policy_file(path: Path | str | None) -> dict[str, Any]:
    """The tables of a policy file as plain values; none without a file. PolicyError when it can't be read."""
    if path is None:
        return {}
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PolicyError(f"policy = {str(path)!r}: {' '.join(str(error).split())}") from error


def parse_policy(kind: type[P], table: Mapping[str, Any], where: str, prefix: str = "") -> P:
    """`table` as a policy. PolicyError `{where}: {prefix}field = value: what is wrong` for the first fault."""
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        raise PolicyError(f"{where}: {prefix}{first_fault(error)}") from error
