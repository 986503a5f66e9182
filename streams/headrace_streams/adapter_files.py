"""What the files of an adapter may be, and its manifest, whose digest is the adapter's name. Knows files; no store.

Weights are safetensors or nothing, by content and not by name: a format that runs code when it is loaded is never stored, never
fetched and never taken from a cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import msgspec

from headrace_schemas.canonical import canonical, sha256
from headrace_schemas.derived import AdapterFile
from headrace_schemas.root_error import FAILED, UNREACHABLE, HeadraceError

MANIFEST = "manifest.json"
MANIFEST_BYTES = 1 << 20  # an adapter has a handful of files
HEADER_BYTES = 16 << 20  # of a weights file; the format itself allows 100 MB
SUFFIXES = (".safetensors", ".json", ".txt")  # weights, configuration, vocabularies


class StoreError(HeadraceError):
    """The store could not be read or written, or not in time."""

    exit_code = UNREACHABLE


class AdapterRefused(StoreError):
    """An adapter that is not what its digest says, or that holds what we never load. What was in use stays in use."""

    exit_code = FAILED


class _Row(msgspec.Struct, forbid_unknown_fields=True):
    path: str
    size: int
    sha256: str


class _Tensor(msgspec.Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def hexadecimal(digest: str) -> str:
    """The 64 digits of `sha256:…`. AdapterRefused for anything else."""
    name, _, digits = digest.partition(":")
    if name != "sha256" or len(digits) != 64 or set(digits) - set("0123456789abcdef"):
        raise AdapterRefused(f"not the digest of an adapter: {digest[:80]!r}")
    return digits


def manifest_of(files: Iterable[AdapterFile]) -> bytes:
    """`manifest.json` of `files`: the same files, however listed, are the same bytes."""
    ordered = sorted(files, key=lambda file: file.path)
    return canonical([{"path": file.path, "size": file.size_bytes, "sha256": file.sha256} for file in ordered])


def files_of(digest: str, manifest: bytes) -> list[AdapterFile]:
    """The files that the manifest of adapter `digest` lists. AdapterRefused when it is another's or lists what we never load."""
    if sha256(manifest) != digest:
        raise AdapterRefused(f"adapter {digest} has a manifest with digest {sha256(manifest)}")
    try:
        rows = msgspec.json.decode(manifest, type=list[_Row])
    except (msgspec.DecodeError, RecursionError) as error:
        raise AdapterRefused(f"adapter {digest} has a manifest that is none: {error}") from None
    files = [AdapterFile(path=row.path, size_bytes=row.size, sha256=row.sha256) for row in rows]
    check_list(digest, files)
    return files


def check_list(digest: str, files: Sequence[AdapterFile]) -> None:
    """AdapterRefused unless these are the files of adapter `digest`, and all of them may be loaded."""
    if sha256(manifest_of(files)) != digest:
        raise AdapterRefused(f"adapter {digest} announces files whose manifest is {sha256(manifest_of(files))}")
    if not files:
        raise AdapterRefused(f"adapter {digest} has no files")
    for file in files:
        check_path(file.path)
        if file.size_bytes < 0:
            raise AdapterRefused(f"adapter file {file.path!r} can't have {file.size_bytes} bytes")
    if len({file.path for file in files}) != len(files):
        raise AdapterRefused(f"adapter {digest} announces a file twice")


def check_path(path: str) -> None:
    """AdapterRefused unless `path` stays inside its folder and has a suffix that we load."""
    plain = PurePosixPath(path)
    inside = path == plain.as_posix() and not plain.is_absolute() and ".." not in plain.parts
    if not inside or path in ("", ".", MANIFEST) or any(character in path for character in "\\:\0"):
        raise AdapterRefused(f"adapter file {path[:200]!r} is not a plain relative path")
    if plain.suffix not in SUFFIXES:
        raise AdapterRefused(f"adapter file {path[:200]!r} is refused: only {', '.join(SUFFIXES)} are kept, never pickles")


def check_file(folder: Path, file: AdapterFile) -> None:
    """AdapterRefused unless `file` lies in `folder` byte for byte and is what its name says. OSError."""
    path = folder / file.path
    if path.is_symlink() or not path.is_file():
        raise AdapterRefused(f"{file.path} is no regular file")
    if path.stat().st_size != file.size_bytes:
        raise AdapterRefused(f"{file.path} has not the announced {file.size_bytes} bytes")
    if (found := file_sha256(path)) != file.sha256:
        raise AdapterRefused(f"{file.path} is {found}, announced was {file.sha256}")
    check_content(path, file.path)


def check_content(path: Path, name: str) -> None:
    """AdapterRefused when a weights file is no safetensors: 8 bytes with the length of a JSON header that says where in the rest
    each tensor lies. `name` is what the message calls it."""
    if path.suffix != ".safetensors":
        return
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = stream.read(length) if length <= min(size - 8, HEADER_BYTES) else b""
    try:
        entries = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        entries.pop("__metadata__", None)
        places = [msgspec.json.decode(entry, type=_Tensor).data_offsets for entry in entries.values()]
    except (msgspec.DecodeError, RecursionError):
        raise AdapterRefused(f"adapter file {name!r} is refused: its bytes are not safetensors") from None
    if any(not 0 <= begin <= end <= size - 8 - length for begin, end in places):
        raise AdapterRefused(f"adapter file {name!r} is refused: a tensor lies outside it, so it is not safetensors")


def describe(folder: Path) -> list[AdapterFile]:
    """The files of a folder but its manifest, sorted by path. AdapterRefused names one that is never stored; OSError."""
    return sorted(_described(folder), key=lambda file: file.path)


def _described(folder: Path) -> Iterator[AdapterFile]:
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if name == MANIFEST or (path.is_dir() and not path.is_symlink()):
            continue
        check_path(name)
        if path.is_symlink() or not path.is_file():
            raise AdapterRefused(f"adapter file {name!r} is refused: it is no regular file")
        check_content(path, name)
        yield AdapterFile(path=name, size_bytes=path.stat().st_size, sha256=file_sha256(path))


def file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()
