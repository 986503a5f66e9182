"""What a base is, by digests of its files, so that a changed one is noticed before it is trained on. Knows files, no torch.

A digest proves the content at the time of the first look. Later looks hash only files whose size or time of change is another
than in the notes (`bases.json` in the trainer's folder): a restart costs a `stat` a file. Who deletes the notes has all of it
hashed anew.
"""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import orjson

from headrace_schemas.canonical import digest, sha256
from headrace_schemas.derived import BaseIdentity
from headrace_schemas.root_error import HeadraceError
from headrace_streams import durable_file

OnBytes = Callable[[int, int], None]  # bytes done and in all, as far as they are known

SAFE_WEIGHTS, OLD_WEIGHTS = ("*.safetensors",), ("*.bin",)
CONFIGURATION = ("config.json", "generation_config.json", "*.safetensors.index.json", "*.bin.index.json", "*.py")
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model",
    "*.tiktoken", "tekken.json",
)  # fmt: skip
TEMPLATE = ("chat_template.*", "additional_chat_templates/*")
_CHUNK = 1 << 22


class BaseMissing(HeadraceError):
    """The weights of a base cannot be loaded."""


class BaseChanged(HeadraceError):
    """A base is not the one that it was, or that policy says it is."""


class FileNotes:
    """Digests of files by path, size and time of change, kept in one JSON file. With `None` they are forgotten."""

    def __init__(self, path: Path | None = None) -> None:
        self._path, self._changed = path, False
        try:
            self._notes: dict[str, list[Any]] = orjson.loads(path.read_bytes()) if path is not None else {}
        except (OSError, orjson.JSONDecodeError):
            self._notes = {}

    def unknown(self, files: Iterable[Path]) -> int:
        """Bytes that must be hashed to know all files."""
        return sum(path.stat().st_size for path in files if self._noted(path) is None)

    def sha256(self, path: Path, on_bytes: Callable[[int], None] = lambda count: None) -> str:
        """The digest of a file. OSError when it can't be read."""
        noted = self._noted(path)
        if noted is None:
            stat, hashed = path.stat(), hashlib.sha256()
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    hashed.update(chunk)
                    on_bytes(len(chunk))
            noted = f"sha256:{hashed.hexdigest()}"
            self._notes[str(path.resolve())] = [stat.st_size, stat.st_mtime_ns, noted]
            self._changed = True
        return noted

    def save(self) -> None:
        """Only what is new: a base is looked at before each batch, and as a rule all of it is known."""
        if self._path is not None and self._changed:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._path.with_suffix(".tmp")
            temporary.write_bytes(orjson.dumps(self._notes, option=orjson.OPT_INDENT_2))
            durable_file.replace(temporary, self._path)

    def _noted(self, path: Path) -> str | None:
        stat, noted = path.stat(), self._notes.get(str(path.resolve()), [])
        return str(noted[2]) if noted[:2] == [stat.st_size, stat.st_mtime_ns] else None


def identify(
    folder: Path,
    notes: FileNotes,
    *,
    revision: str | None = None,
    quantisation: str | None = None,
    on_hashed: OnBytes = lambda done, whole: None,
) -> BaseIdentity:
    """The identity of the base whose files are in `folder`; `revision`: the hub's commit, if they are from there;
    `quantisation`: how they are held, which makes it another base. BaseMissing when there is no configuration or no weights."""
    try:
        weights = _files(folder, SAFE_WEIGHTS) or _files(folder, OLD_WEIGHTS)  # as the library chooses
        weights = [path for path in weights if not path.name.startswith("adapter_model")]
        configuration = _files(folder, CONFIGURATION)
        if not weights or not (folder / "config.json").is_file():
            missing = "weights (*.safetensors)" if (folder / "config.json").is_file() else "config.json"
            raise BaseMissing(f"base {folder}: the folder has no {missing}")
        _whole(folder, weights)
        done, whole = 0, notes.unknown([*weights, *configuration])

        def count(read: int) -> None:
            nonlocal done
            done += read
            on_hashed(done, whole)

        def listed(files: Sequence[Path]) -> str:
            return digest([[path.relative_to(folder).as_posix(), notes.sha256(path, count)] for path in files])

        tokenizer, template = _tokenizer(folder)
        parts = {"config": listed(configuration), "tokenizer": tokenizer, "template": template, "weights": listed(weights)}
        if quantisation is not None:
            parts["quantisation"] = quantisation
        notes.save()
    except OSError as error:
        raise BaseMissing(f"base {folder}: {error}") from error
    return BaseIdentity(digest=digest(parts), revision=revision, **parts)  # type: ignore[arg-type]


def changes(before: BaseIdentity, after: BaseIdentity) -> str:
    """What of a base is another, for people: `weights sha256:12ab… -> sha256:34cd…`. Empty when nothing is."""
    found = []
    for part in ("weights", "config", "tokenizer", "template", "quantisation"):
        old, new = getattr(before, part), getattr(after, part)
        if old != new:
            found.append(f"{part} {_short(old)} -> {_short(new)}")
    if found and before.revision != after.revision:
        found.append(f"revision {before.revision or '-'} -> {after.revision or '-'}")
    return ", ".join(found)


def _short(value: str | None) -> str:
    return "none" if value is None else f"{value[:19]}…" if len(value) > 19 else value


def _files(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """Files of the folder whose path in it matches a pattern, sorted. Folders in it are looked into for templates only."""
    found = set()
    for pattern in patterns:
        found |= {path for path in folder.glob(pattern) if path.is_file()}
    return sorted(found)


def _whole(folder: Path, weights: Sequence[Path]) -> None:
    """BaseMissing when a part of the weights is not there: a download or copy that stopped."""
    for index in folder.glob("*.index.json"):
        if not fnmatch.fnmatch(index.name, f"*{weights[0].suffix}.index.json"):
            continue
        try:
            named = set(orjson.loads(index.read_bytes())["weight_map"].values())
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise BaseMissing(f"base {folder}: {index.name} is no index of weights: {error}") from error
        for name in sorted(named - {path.name for path in weights}):
            raise BaseMissing(f"base {folder}: {name}, which {index.name} names, is not there")


def _tokenizer(folder: Path) -> tuple[str, str | None]:
    """Digests of tokenizer and chat template, which may stand in the tokenizer's configuration or in files of its own."""
    template: list[Any] = [[path.relative_to(folder).as_posix(), sha256(path.read_bytes())] for path in _files(folder, TEMPLATE)]
    parts: list[Any] = []
    for path in _files(folder, TOKENIZER):
        content = path.read_bytes()
        if path.name == "tokenizer_config.json":
            try:
                config = orjson.loads(content)
                if (inside := config.pop("chat_template", None)) is not None:
                    template.append([path.name, inside])
                content = orjson.dumps(config, option=orjson.OPT_SORT_KEYS)
            except (orjson.JSONDecodeError, AttributeError) as error:
                raise BaseMissing(f"base {folder}: {path.name}: {error}") from error
        parts.append([path.name, sha256(content)])
    return digest(parts), digest(template) if template else None
