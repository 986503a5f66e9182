"""The manifest of a lake: which segments it consists of, and the cut, the next offset of each partition. Knows no broker.

`manifest.json` is the only truth of a lake's folder: it is replaced whole, by the one feeder that holds the lock, after the
segments that it names are on disk. A file that it does not name is no part of the lake.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from headrace_lake.segment import Segment
from headrace_schemas.canonical import canonical, digest
from headrace_schemas.root_error import FAILED, NO, USAGE, HeadraceError
from headrace_schemas.topics import TOPICS
from headrace_streams import durable_file
from headrace_streams.adapter_files import file_sha256
from headrace_streams.file_lock import shared_lock, try_lock

FORMAT = 1
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MANIFEST, SEGMENTS, ACTIVITY = "manifest.json", "segments", "activity"
FEEDER_LOCK, READERS_LOCK = "feeder.lock", "readers.lock"

# What is raw is not kept longer than its topic keeps it, and a compacted topic only repeats what is said.
LAKE_TOPICS = tuple(topic.name for topic in TOPICS if topic.trusted_key and not topic.compacted)

Place = tuple[str, int]  # short name of a topic, partition


class LakeError(HeadraceError):
    """The lake's folder is not what it should be; the message says what to do."""

    exit_code = NO


class ForeignLake(LakeError):
    """The folder is another deployment's lake, or none."""

    exit_code = USAGE


class LakeFull(LakeError):
    """There is no room for what the log has beside what the lake holds, which is whole."""

    exit_code = FAILED


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A lake at one cut. `cut`: the next offset by `topic/partition`; between `segments` of a partition lie no records that the
    log still has, only markers. `cluster` is the id that the brokers give themselves."""

    format: int = FORMAT
    deployment: str
    cluster: str
    cut: dict[str, int] = {}
    segments: list[Segment] = []

    def offset(self, place: Place) -> int | None:
        """The next offset of a partition; None for one that the lake has not begun with."""
        return self.cut.get(f"{place[0]}/{place[1]}")

    def of(self, topic: str, partition: int | None = None) -> list[Segment]:
        """Segments of a topic, or of one partition of it, in the order of offsets."""
        return [one for one in self.segments if one.topic == topic and partition in (None, one.partition)]

    def partitions(self, topic: str) -> list[int]:
        """The partitions of a topic that the lake has."""
        named = (place.rpartition("/") for place in self.cut)
        return sorted(int(number) for name, _, number in named if name == topic)

    def moved(self, cut: Mapping[Place, int], segments: Iterable[Segment]) -> Manifest:
        """The same with another list of segments, and the partitions of `cut` at other offsets."""
        offsets = self.cut | {f"{topic}/{partition}": offset for (topic, partition), offset in cut.items()}
        ordered = sorted(segments, key=lambda one: (one.topic, one.partition, one.start))
        return msgspec.structs.replace(self, cut=dict(sorted(offsets.items())), segments=ordered)


class LakeFolder:
    """Where a lake lies. Readers `open` it at one cut; a feeder holds it, and alone writes."""

    def __init__(self, path: Path) -> None:
        self.path, self.segments, self.activity = path, path / SEGMENTS, path / ACTIVITY
        self._read: tuple[tuple[int, int, int], Manifest] | None = None  # the manifest that was read last, and its file

    def file(self, segment: Segment) -> Path:
        return self.segments / segment.file

    def activity_file(self, segment: Segment) -> Path:
        """What was counted of a segment; it need not be there."""
        return self.activity / segment.file

    def load(self) -> Manifest:
        """What the manifest says now. LakeError when there is none, or one that can't be right. A file that was read is not read
        again: to look whether it was altered takes as long as a small query."""
        path = self.path / MANIFEST
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                read = status.st_ino, status.st_size, status.st_mtime_ns
                if self._read is not None and self._read[0] == read:
                    return self._read[1]
                raw = file.read()
        except FileNotFoundError:
            raise LakeError(f"{self.path}: there is no lake: `headrace lake follow` makes one") from None
        try:
            tree = msgspec.json.decode(raw)
            if not isinstance(tree, dict):
                raise ValueError("it is no object")
            written = tree.pop("digest", None)
            version = tree.get("format")
            if isinstance(version, int) and version > FORMAT:
                raise ForeignLake(f"{path}: format {version} is of a newer Headrace, this one knows {FORMAT}")
            if written != digest(tree):
                raise ValueError("its digest is not that of what it says")
            manifest = msgspec.convert(tree, Manifest)
            self._read = read, manifest
            return manifest
        except (msgspec.DecodeError, ValueError) as error:
            raise LakeError(
                f"{path}: the manifest was altered ({error}): remove the folder, `headrace lake follow` makes it anew"
            ) from error

    def bound(self, deployment: str, cluster: str) -> Manifest:
        """The manifest of this deployment's lake, a new one in an empty folder. ForeignLake for another's folder; feeder only."""
        if not (self.path / MANIFEST).exists():
            strange = {child.name for child in self.path.iterdir()} - {FEEDER_LOCK, READERS_LOCK, SEGMENTS, ACTIVITY}
            if strange:
                raise ForeignLake(f"{self.path}: it is no lake, and not empty: it holds {sorted(strange)[0]!r}")
            self.segments.mkdir(exist_ok=True)
            self.store(Manifest(deployment=deployment, cluster=cluster))
        manifest = self.load()
        for name, ours, theirs in (("deployment", deployment, manifest.deployment), ("cluster", cluster, manifest.cluster)):
            if ours != theirs:
                raise ForeignLake(f"{self.path}: it is the lake of {name} {theirs!r}, and this is {ours!r}: take another folder")
        return manifest

    def store(self, manifest: Manifest) -> None:
        """Makes `manifest` the lake's, whole or not at all. OSError when it can't be written."""
        tree: dict[str, Any] = msgspec.to_builtins(manifest)
        temporary = self.path / f".{MANIFEST}.{os.getpid()}"
        try:
            temporary.write_bytes(canonical(tree | {"digest": digest(tree)}) + b"\n")
            durable_file.replace(temporary, self.path / MANIFEST)
        finally:
            temporary.unlink(missing_ok=True)

    @contextmanager
    def fed(self) -> Iterator[None]:
        """Holds the folder for the one feeder; LakeError while another process does. LakeFull when what is done in it finds
        no room."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / FEEDER_LOCK).open("a+") as file:
            if not try_lock(file):
                raise LakeError(f"{self.path}: another feeder holds this lake; one is enough, any number may read")
            try:
                yield
            except OSError as error:
                if error.errno in _NO_ROOM:
                    raise LakeFull(
                        f"{self.path}: {os.strerror(error.errno)}: what the lake holds is whole; make room, and `headrace lake "
                        "follow` goes on from there"
                    ) from error
                raise

    @contextmanager
    def open(self, *, whole: bool = True) -> Iterator[Manifest]:
        """The manifest as it is now, whose files stay until this is left, whatever the feeder does. With `whole`, LakeError for a
        segment that is not there or was altered."""
        with ExitStack() as stack:
            path = self.path / READERS_LOCK
            if path.exists():
                stack.enter_context(shared_lock(path))
            manifest = self.load()
            if whole:
                for segment in manifest.segments:
                    if (fault := self.fault(segment)) is not None:
                        raise LakeError(f"{self.file(segment)}: {fault}: `headrace lake follow` makes it anew from the log")
            yield manifest

    def fault(self, segment: Segment, *, thorough: bool = False) -> str | None:
        """What is wrong with a segment's file; None for one that is as it was written. Only one whose size or time of change is
        another is read, or, if `thorough`, every one."""
        path = self.file(segment)
        try:
            status = path.stat()
        except FileNotFoundError:
            return "the segment is missing"
        if status.st_size != segment.size_bytes:
            return f"the segment has {status.st_size} bytes, not {segment.size_bytes}"
        if (thorough or status.st_mtime_ns != segment.modified_ns) and (found := file_sha256(path)) != segment.sha256:
            return f"the segment was altered: its digest is {found[:23]}, not {segment.sha256[:23]}"
        return None

    def remove_activity(self) -> None:
        """Removes all that was counted: it is made anew. Feeder only."""
        for child in self.activity.iterdir() if self.activity.exists() else ():
            child.unlink()

    def remove_strangers(self, manifest: Manifest) -> list[str]:
        """Removes files of segments that `manifest` does not name, unless somebody reads: then next time. Feeder only."""
        named = {segment.file for segment in manifest.segments}
        with (self.path / READERS_LOCK).open("a+") as file:
            if not try_lock(file):
                return []
            strange = [child for child in self.segments.iterdir() if child.name not in named]
            counted = self.activity.iterdir() if self.activity.exists() else ()
            for child in (*strange, *(child for child in counted if child.name not in named)):
                child.unlink()
        for child in self.path.glob(f".{MANIFEST}.*"):
            child.unlink()
        return [child.name for child in strange]
