"""Where adapters and samples are kept: content-addressed, behind fsspec. Knows the reader's own store and digests; no Kafka, no
torch.

An adapter is `{store}/adapters/<64 hex>/`: its files and `manifest.json`, the canonical JSON of [{path, sha256, size}] sorted by
path. Its digest is the sha256 of that manifest, so a digest vouches for every byte. Samples of an evaluation are one file,
`{store}/samples/<64 hex>.parquet`, named by the sha256 of its bytes. A digest is all that a reader takes from the log: where
bytes come from is the reader's setting `store`, and an announced `uri` is opened by nobody.
"""

from __future__ import annotations

import re
import shutil
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property, partial
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, NamedTuple, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from headrace_schemas.canonical import sha256
from headrace_schemas.derived import Adapter, AdapterFile
from headrace_streams import durable_file
from headrace_streams.adapter_files import (
    MANIFEST,
    MANIFEST_BYTES,
    AdapterRefused,
    StoreError,
    check_file,
    check_list,
    describe,
    file_sha256,
    files_of,
    hexadecimal,
    manifest_of,
)
from headrace_streams.deadline import within

CHUNK = 1 << 20
PATIENCE = 60.0  # seconds until a store has answered one question: an open, a chunk, a listing
SLOWEST = 100_000  # bytes a second of a file that is still waited for
_USER_AND_QUERY = re.compile(r"(\w+://)(?:[^/@\s]*@)?([^\s?]*)(?:\?[^\s'\"]*)?")  # where a URL may hold a secret

T = TypeVar("T")
HoldingKind = Literal["adapter", "samples"]
_FOLDERS: dict[HoldingKind, str] = {"adapter": "adapters", "samples": "samples"}


class Holding(NamedTuple):
    """What a store holds under one digest: an adapter or the state of an optimiser, which lies like one, or samples. `written`:
    the newest of its files."""

    kind: HoldingKind
    digest: str
    size_bytes: int
    written: datetime


class Store:
    """Adapters under one URL: a folder, or whatever fsspec has a driver for (`s3://…`, with that driver's own credentials).

    Nothing is opened until something is asked. Every question has its time (`patience` seconds), and whatever the driver raises
    is a StoreError. StoreError at once for a chain of addresses (`::`) and for a scheme that has no driver."""

    def __init__(self, url: str | Path, *, patience: float = PATIENCE) -> None:
        self._url, self._patience = str(url), patience
        self.name = _shown(self._url)
        if "::" in self._url:
            raise StoreError(f"store {self.name!r}: a chain of addresses (`::`) is no store")
        with self._errors(f"no way to reach the store {self.name!r}"):
            fsspec.get_filesystem_class(fsspec.core.split_protocol(self._url)[0] or "file")

    @cached_property
    def _place(self) -> tuple[Any, str]:
        """The driver and its name for the root; some connect for it. Raises whatever they do: asked for inside `_errors`."""
        fs, root = within(self._patience, partial(fsspec.core.url_to_fs, self._url))
        return fs, str(root).rstrip("/")

    def put(self, folder: str | Path) -> Adapter:
        """Stores the files of `folder` (a `manifest.json` in it is ignored). Doing it again gives the same, as young as if
        it were new.

        The manifest is written last: an adapter without one, or with files of another size, is written again. AdapterRefused
        names a file that is not safetensors, JSON or text, or a link; StoreError when the store cannot be written.
        """
        source = Path(folder)
        with self._errors(f"no adapter in {source}"):
            files = describe(source)
        if not files:
            raise AdapterRefused(f"no adapter in {source}: the folder is missing or empty")
        manifest = manifest_of(files)
        digest, size = sha256(manifest), sum(file.size_bytes for file in files)
        with self._errors(f"adapter {digest} could not be stored in {self.name}"):
            uri = str(self._place[0].unstrip_protocol(self._folder(digest)))
            adapter = Adapter(digest=digest, uri=uri, format="peft", size_bytes=size, files=files)
            if not within(self._patience, partial(self._complete, adapter)):
                for file in files:
                    with (source / file.path).open("rb") as stream:
                        self._write(digest, file.path, stream, file.size_bytes)
            self._write(digest, MANIFEST, BytesIO(manifest), len(manifest))
        return adapter

    def manifest(self, digest: str) -> bytes:
        """As it lies here, whatever it says. AdapterRefused when there is none."""
        return b"".join(self.chunks(digest, MANIFEST, MANIFEST_BYTES))

    def chunks(self, digest: str, path: str, size: int) -> Generator[bytes]:
        """The bytes of one file of an adapter, one more than `size` at the most. AdapterRefused: it is missing or no regular
        file. StoreError: it can't be read, or at less than `SLOWEST` bytes a second."""
        what = f"adapter {digest}: {path}"
        with self._errors(f"{what} could not be read from the store {self.name}"):
            folder = self._folder(digest)
            missing = f"adapter {digest}" if path == MANIFEST else what
            yield from self._chunks(folder, path, size, what, missing)

    def put_samples(self, file: str | Path) -> str:
        """Stores the samples of an evaluation, a Parquet file; its digest. StoreError when the store cannot be written."""
        source = Path(file)
        with self._errors(f"the samples in {source} could not be stored in {self.name}"):
            digest, size = file_sha256(source), source.stat().st_size
            with source.open("rb") as stream:
                within(self._patience + size / SLOWEST, partial(_write, self._place[0], self._samples(digest), stream))
        return digest

    def samples(self, digest: str, size: int) -> bytes:
        """The file of these samples, as it lies here. AdapterRefused: there is none (any more), no regular file, or more than
        `size` bytes. StoreError: it can't be read in time."""
        what = f"samples {digest}"
        with self._errors(f"{what} could not be read from the store {self.name}"):
            folder, _, name = self._samples(digest).rpartition("/")
            content = b"".join(self._chunks(folder, name, size, what, what))
        if len(content) > size:
            raise AdapterRefused(f"{what} have more than {size} bytes in the store {self.name}")
        return content

    def _is_younger(self, path: str, before: datetime | None) -> bool:
        """Whether a file was written since then, as it is now and not as it was listed."""
        try:
            return before is not None and self._place[0].modified(path) >= before
        except FileNotFoundError:
            return False

    def remove_samples(self, digest: str, *, before: datetime | None = None) -> bool:
        """Whether there were such samples; now there are none, unless they were stored again since `before`. StoreError."""

        def remove(path: str) -> bool:
            self._place[0].invalidate_cache()
            if self._is_younger(path, before):
                return False
            try:
                self._place[0].rm_file(path)
            except FileNotFoundError:
                return False
            return True

        with self._errors(f"samples {digest} could not be removed from the store {self.name}"):
            return within(self._patience, partial(remove, self._samples(digest)))

    def remove_samples_before(self, time: datetime) -> int:
        """Removes all samples that were written before `time`, whoever refers to them; how many. StoreError."""

        def remove() -> int:
            fs, root = self._place
            try:
                paths = fs.find(f"{root}/samples")
            except FileNotFoundError:
                return 0
            old = [path for path in paths if fs.modified(path) < time]
            for path in old:
                fs.rm_file(path)
            return len(old)

        with self._errors(f"old samples could not be removed from the store {self.name}"):
            return within(self._patience, remove)

    def holdings(self) -> list[Holding]:
        """All adapters and samples that are here, whole or not, whoever refers to them. StoreError."""

        def look() -> list[Holding]:
            fs, root = self._place
            found: dict[tuple[HoldingKind, str], Holding] = {}
            for kind, folder in _FOLDERS.items():
                try:
                    files = fs.find(f"{root}/{folder}", detail=True)
                except FileNotFoundError:
                    continue
                for path, info in files.items():
                    name = str(path).removeprefix(f"{root}/{folder}/").partition("/")[0].removesuffix(".parquet")
                    if not re.fullmatch(r"[0-9a-f]{64}", name):
                        continue
                    key = kind, f"sha256:{name}"
                    before = found.get(key, Holding(*key, 0, datetime.min.replace(tzinfo=UTC)))
                    written = info.get("LastModified") or fs.modified(path)  # an object store is asked once, not for each file
                    found[key] = Holding(*key, before.size_bytes + info["size"], max(before.written, written))
            return list(found.values())

        with self._errors(f"the store {self.name} could not be listed"):
            return within(self._patience, look)

    def remove_adapter(self, digest: str, *, before: datetime | None = None) -> bool:
        """Whether there was anything of an adapter; now there is nothing. Its manifest goes first, so that what a crash leaves is
        none. One that was stored again since `before` stays: whoever did needs it. StoreError."""

        def remove() -> bool:
            fs, folder = self._place[0], self._folder(digest)
            fs.invalidate_cache()
            if not fs.exists(folder) or self._is_younger(f"{folder}/{MANIFEST}", before):
                return False
            if fs.exists(f"{folder}/{MANIFEST}"):
                fs.rm_file(f"{folder}/{MANIFEST}")
            fs.rm(folder, recursive=True)
            return True

        with self._errors(f"adapter {digest} could not be removed from the store {self.name}"):
            return within(self._patience, remove)

    def _chunks(self, folder: str, path: str, size: int, what: str, missing: str) -> Generator[bytes]:
        end = time.monotonic() + self._patience + size / SLOWEST

        def ask(call: Callable[[], T]) -> T:
            if time.monotonic() > end:
                raise TimeoutError(f"it comes at less than {SLOWEST // 1000} kB a second")
            return within(self._patience, call)

        fs, place = self._place[0], f"{folder}/{path}"
        try:
            info = ask(partial(fs.info, place))
            linked = info.get("islink") or ask(partial(self._behind_link, folder, path))
            if linked or info.get("type") != "file":
                raise AdapterRefused(f"{what} is no regular file in the store {self.name}")
            source = ask(partial(fs.open, place, "rb"))
        except FileNotFoundError:
            raise AdapterRefused(f"{missing} is not in the store {self.name}") from None
        try:
            left = size + 1
            while left > 0 and (chunk := ask(partial(source.read, min(left, CHUNK)))):
                left -= len(chunk)
                yield chunk
        finally:
            with suppress(Exception):  # after a read that was given up it may not close either
                within(1.0, source.close)

    def probe(self) -> None:
        """Writes, reads and removes a small file. StoreError when that does not work."""
        content = b"headrace"

        def there_and_back() -> bytes:
            fs, root = self._place
            path = f"{root}/.probe-{uuid.uuid4().hex}"
            fs.makedirs(root, exist_ok=True)
            fs.pipe_file(path, content)
            read = bytes(fs.cat_file(path))
            fs.rm_file(path)
            return read

        with self._errors(f"{self.name} can't be written and read"):
            read = within(self._patience, there_and_back)
        if read != content:
            raise StoreError(f"{self.name} gives back something else than was written")

    def _folder(self, digest: str) -> str:
        return f"{self._place[1]}/adapters/{hexadecimal(digest)}"

    def _samples(self, digest: str) -> str:
        return f"{self._place[1]}/samples/{hexadecimal(digest)}.parquet"

    def _complete(self, adapter: Adapter) -> bool:
        fs, place = self._place[0], self._folder(adapter.digest)
        try:
            sizes = {path.removeprefix(place + "/"): fs.size(path) for path in fs.find(place)}
        except FileNotFoundError:
            return False
        return MANIFEST in sizes and all(sizes.get(file.path) == file.size_bytes for file in adapter.files)

    def _behind_link(self, folder: str, path: str) -> bool:
        """Whether a folder on the way to a file, from `folder` down, is a link; only disks have them."""
        if not isinstance(self._place[0], LocalFileSystem):
            return False
        return any((Path(folder) / parent).is_symlink() for parent in PurePosixPath(path).parents)

    def _write(self, digest: str, path: str, source: BinaryIO, size: int) -> None:
        place = f"{self._folder(digest)}/{path}"
        within(self._patience + size / SLOWEST, partial(_write, self._place[0], place, source))

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Whatever is raised inside becomes `what: why`: drivers of object stores raise what they like."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            raise StoreError(f"{what}: {_reason(error)}") from error


def fetch(store: Store, digest: str, cache_dir: str | Path, announced: Sequence[AdapterFile] | None = None) -> Path:
    """The folder `{cache_dir}/adapters/<64 hex>` with exactly the files of `digest`, verified by size, sha256 and content.

    A cached folder is verified again and used as it is; otherwise the files come from `store` into a folder beside it that is
    renamed when all are right. `announced` is what somebody says the files are: another list than the digest's is refused.
    AdapterRefused: not in the store, a path leads elsewhere, a file is missing, wrong or of a kind that we never load.
    StoreError: the store can't be read in time, or the cache not written. Nothing else in the cache is touched.
    """
    target = Path(cache_dir) / "adapters" / hexadecimal(digest)
    if announced is not None:
        check_list(digest, announced)
    if _holds(target, digest):
        return target
    manifest = store.manifest(digest)
    files = files_of(digest, manifest)
    workplace = target.parent / f".{target.name[:16]}-{uuid.uuid4().hex}"  # short: some file systems limit names
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        workplace.mkdir()
        for file in files:
            with closing(store.chunks(digest, file.path, file.size_bytes)) as chunks:
                _save(chunks, workplace / file.path)
            try:
                check_file(workplace, file)
            except AdapterRefused as error:
                raise AdapterRefused(f"adapter {digest} in the store {store.name}: {error}") from None
        _save([manifest], workplace / MANIFEST)
        if target.exists() and not _holds(target, digest):  # a damaged cache; another process may have mended it meanwhile
            target.rename(workplace.with_name(workplace.name + "-damaged"))
        if not target.exists():
            try:
                workplace.rename(target)
            except OSError:
                if not _holds(target, digest):  # lost the race to somebody who put the same bytes there: fine
                    raise
    except OSError as error:
        raise StoreError(f"adapter {digest}: the cache {target.parent} can't be written: {_reason(error)}") from error
    finally:
        for leftover in target.parent.glob(f"{workplace.name}*"):
            shutil.rmtree(leftover, ignore_errors=True)
    return target


def _holds(folder: Path, digest: str) -> bool:
    """Whether `folder` has exactly the files of the adapter, byte for byte, and no links."""
    try:
        files = files_of(digest, (folder / MANIFEST).read_bytes())
        present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}
        if present != {MANIFEST, *(file.path for file in files)}:
            return False
        for file in files:
            check_file(folder, file)
    except (AdapterRefused, OSError):
        return False
    return True


def _save(chunks: Iterable[bytes], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as sink:
        for chunk in chunks:
            sink.write(chunk)
        durable_file.sync(sink)


def _write(fs: Any, path: str, source: BinaryIO) -> None:
    """Writes one file whole or not at all: by a rename on a disk; an object store shows an object only when it is complete."""
    if not isinstance(fs, LocalFileSystem):
        with fs.open(path, "wb") as sink:
            shutil.copyfileobj(source, sink, CHUNK)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as sink:
            shutil.copyfileobj(source, sink, CHUNK)
        durable_file.replace(part, target)  # an event will say that the adapter is there
    finally:
        part.unlink(missing_ok=True)


def _shown(text: str) -> str:
    """`text` without what may be a secret in the URLs in it."""
    return _USER_AND_QUERY.sub(r"\1\2", text)


def _reason(error: Exception) -> str:
    """An error of anybody's on one line."""
    text = _shown(" ".join(str(error).split()))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
