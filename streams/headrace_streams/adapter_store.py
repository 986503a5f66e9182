"""Where adapters are kept: content-addressed folders behind fsspec. Knows files and digests; no Kafka, no torch.

An adapter is `{store}/adapters/<64 hex>/`: its files and `manifest.json`, the canonical JSON of [{path, sha256, size}] sorted by
path. Its digest is the sha256 of that manifest, so an announced digest vouches for every byte, wherever the bytes come from.
Weights are safetensors or nothing: a format that runs code when it is loaded is never stored and never fetched.
"""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import fsspec
import orjson
from fsspec.implementations.local import LocalFileSystem

from headrace_schemas.canonical import canonical, sha256
from headrace_schemas.derived import Adapter, AdapterFile
from headrace_schemas.root_error import FAILED, UNREACHABLE, HeadraceError
from headrace_streams import durable_file

MANIFEST = "manifest.json"
SUFFIXES = (".safetensors", ".json", ".txt")  # weights, configuration, vocabularies
CHUNK = 1 << 20


class StoreError(HeadraceError):
    """The store could not be read or written."""

    exit_code = UNREACHABLE


class AdapterRefused(StoreError):
    """An adapter that is not what its digest says, or that holds what we never load. What was in use stays in use."""

    exit_code = FAILED


def manifest_of(files: Iterable[AdapterFile]) -> bytes:
    """`manifest.json` of `files`: the same files, however listed, are the same bytes."""
    ordered = sorted(files, key=lambda file: file.path)
    return canonical([{"path": file.path, "size": file.size_bytes, "sha256": file.sha256} for file in ordered])


def check_path(path: str) -> None:
    """AdapterRefused unless `path` stays inside its folder and has a suffix that we load."""
    plain = PurePosixPath(path)
    inside = path == plain.as_posix() and not plain.is_absolute() and ".." not in plain.parts
    if not inside or path in ("", ".", MANIFEST) or any(character in path for character in "\\:\0"):
        raise AdapterRefused(f"adapter file {path!r} is not a plain relative path")
    if plain.suffix not in SUFFIXES:
        raise AdapterRefused(f"adapter file {path!r} is refused: only {', '.join(SUFFIXES)} are kept, never pickles")


class Store:
    """Adapters under one URL: a folder, or whatever fsspec has a driver for (`s3://…`, with that driver's own credentials)."""

    def __init__(self, url: str | Path) -> None:
        self._fs, self._root = _filesystem(str(url))

    def put(self, folder: str | Path) -> Adapter:
        """Stores the files of `folder` (a `manifest.json` in it is ignored). Doing it again changes nothing and gives the same.

        The manifest is written last: an adapter without one, or with files of another size, is written again. AdapterRefused
        names a file that is not safetensors, JSON or text, or a link; StoreError when the store cannot be written.
        """
        source = Path(folder)
        files = sorted(_describe_all(source), key=lambda file: file.path)
        if not files:
            raise AdapterRefused(f"no adapter in {source}: the folder is missing or empty")
        manifest = manifest_of(files)
        adapter = self._adapter(sha256(manifest), files)
        place = self._place(adapter.digest)
        try:
            if not self._complete(place, files):
                for file in files:
                    with (source / file.path).open("rb") as stream:
                        _write(self._fs, f"{place}/{file.path}", stream)
                _write(self._fs, f"{place}/{MANIFEST}", manifest)
        except Exception as error:
            raise StoreError(f"adapter {adapter.digest} could not be stored at {adapter.uri}: {error}") from error
        return adapter

    def adapter(self, digest: str) -> Adapter:
        """The adapter of a digest, from its manifest in this store. AdapterRefused when it is missing or is another's."""
        place = self._place(digest)
        try:
            manifest = bytes(self._fs.cat_file(f"{place}/{MANIFEST}"))
        except FileNotFoundError:
            raise AdapterRefused(f"adapter {digest} is not in the store at {self._fs.unstrip_protocol(self._root)}") from None
        except Exception as error:
            raise StoreError(f"adapter {digest} could not be read from {place}: {error}") from error
        if sha256(manifest) != digest:
            raise AdapterRefused(f"adapter {digest} has a manifest with digest {sha256(manifest)}")
        rows = orjson.loads(manifest)
        return self._adapter(digest, [AdapterFile(path=r["path"], size_bytes=r["size"], sha256=r["sha256"]) for r in rows])

    def probe(self) -> None:
        """Writes, reads and removes a small file. StoreError when that does not work."""
        path, content = f"{self._root}/.probe-{uuid.uuid4().hex}", b"headrace"
        try:
            self._fs.makedirs(self._root, exist_ok=True)
            self._fs.pipe_file(path, content)
            read = self._fs.cat_file(path)
            self._fs.rm_file(path)
        except Exception as error:  # drivers of object stores raise whatever they like
            raise StoreError(f"{self._root} can't be written and read: {type(error).__name__}: {error}") from error
        if read != content:
            raise StoreError(f"{self._root} gives back something else than was written")

    def _complete(self, place: str, files: Sequence[AdapterFile]) -> bool:
        try:
            sizes = {path.removeprefix(place + "/"): self._fs.size(path) for path in self._fs.find(place)}
        except FileNotFoundError:
            return False
        return MANIFEST in sizes and all(sizes.get(file.path) == file.size_bytes for file in files)

    def _place(self, digest: str) -> str:
        return f"{self._root}/adapters/{_hex(digest)}"

    def _adapter(self, digest: str, files: Sequence[AdapterFile]) -> Adapter:
        size = sum(file.size_bytes for file in files)
        uri = str(self._fs.unstrip_protocol(self._place(digest)))
        return Adapter(digest=digest, uri=uri, format="peft", size_bytes=size, files=list(files))


def fetch(adapter: Adapter, cache_dir: str | Path) -> Path:
    """The folder `{cache_dir}/adapters/<64 hex>` with exactly the files that `adapter` announces, verified by size and sha256.

    A cached folder is verified again and used as it is; otherwise the files come from `adapter.uri` into a folder beside it that
    is renamed when all are right. AdapterRefused: the manifest is not the digest's, a path leads elsewhere, a file is missing,
    wrong or of a kind that we never load. StoreError: the store cannot be reached. Nothing else in the cache is touched.
    """
    if sha256(manifest_of(adapter.files)) != adapter.digest:
        raise AdapterRefused(f"adapter {adapter.digest} announces files whose manifest is {sha256(manifest_of(adapter.files))}")
    for file in adapter.files:
        check_path(file.path)
    if len({file.path for file in adapter.files}) != len(adapter.files):
        raise AdapterRefused(f"adapter {adapter.digest} announces a file twice")
    target = Path(cache_dir) / "adapters" / _hex(adapter.digest)
    if _holds(target, adapter):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    workplace = target.parent / f".{target.name[:16]}-{uuid.uuid4().hex}"  # short: some file systems limit names
    try:
        _download(adapter, workplace)
        if target.exists() and not _holds(target, adapter):  # a damaged cache; another process may have mended it meanwhile
            target.rename(workplace.with_name(workplace.name + "-damaged"))
        if not target.exists():
            try:
                workplace.rename(target)
            except OSError:
                if not _holds(target, adapter):  # lost the race to somebody who put the same bytes there: fine
                    raise
    finally:
        for leftover in target.parent.glob(f"{workplace.name}*"):
            shutil.rmtree(leftover, ignore_errors=True)
    return target


def _download(adapter: Adapter, folder: Path) -> None:
    fs, place = _filesystem(adapter.uri)
    folder.mkdir()
    for file in adapter.files:
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with fs.open(f"{place}/{file.path}", "rb") as source, path.open("xb") as sink:
                _copy(source, sink, limit=file.size_bytes)
        except FileNotFoundError:
            raise AdapterRefused(f"adapter {adapter.digest}: {file.path} is missing at {adapter.uri}") from None
        except Exception as error:
            raise StoreError(f"adapter {adapter.digest}: {file.path} could not be read from {adapter.uri}: {error}") from error
        size = path.stat().st_size
        if size != file.size_bytes:
            raise AdapterRefused(f"adapter {adapter.digest}: {file.path} has not the announced {file.size_bytes} bytes")
        if (found := _file_sha256(path)) != file.sha256:
            raise AdapterRefused(f"adapter {adapter.digest}: {file.path} is {found}, announced was {file.sha256}")
    with (folder / MANIFEST).open("xb") as sink:
        _copy(manifest_of(adapter.files), sink)


def _copy(source: BinaryIO | bytes, sink: BinaryIO, limit: int | None = None) -> None:
    """All bytes of `source` onto disk; past `limit` it stops one chunk later, as the size is then wrong anyway."""
    if isinstance(source, bytes):
        sink.write(source)
    else:
        while (limit is None or sink.tell() <= limit) and (chunk := source.read(CHUNK)):
            sink.write(chunk)
    durable_file.sync(sink)


def _holds(folder: Path, adapter: Adapter) -> bool:
    """Whether `folder` has exactly the files of `adapter`, byte for byte."""
    if not folder.is_dir():
        return False
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    if present != {MANIFEST, *(file.path for file in adapter.files)}:
        return False
    sizes_fit = all((folder / file.path).stat().st_size == file.size_bytes for file in adapter.files)
    return sizes_fit and all(_file_sha256(folder / file.path) == file.sha256 for file in adapter.files)


def _describe_all(folder: Path) -> Iterator[AdapterFile]:
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if name != MANIFEST and (path.is_symlink() or not path.is_dir()):
            yield _describe(path, name)


def _describe(path: Path, name: str) -> AdapterFile:
    check_path(name)
    if path.is_symlink() or not path.is_file():
        raise AdapterRefused(f"adapter file {name!r} is refused: it is no regular file")
    size = path.stat().st_size
    if path.suffix == ".safetensors":  # 8 bytes with the length of a JSON header: what else bears the name is something else
        with path.open("rb") as stream:
            head = stream.read(9)
        if len(head) < 9 or int.from_bytes(head[:8], "little") > size - 8 or head[8:] != b"{":
            raise AdapterRefused(f"adapter file {name!r} is refused: its bytes are not safetensors")
    return AdapterFile(path=name, size_bytes=size, sha256=_file_sha256(path))


def _file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()


def _hex(digest: str) -> str:
    name, _, hexadecimal = digest.partition(":")
    if name != "sha256" or len(hexadecimal) != 64 or set(hexadecimal) - set("0123456789abcdef"):
        raise AdapterRefused(f"not the digest of an adapter: {digest!r}")
    return hexadecimal


def _filesystem(url: str) -> tuple[Any, str]:
    try:
        fs, root = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:  # unknown scheme, or its driver is not installed
        raise StoreError(f"no way to reach the store {url!r}: {error}") from error
    return fs, str(root).rstrip("/")


def _write(fs: Any, path: str, source: BinaryIO | bytes) -> None:
    """Writes one file whole or not at all: by a rename on a disk; an object store shows an object only when it is complete."""
    if not isinstance(fs, LocalFileSystem):
        with fs.open(path, "wb") as sink:
            shutil.copyfileobj(source, sink, CHUNK) if not isinstance(source, bytes) else sink.write(source)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as sink:
            _copy(source, sink)
        durable_file.replace(part, target)  # an event will say that the adapter is there
    finally:
        part.unlink(missing_ok=True)
