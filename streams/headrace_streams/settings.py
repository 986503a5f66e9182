"""Settings: what they are, where each value came from. Read once at the edge and passed down; knows no client and no command.

`Settings(...)` takes exactly what it is given. `load` merges, strongest first: flags, `HEADRACE_*` variables, a file, defaults.
`from_arguments` is for the door: what a call was given, and nothing from around it.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from platformdirs import user_data_path
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as UndecodableVariable

from headrace_schemas.root_error import USAGE, HeadraceError
from headrace_schemas.topics import TOPIC_NAMES

PREFIX = "HEADRACE_"
CONFIG_FILE = "headrace.toml"
Origin = Callable[[str], str]

_OTHER_VARIABLES = frozenset({"HEADRACE_DEBUG"})  # of the command itself
# Kubernetes sets such variables in every container beside a Service whose name begins with `headrace`.
_SERVICE_LINK = re.compile(
    r"HEADRACE_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)", re.ASCII
)
_SECRET = re.compile(r"passw|passphrase|secret|token|pwd|credential", re.IGNORECASE)
_CLIP = 80  # characters of a value that a message repeats


class SettingsError(HeadraceError, ValueError):
    """A setting that can't be used; one line that names the field, the value and where it came from."""

    exit_code = USAGE


def _servers(text: str) -> str:
    for server in text.split(","):
        host, colon, port = server.strip().rpartition(":")
        if not (host and colon and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(f"{server!r} is not host:port")
    return text


def _one_address(text: str) -> str:
    if not text.strip():
        raise ValueError("no folder and no URL")
    if "::" in text:
        raise ValueError("a chain of addresses (`::`) is no store: name one folder or URL")
    return text


def _several(given: Any) -> Any:
    """Keys as a list, as one text with commas between them (a variable), or one alone; a path is as good as a text."""
    if isinstance(given, str):
        given = [part.strip() for part in given.split(",")]
    if isinstance(given, Path):
        given = [given]
    return [str(key) if isinstance(key, Path) else key for key in given] if isinstance(given, list | tuple | set) else given


_Key = Annotated[str, Field(min_length=1)]


def _no_topic(name: str) -> str:
    """Short names and full ones must not be taken for each other: `releases.history` would be both."""
    if name in {topic.partition(".")[0] for topic in TOPIC_NAMES if "." in topic} | {"state"}:
        raise ValueError("topics' own names begin with that; choose another")
    return name


class Security(BaseModel):
    """How clients prove who they are; passed to every client. A file is a PEM path."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="how clients talk to the brokers"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        None, description="how clients log in, with a SASL protocol"
    )
    sasl_username: str | None = Field(None, description="who logs in")
    sasl_password: SecretStr | None = Field(None, description="their password; shown nowhere")
    ssl_cafile: Path | None = Field(None, description="PEM of who signed the brokers' certificates; the system's without it")
    ssl_certfile: Path | None = Field(None, description="PEM of the client's own certificate")
    ssl_keyfile: Path | None = Field(None, description="PEM of its key")

    @model_validator(mode="after")
    def _complete(self) -> Security:
        if self.protocol.startswith("SASL"):
            missing = [name for name in ("sasl_mechanism", "sasl_username", "sasl_password") if getattr(self, name) is None]
            if missing:
                raise ValueError(f"protocol {self.protocol} needs {', '.join(missing)}")
        if (self.ssl_keyfile is None) != (self.ssl_certfile is None):
            raise ValueError("ssl_certfile and ssl_keyfile go together")
        return self


class Settings(BaseSettings):
    """`bootstrap` host:port[,…]; `deployment` begins every topic name; `store` is the folder or URL of adapters."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    bootstrap: Annotated[str, AfterValidator(_servers)] = Field(
        "127.0.0.1:9092", description="brokers, `host:port[,host:port …]`"
    )
    deployment: Annotated[str, AfterValidator(_no_topic)] = Field(
        "headrace",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$",
        description="first part of every topic name: several live on one broker",
    )
    security: Security = Security()
    data_dir: Path = Field(
        default_factory=lambda: user_data_path("headrace", appauthor=False),
        description="local broker, training runs, caches, store; the user's data folder unless given",
    )
    store: Annotated[str, AfterValidator(_one_address)] = Field(
        default_factory=lambda data: str(data["data_dir"] / "store") if "data_dir" in data else "",
        description="where adapters are kept: one folder, or one URL that fsspec knows; `store/` in `data_dir` unless given",
    )
    state_dir: Path | None = Field(
        None,
        description="folder of this machine where tasks keep a copy of their state, so that a restart reads only the end of a "
        "changelog; none unless given",
    )
    policy: Path | None = Field(None, description="the policy file")
    signing_key: Path | None = Field(None, description="PEM of the Ed25519 key with which a worker signs releases")
    trusted_keys: Annotated[tuple[_Key, ...] | None, NoDecode, BeforeValidator(_several)] = Field(
        None,
        min_length=1,
        description="public keys, each a PEM file or PEM text: releases that none of them has signed are not believed",
    )
    partitions: int = Field(4, ge=1, le=1000, description="partitions of each topic that is created")
    replication_factor: int = Field(1, ge=1, le=100, description="copies of each topic that is created")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)  # the environment is read by `load` alone, so that a test or a library call has no surprises


class Loaded(NamedTuple):
    """Settings and the origin of each value by dotted name, e.g. {"security.protocol": "HEADRACE_SECURITY_PROTOCOL"}."""

    settings: Settings
    origins: Mapping[str, str]


def from_arguments(
    bootstrap: str,
    deployment: str,
    kafka: Mapping[str, Any] | None,
    store: str | Path | None = None,
    trusted_keys: Collection[str | Path] | None = None,
) -> Settings:
    """Settings of a call that was given these arguments; `kafka` are the fields of Security. Raises SettingsError."""
    security: Any = dict(kafka) if isinstance(kafka, Mapping) else {} if kafka is None else kafka
    given: dict[str, Any] = {"bootstrap": bootstrap, "deployment": deployment, "security": security}
    if store is not None:
        given["store"] = str(store) if isinstance(store, Path) else store
    if trusted_keys is not None:
        given["trusted_keys"] = trusted_keys
    try:
        return Settings.model_validate(given)
    except ValidationError as error:
        raise SettingsError(_line(error, lambda name: name.replace("security", "kafka", 1))) from None


def load(flags: Mapping[str, Any] | None = None, config: Path | None = None) -> Loaded:
    """Merges all sources. `flags` that are None count as not given; without `config`, ./headrace.toml is read if it is there.

    Raises SettingsError."""
    merged: dict[str, Any] = {}
    origins = dict.fromkeys(_names(Settings), "default")
    path = config or Path(CONFIG_FILE)
    if config is not None or path.is_file():
        _merge(merged, origins, _absolute(_read_toml(path), path.parent), lambda name: f"file {path}")
    _refuse_unknown_variables(os.environ)
    source = EnvSettingsSource(Settings, env_prefix=PREFIX, env_nested_delimiter="_", env_nested_max_split=1)
    try:
        environment = source()
    except UndecodableVariable as error:  # only a whole table is decoded; it may hold a password, so it is not shown
        raise SettingsError(f"{_variable('security')}: no JSON object: {error.__cause__}") from None
    _merge(merged, origins, environment, _variable)
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    _merge(merged, origins, given, lambda name: "--" + name.replace("_", "-"))
    try:
        return Loaded(Settings(**merged), origins)
    except ValidationError as error:
        raise SettingsError(_line(error, origins=origins)) from error


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"config = {str(path)!r}: {error}") from error


def _absolute(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Paths in a settings file are relative to that file, wherever the command is started."""
    out = dict(values)
    for name in ("data_dir", "state_dir", "policy", "signing_key"):
        if isinstance(out.get(name), str):
            out[name] = folder.resolve() / Path(out[name]).expanduser()
    if isinstance(keys := _several(out.get("trusted_keys")), list):
        out["trusted_keys"] = [
            str(folder.resolve() / Path(key).expanduser()) if isinstance(key, str) and key and "-----BEGIN" not in key else key
            for key in keys
        ]
    if isinstance(out.get("security"), dict):
        out["security"] = {
            name: folder.resolve() / Path(value).expanduser() if name.endswith("file") and isinstance(value, str) else value
            for name, value in out["security"].items()
        }
    return out


def _merge(merged: dict[str, Any], origins: dict[str, str], values: Mapping[str, Any], origin: Origin, prefix: str = "") -> None:
    for name, value in values.items():
        if isinstance(value, Mapping):
            inner = merged.setdefault(name, {})
            if isinstance(inner, dict):
                _merge(inner, origins, value, origin, f"{prefix}{name}.")
                continue
        merged[name] = value
        origins[prefix + name] = origin(prefix + name)


def _names(model: type[BaseModel], prefix: str = "") -> list[str]:
    names: list[str] = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        nested = isinstance(kind, type) and issubclass(kind, BaseModel)
        names += _names(kind, f"{prefix}{name}.") if nested and isinstance(kind, type) else [prefix + name]
    return names


def _variable(name: str) -> str:
    return PREFIX + name.replace(".", "_").upper()


def _refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    """SettingsError for a `HEADRACE_*` variable that sets nothing: a misspelt one must not leave the default in force."""
    known = {*map(_variable, _names(Settings)), *map(_variable, Settings.model_fields), *_OTHER_VARIABLES}
    for name, value in sorted(environment.items()):
        spelt = name.upper()
        if spelt.startswith(PREFIX) and spelt not in known and not _SERVICE_LINK.fullmatch(spelt):
            raise SettingsError(f"{_shown(name, value, known)}: there is no such setting{_nearest(spelt, known)}")


def _nearest(name: str, known: Iterable[str]) -> str:
    found = get_close_matches(name, list(known), n=1, cutoff=0.75)
    return f"; did you mean {found[0]}?" if found else ""


def _shown(name: str, value: Any, known: Iterable[str] = ()) -> str:
    """`name = 'value'`; the name alone when it is, or is meant to be, the name of a secret, and for a whole table."""
    if isinstance(value, Mapping | BaseModel) or _SECRET.search(name + _nearest(name, known)):
        return name
    text = repr(value if isinstance(value, int | float | list | None) else str(value))
    return f"{name} = {text if len(text) <= _CLIP else text[: _CLIP - 3] + '...'}"


def first_fault(error: ValidationError) -> str:
    """The first fault as `curate.age_limit_days = -1: Input should be greater than 0`."""
    fault = error.errors(include_url=False)[0]
    message = "there is no such field" if fault["type"] == "extra_forbidden" else fault["msg"].removeprefix("Value error, ")
    value = repr(fault["input"])
    return f"{'.'.join(map(str, fault['loc']))} = {value if len(value) <= 80 else value[:77] + '...'}: {message}"


def _line(error: ValidationError, called: Origin = str, origins: Mapping[str, str] | None = None) -> str:
    """`partitions = '0' (from HEADRACE_PARTITIONS): Input should be greater than or equal to 1`; no secret is shown.

    `called` is what a field is called where it was given."""
    faults = error.errors(include_url=False)
    # A default that builds on another field is refused too when that one is wrong: it says nothing new.
    first = next((fault for fault in faults if fault["type"] != "default_factory_not_called"), faults[0])
    name = ".".join(str(part) for part in first["loc"])
    known = [called(other) for other in {*_names(Settings), *Settings.model_fields}]
    given = {origin for other, origin in (origins or {}).items() if f"{other}.".startswith(f"{name}.") and origin != "default"}
    where = f" (from {given.pop()})" if len(given) == 1 else ""
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = f"there is no such setting{_nearest(called(name), known)}"
    return f"{_shown(called(name), first['input'], known)}{where}: {message}"
