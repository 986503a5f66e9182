"""Settings: what they are, where each value came from. Read once at the edge and passed down; knows no client and no command.

`Settings(...)` takes exactly what it is given. `load` merges, strongest first: flags, `HEADRACE_*` variables, a file, defaults.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from platformdirs import user_data_path
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from headrace_schemas.root_error import USAGE, HeadraceError

PREFIX = "HEADRACE_"
CONFIG_FILE = "headrace.toml"
Origin = Callable[[str], str]


class SettingsError(HeadraceError, ValueError):
    """A setting that can't be used; one line that names the field, the value and where it came from."""

    exit_code = USAGE


def _servers(text: str) -> str:
    for server in text.split(","):
        host, colon, port = server.strip().rpartition(":")
        if not (host and colon and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(f"{server!r} is not host:port")
    return text


class Security(BaseModel):
    """How clients prove who they are; passed to every client. A file is a PEM path."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ssl_cafile: Path | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None

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

    bootstrap: Annotated[str, AfterValidator(_servers)] = "127.0.0.1:9092"
    deployment: str = Field("headrace", pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    security: Security = Security()
    data_dir: Path = Field(default_factory=lambda: user_data_path("headrace", appauthor=False))
    store: str = Field(default_factory=lambda data: str(data["data_dir"] / "store") if "data_dir" in data else "")
    policy: Path | None = None
    partitions: int = Field(4, ge=1, le=1000)
    replication_factor: int = Field(1, ge=1, le=100)

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


def load(flags: Mapping[str, Any] | None = None, config: Path | None = None) -> Loaded:
    """Merges all sources. `flags` that are None count as not given; without `config`, ./headrace.toml is read if it is there.

    Raises SettingsError."""
    merged: dict[str, Any] = {}
    origins = dict.fromkeys(_names(Settings), "default")
    path = config or Path(CONFIG_FILE)
    if config is not None or path.is_file():
        _merge(merged, origins, _absolute(_read_toml(path), path.parent), lambda name: f"file {path}")
    source = EnvSettingsSource(Settings, env_prefix=PREFIX, env_nested_delimiter="_", env_nested_max_split=1)
    try:
        environment = source()
    except Exception as error:  # pydantic-settings wraps whatever went wrong in decoding one variable
        raise SettingsError(f"{PREFIX}* variables: {error}".splitlines()[0]) from error
    _merge(merged, origins, environment, lambda name: PREFIX + name.replace(".", "_").upper())
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    _merge(merged, origins, given, lambda name: "--" + name.replace("_", "-"))
    try:
        return Loaded(Settings(**merged), origins)
    except ValidationError as error:
        raise SettingsError(_line(error, origins)) from error


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"config = {str(path)!r}: {error}") from error


def _absolute(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Paths in a settings file are relative to that file, wherever the command is started."""
    out = dict(values)
    for name in ("data_dir", "policy"):
        if isinstance(out.get(name), str):
            out[name] = folder.resolve() / Path(out[name]).expanduser()
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


def first_fault(error: ValidationError) -> str:
    """The first fault as `curate.age_limit_days = -1: Input should be greater than 0`."""
    fault = error.errors(include_url=False)[0]
    message = "there is no such field" if fault["type"] == "extra_forbidden" else fault["msg"].removeprefix("Value error, ")
    value = repr(fault["input"])
    return f"{'.'.join(map(str, fault['loc']))} = {value if len(value) <= 80 else value[:77] + '...'}: {message}"


def _line(error: ValidationError, origins: Mapping[str, str]) -> str:
    """`partitions = 0 (from HEADRACE_PARTITIONS): Input should be greater than or equal to 1`; no secret is shown."""
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{name}: there is no such setting (from {origins.get(name, 'a flag')})"
    shown = "" if "password" in name or isinstance(first["input"], Mapping) else f" = {str(first['input'])!r}"
    where = f" (from {origins[name]})" if name in origins else ""
    return f"{name}{shown}{where}: {first['msg'].removeprefix('Value error, ')}"
