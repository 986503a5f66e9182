"""A copy of a task's changelog state in a folder of this machine. Knows files, keys and bytes; no Kafka, no fold.

One file of frames, each with a checksum: what changed, the changelog offset behind that change, and the broker's time of it.
Frames are only appended, so whatever a crash leaves of the file, all frames before the first bad one are a state from which the
changelog can be read on. Nothing is ever synced to disk for that reason. When half of the file has been replaced, or what was
replaced is a day old (what was erased must not lie here for ever), a thread writes what holds into a new one.

Nothing here stops a task: what can't be read, written or locked is said in one line, and the changelog has it all.
"""

from __future__ import annotations

import logging
import os
import shutil
import struct
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from headrace_schemas.topics import DAY_MS
from headrace_streams.file_lock import try_lock

log = logging.getLogger("headrace")

REWRITE_BYTES = 64 * 1024 * 1024  # that a file may grow beyond twice of what it holds
REWRITE_MS = DAY_MS // 2  # after which what was replaced is left out, as a changelog does (`Compaction.within_ms`)
FRAME_BYTES = 1024 * 1024  # of values, in a frame of a rewritten file
WORK_SECONDS, PAUSE_SECONDS = 0.005, 0.001  # of a thread that rewrites
_HEAD = struct.Struct("<II")  # length and CRC-32 of what follows
_ANY = "surrogateescape"  # state keys that somebody else wrote need not be text
_FORM = "headrace local state 2"

Changes = Mapping[str, bytes | None]  # by state key; None: it is gone


class _Owner(msgspec.Struct, frozen=True, array_like=True):
    form: str
    owner: str
    made_ms: int


class _Frame(msgspec.Struct, frozen=True, array_like=True, gc=False):
    offset: int
    at_ms: int
    texts: dict[str, bytes | None]  # changes by key; what reads a million of them need not decode each by hand
    form: str = ""
    others: dict[bytes, bytes | None] = {}  # changes under keys that are no text

    @property
    def changes(self) -> dict[str, bytes | None]:
        if not self.others:
            return self.texts
        return self.texts | {key.decode(errors=_ANY): value for key, value in self.others.items()}


class Kept(NamedTuple):
    """What a folder had: the changelog's values below `offset`, none newer than the broker's time `at_ms`. `form`: as what all of
    them have been read or written before; empty where that is not known of all."""

    values: dict[str, bytes]
    offset: int
    at_ms: int
    form: str = ""


class LocalState:
    """The folder of one task, for one process. `owner` names whose state it is: of another's, nothing is taken.

    `open`, `load`, `restart` where that was of no use, then `append` each committed change in order, and `close`."""

    def __init__(self, folder: Path, label: str, owner: str) -> None:
        self._folder, self._label, self._owner = folder, label, owner
        self._path, self._fresh = folder / "values", folder / "values.new"
        self._lock: IO[bytes] | None = None
        self._file: IO[bytes] | None = None  # None: not open, or given up
        self._made_ms = self._size = self._held = 0  # bytes of the file, and what they were when nothing in it was replaced
        self._rewriting: _Rewriting | None = None

    def open(self) -> bool:
        """Takes the folder, which is made if need be. False, said in the log, when it can't be had."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = (self._folder / "lock").open("wb")
            if not try_lock(self._lock):
                log.warning(
                    "%s: local state in %s is another process's: all is read from the changelog", self._label, self._folder
                )
                self.close()
                return False
            self._fresh.unlink(missing_ok=True)
            self._file = self._path.open("ab+")
        except OSError as error:
            self._give_up(error)
        return self._file is not None

    def load(self) -> Kept | None:
        """What the folder holds, up to the first frame that is not whole; None where that is nothing. Says what is not taken."""
        if self._file is None:
            return None
        try:
            return self._load(self._file)
        except OSError as error:
            self._give_up(error)
            return None

    def _load(self, file: IO[bytes]) -> Kept | None:
        size = os.fstat(file.fileno()).st_size
        if not size:
            return None
        file.seek(0)
        whole = 0
        values: dict[str, bytes] = {}
        owner: _Owner | None = None
        last: _Frame | None = None
        for payload in _payloads(file, size):
            try:
                if owner is None:
                    owner = _decode_owner(payload)
                    if owner.owner != self._owner:
                        self.refuse(f"is of {owner.owner[:300]}, not of {self._owner}")
                        return None
                    if owner.form != _FORM:
                        self.refuse(f"has the form {owner.form[:300]!r}, not {_FORM!r}")
                        return None
                else:
                    last = _decode_frame(payload)
            except msgspec.MsgspecError:
                break
            whole += _HEAD.size + len(payload)
            if last is not None:
                _apply(last.changes, values)
        if whole < size:
            log.warning("%s: local state in %s: its last %d bytes are damaged", self._label, self._folder, size - whole)
        if owner is None or last is None:
            return None
        file.truncate(whole)
        self._made_ms, self._size = owner.made_ms, whole
        self._held = sum(map(len, values)) + sum(map(len, values.values()))
        return Kept(values, last.offset, last.at_ms, last.form)

    def refuse(self, why: str) -> None:
        """Says why what was loaded is not gone by."""
        log.warning("%s: local state in %s %s: it is made anew from the changelog", self._label, self._folder, why)

    def restart(self, at_ms: int) -> None:
        """Begins anew, with nothing."""
        if self._file is None:
            return
        try:
            self._file.truncate(0)
            self._size = self._held = _write(self._file, _Owner(_FORM, self._owner, at_ms))
            self._made_ms = at_ms
        except OSError as error:
            self._give_up(error)

    def append(self, changes: Changes, offset: int, at_ms: int, form: str = "") -> None:
        """Takes in changes that the changelog has: all of its records below `offset`, none newer than `at_ms`. With `form`, all
        values up to here are known to be of that."""
        if self._file is None:
            return
        try:
            self._size += _write(self._file, _frame(offset, at_ms, changes, form))
        except OSError as error:
            self._give_up(error)

    def tidy(self, now_ms: int) -> None:
        """Has what was replaced left out of the file when that is much, or old; costs nothing otherwise. Call it often."""
        if self._file is None:
            return
        try:
            if self._rewriting is None:
                much = self._size > 2 * self._held + REWRITE_BYTES
                old = now_ms - self._made_ms > REWRITE_MS and self._size > self._held
                if much or old:
                    self._rewriting = _Rewriting(self._path, self._size, self._fresh, _Owner(_FORM, self._owner, now_ms))
            elif self._rewriting.done:
                self._take_over(self._file, self._rewriting)
        except OSError as error:
            self._give_up(error)

    def _take_over(self, file: IO[bytes], done: _Rewriting) -> None:
        self._rewriting = None
        if done.error is not None:
            raise done.error
        fresh = self._fresh.open("ab+")
        file.seek(done.size)  # what came since
        shutil.copyfileobj(file, fresh)
        fresh.flush()
        self._fresh.replace(self._path)
        file.close()
        self._file, self._made_ms, self._held = fresh, done.owner.made_ms, done.written
        self._size = os.fstat(fresh.fileno()).st_size

    def close(self) -> None:
        """Gives the folder back; never raises."""
        rewriting, self._rewriting = self._rewriting, None
        if rewriting is not None:
            rewriting.stop()
        for file in (self._file, self._lock):
            if file is not None:
                with suppress(OSError):
                    file.close()
        self._file = self._lock = None

    def _give_up(self, error: OSError) -> None:
        log.warning("%s: local state in %s is given up: %s: the changelog has it all", self._label, self._folder, error)
        if self._file is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
        self.close()


class _Rewriting:
    """A thread that writes what holds of a file's first `size` bytes into another. Nobody may change these meanwhile."""

    def __init__(self, source: Path, size: int, target: Path, owner: _Owner) -> None:
        self.size, self.owner = size, owner
        self.written = 0  # bytes
        self.error: OSError | None = None
        self._source, self._target = source, target
        self._paused = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"rewrite {source.parent.name}", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def stop(self) -> None:
        """Gives it up."""
        self._stopped.set()
        self._thread.join()
        with suppress(OSError):
            self._target.unlink(missing_ok=True)

    def _run(self) -> None:
        try:
            with self._source.open("rb") as source, self._target.open("wb") as target:
                self._copy(source, target)
        except OSError as error:
            self.error = error
        except msgspec.MsgspecError as error:
            self.error = OSError(f"{self._source} has changed under our hands: {error}")

    def _copy(self, source: IO[bytes], target: IO[bytes]) -> None:
        newest: dict[str, int] = {}  # the frame that has the value of a key
        for number, frame in enumerate(_frames(source, self.size)):
            for key, value in frame.changes.items():
                if value is None:
                    newest.pop(key, None)
                else:
                    newest[key] = number
            if self._give_way():
                return
        self.written = _write(target, self.owner)
        kept: dict[str, bytes | None] = {}
        size, last = 0, None
        for number, last in enumerate(_frames(source, self.size)):
            for key, value in last.changes.items():
                if value is not None and newest.get(key) == number:
                    kept[key] = value
                    size += len(value)
            if size >= FRAME_BYTES:
                self.written += _write(target, _frame(last.offset, last.at_ms, kept))
                kept, size = {}, 0
            if self._give_way():
                return
        if last is not None:
            self.written += _write(target, _frame(last.offset, last.at_ms, kept, last.form))

    def _give_way(self) -> bool:
        """After each frame, of which there may be a million: whoever folds records gets turns. Whether it is given up."""
        if time.monotonic() - self._paused > WORK_SECONDS:
            time.sleep(PAUSE_SECONDS)
            self._paused = time.monotonic()
        return self._stopped.is_set()


def _frame(offset: int, at_ms: int, changes: Changes, form: str = "") -> _Frame:
    others = {key.encode(errors=_ANY): value for key, value in changes.items() if not _is_text(key)}
    texts = {key: value for key, value in changes.items() if _is_text(key)} if others else changes
    return _Frame(offset, at_ms, texts, form, others)  # type: ignore[arg-type]


def _is_text(key: str) -> bool:
    if key.isascii():
        return True
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True


def _apply(changes: dict[str, bytes | None], values: dict[str, bytes]) -> None:
    values.update(changes)  # type: ignore[arg-type]
    if None in changes.values():
        for key, value in changes.items():
            if value is None:
                del values[key]


def _frames(file: IO[bytes], size: int) -> Iterator[_Frame]:
    file.seek(0)
    payloads = _payloads(file, size)
    next(payloads, None)
    yield from map(_decode_frame, payloads)


def _payloads(file: IO[bytes], size: int) -> Iterator[memoryview]:
    """Of `size` bytes, up to the first that are not as they were written. Each holds until the next is asked for: one buffer for
    all, as memory that is new costs as much as all the rest."""
    buffer = memoryview(bytearray(2 * FRAME_BYTES))
    while size >= _HEAD.size:
        length, crc = _HEAD.unpack(file.read(_HEAD.size))
        size -= _HEAD.size
        if not 0 < length <= size:
            return
        if length > len(buffer):
            buffer = memoryview(bytearray(length))
        payload = buffer[:length]
        if file.readinto(payload) != length or zlib.crc32(payload) != crc:  # type: ignore[attr-defined]
            return
        size -= length
        yield payload


def _write(file: IO[bytes], entry: _Owner | _Frame) -> int:
    """Appends an entry, at once and as a whole; its bytes."""
    payload = _encode(entry)
    file.write(_HEAD.pack(len(payload), zlib.crc32(payload)) + payload)
    file.flush()
    return _HEAD.size + len(payload)


_encode = msgspec.msgpack.Encoder().encode
_decode_owner = msgspec.msgpack.Decoder(_Owner).decode
_decode_frame = msgspec.msgpack.Decoder(_Frame).decode


def remove_old(parent: Path, seconds: float) -> None:
    """Removes what tasks that no longer run here have left in folders of `parent`, untouched for so long: nobody would go by it,
    and what was erased since is still in it. Never raises."""
    with suppress(OSError):
        for path in parent.glob("*/values"):
            with suppress(OSError), (path.parent / "lock").open("ab") as lock:
                if time.time() - path.stat().st_mtime > seconds and try_lock(lock):
                    path.unlink()
