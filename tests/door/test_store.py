"""The adapter store: what goes in comes out, byte for byte, or is refused by name."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pickle
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec import AbstractFileSystem

from headrace_schemas.canonical import sha256
from headrace_schemas.derived import Adapter, AdapterFile
from headrace_streams import adapter_store
from headrace_streams.adapter_files import AdapterRefused, StoreError, files_of, manifest_of
from headrace_streams.adapter_store import Store, fetch


def safetensors(payload: bytes = b"\0" * 16) -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [len(payload) // 4], "data_offsets": [0, len(payload)]}}).encode()
    return struct.pack("<Q", len(header)) + header + payload


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(safetensors())
    (folder / "adapter_config.json").write_text('{"r":8}')
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def planted(root: Path, files: dict[str, bytes]) -> Adapter:
    """An adapter that somebody put into the store at `root` by hand, whatever it holds."""
    rows = [AdapterFile(path=path, size_bytes=len(content), sha256=sha256(content)) for path, content in files.items()]
    digest = sha256(manifest_of(rows))
    place = root / "adapters" / digest[7:]
    for path, content in {**files, "manifest.json": manifest_of(rows)}.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(content)
    return Adapter(digest=digest, uri=str(place), format="peft", size_bytes=0, files=rows)


def test_put_and_fetch_give_the_same_bytes(store: Store, folder: Path, tmp_path: Path) -> None:
    adapter = store.put(folder)
    assert adapter.digest.startswith("sha256:")
    assert adapter.format == "peft"
    assert adapter.size_bytes == sum(path.stat().st_size for path in folder.iterdir())
    fetched = fetch(store, adapter.digest, tmp_path / "cache")
    assert fetched == tmp_path / "cache" / "adapters" / adapter.digest.removeprefix("sha256:")
    assert sha256((fetched / "manifest.json").read_bytes()) == adapter.digest
    for path in folder.iterdir():
        assert (fetched / path.name).read_bytes() == path.read_bytes()
    assert store.put(folder) == store.put(fetched) == adapter
    assert files_of(adapter.digest, store.manifest(adapter.digest)) == adapter.files


def test_an_unfinished_put_is_finished_by_the_next(store: Store, folder: Path, tmp_path: Path) -> None:
    adapter = store.put(folder)
    place = tmp_path / "store" / "adapters" / adapter.digest[7:]
    (place / "manifest.json").unlink()
    (place / "adapter_config.json").unlink()
    with pytest.raises(AdapterRefused, match="not in the store"):
        fetch(store, adapter.digest, tmp_path / "cache")
    store.put(folder)
    assert (fetch(store, adapter.digest, tmp_path / "cache") / "adapter_config.json").read_text() == '{"r":8}'


@pytest.mark.parametrize("name", ["adapter_model.bin", "optimizer.pt", "x.pkl", "training_args.bin", "README.md", "run.py"])
def test_other_kinds_of_files_are_refused_by_name(store: Store, folder: Path, name: str) -> None:
    (folder / name).write_bytes(pickle.dumps([1]))
    with pytest.raises(AdapterRefused, match=name):
        store.put(folder)


def test_a_pickle_under_another_name_is_refused(store: Store, folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(pickle.dumps({"w": [1.0] * 100}))
    with pytest.raises(AdapterRefused, match="not safetensors"):
        store.put(folder)


def test_links_and_empty_folders_are_refused(store: Store, folder: Path, tmp_path: Path) -> None:
    (folder / "vocab.json").symlink_to("/etc/hostname")
    with pytest.raises(AdapterRefused, match=r"vocab\.json"):
        store.put(folder)
    with pytest.raises(AdapterRefused, match="missing or empty"):
        store.put(tmp_path / "nowhere")


@pytest.mark.parametrize("damage", ["change", "cut", "grow", "remove"])
def test_a_wrong_or_missing_file_is_refused_and_leaves_nothing(store: Store, folder: Path, tmp_path: Path, damage: str) -> None:
    adapter = store.put(folder)
    weights = tmp_path / "store" / "adapters" / adapter.digest[7:] / "adapter_model.safetensors"
    good = weights.read_bytes()
    match damage:
        case "change":
            weights.write_bytes(good[:-1] + b"\1")
        case "cut":
            weights.write_bytes(good[:-1])
        case "grow":
            weights.write_bytes(good + b"\0" * (3 << 20))
        case "remove":
            weights.unlink()
    with pytest.raises(AdapterRefused, match=r"adapter_model\.safetensors"):
        fetch(store, adapter.digest, tmp_path / "cache")
    assert list((tmp_path / "cache" / "adapters").iterdir()) == []


def test_a_digest_that_is_not_the_manifests_is_refused(store: Store, folder: Path, tmp_path: Path) -> None:
    adapter = store.put(folder)
    with pytest.raises(AdapterRefused, match="manifest"):
        fetch(store, "sha256:" + "0" * 64, tmp_path / "cache", adapter.files)
    with pytest.raises(AdapterRefused, match="manifest"):
        fetch(store, adapter.digest, tmp_path / "cache", adapter.files[1:])
    (tmp_path / "store" / "adapters" / adapter.digest[7:] / "manifest.json").write_bytes(b"[]")
    with pytest.raises(AdapterRefused, match="manifest"):
        fetch(store, adapter.digest, tmp_path / "cache")
    with pytest.raises(AdapterRefused, match="not the digest"):
        fetch(store, "sha256:../../etc", tmp_path / "cache")


@pytest.mark.parametrize(
    "path", ["../x.json", "/etc/x.json", "a/../../x.json", "a\\x.json", "", "./x.json", "c:x.json", "manifest.json"]
)
def test_paths_that_lead_elsewhere_are_refused(store: Store, tmp_path: Path, path: str) -> None:
    files = [AdapterFile(path=path, size_bytes=2, sha256=sha256(b"{}"))]
    with pytest.raises(AdapterRefused, match="plain relative path"):
        fetch(store, sha256(manifest_of(files)), tmp_path / "cache", files)
    place = tmp_path / "store" / "adapters" / sha256(manifest_of(files))[7:]
    place.mkdir(parents=True)
    (place / "manifest.json").write_bytes(manifest_of(files))
    with pytest.raises(AdapterRefused, match="plain relative path"):
        fetch(store, sha256(manifest_of(files)), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"adapter_model.bin": b"{}"}, r"adapter_model\.bin.*never pickles"),
        ({"adapter_model.safetensors": pickle.dumps({"w": [1.0] * 100})}, "not safetensors"),
        ({"adapter_model.safetensors": struct.pack("<Q", 2) + b"[]"}, "not safetensors"),
        ({"adapter_model.safetensors": struct.pack("<Q", 1 << 40) + b"{}"}, "not safetensors"),
        ({"adapter_model.safetensors": safetensors()[:-1]}, "not safetensors"),
        ({"adapter_model.safetensors": b""}, "not safetensors"),
        ({}, "no files"),
    ],
)
def test_what_is_no_adapter_is_not_fetched_even_from_our_own_store(
    store: Store, tmp_path: Path, files: dict[str, bytes], said: str
) -> None:
    adapter = planted(tmp_path / "store", files)
    with pytest.raises(AdapterRefused, match=said):
        fetch(store, adapter.digest, tmp_path / "cache")
    with pytest.raises(AdapterRefused, match=said):
        fetch(store, adapter.digest, tmp_path / "cache", adapter.files)
    planted(tmp_path / "cache", files)
    with pytest.raises(AdapterRefused, match=said):
        fetch(store, adapter.digest, tmp_path / "cache")


@pytest.mark.parametrize("linked", ["file", "folder", "pipe"])
def test_links_and_pipes_in_the_store_are_refused(store: Store, folder: Path, tmp_path: Path, linked: str) -> None:
    adapter = store.put(folder)
    place = tmp_path / "store" / "adapters" / adapter.digest[7:]
    weights = place / "adapter_model.safetensors"
    match linked:
        case "file":
            weights.unlink()
            weights.symlink_to(folder / "adapter_model.safetensors")
        case "folder":
            place.rename(tmp_path / "elsewhere")
            place.symlink_to(tmp_path / "elsewhere")
        case "pipe":
            weights.unlink()
            os.mkfifo(weights)
    with pytest.raises(AdapterRefused, match="no regular file"):
        fetch(store, adapter.digest, tmp_path / "cache")


def test_a_link_in_the_cache_is_replaced_by_the_file(store: Store, folder: Path, tmp_path: Path) -> None:
    adapter = store.put(folder)
    cached = fetch(store, adapter.digest, tmp_path / "cache")
    (cached / "adapter_config.json").unlink()
    (cached / "adapter_config.json").symlink_to(folder / "adapter_config.json")
    assert not (fetch(store, adapter.digest, tmp_path / "cache") / "adapter_config.json").is_symlink()


def test_a_damaged_cache_is_fetched_again(store: Store, folder: Path, tmp_path: Path) -> None:
    adapter = store.put(folder)
    cached = fetch(store, adapter.digest, tmp_path / "cache")
    (cached / "adapter_config.json").write_text('{"r":9}')
    assert (fetch(store, adapter.digest, tmp_path / "cache") / "adapter_config.json").read_text() == '{"r":8}'
    assert [path.name for path in cached.parent.iterdir()] == [cached.name]


def test_a_verified_cache_needs_no_store(store: Store, folder: Path, tmp_path: Path) -> None:
    adapter = store.put(folder)
    cached = fetch(store, adapter.digest, tmp_path / "cache")
    (tmp_path / "store").rename(tmp_path / "gone")
    assert fetch(store, adapter.digest, tmp_path / "cache") == cached


def test_many_fetch_at_once(store: Store, folder: Path, tmp_path: Path) -> None:
    adapter = store.put(folder)
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: fetch(store, adapter.digest, tmp_path / "cache"), range(16)))
    assert len(set(folders)) == 1
    assert [path.name for path in folders[0].parent.iterdir()] == [folders[0].name]


def test_a_store_behind_a_url(folder: Path, tmp_path: Path) -> None:
    store = Store("memory://bucket")
    adapter = store.put(folder)
    assert adapter.uri == f"memory:///bucket/adapters/{adapter.digest[7:]}"
    assert store.put(folder) == adapter
    assert (fetch(store, adapter.digest, tmp_path / "cache") / "adapter_config.json").read_text() == '{"r":8}'
    with pytest.raises(StoreError, match="nosuch"):
        Store("nosuch://x")


def test_a_write_that_fails_leaves_no_adapter(
    store: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        store.put(folder)
    monkeypatch.undo()
    assert not [name for _, _, names in os.walk(tmp_path / "store") for name in names]
    assert fetch(store, store.put(folder).digest, tmp_path / "cache").is_dir()


def test_a_cache_that_cannot_be_written_is_a_store_error(store: Store, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(StoreError, match=r"cache .* can't be written"):
        fetch(store, store.put(folder).digest, tmp_path / "cache")


def test_an_adapter_that_is_not_there_is_named_with_the_store(store: Store, tmp_path: Path) -> None:
    digest = "sha256:" + "a" * 64
    with pytest.raises(AdapterRefused) as caught:
        fetch(store, digest, tmp_path / "cache")
    assert digest in str(caught.value)
    assert str(tmp_path / "store") in str(caught.value)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("url", ["simplecache::memory://x", "reference::data:,x", "/tmp/x::/tmp/y"])
def test_a_chain_of_addresses_is_no_store(url: str) -> None:
    with pytest.raises(StoreError, match="::"):
        Store(url)


class Odd(AbstractFileSystem):  # type: ignore[misc]
    """A driver that raises what its URL says, or never answers."""

    protocol = "odd"
    stall = threading.Event()

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        if "stall" in path:
            self.stall.wait(30)
        raise {"index": IndexError, "cancelled": asyncio.CancelledError, "lines": OSError}[path.partition("/")[0]]("list\nindex")


class Unreachable(Odd):
    """A driver that connects as soon as it is made, and can't."""

    protocol = "unreachable"
    cachable = False

    def __init__(self, **_: Any) -> None:
        raise IndexError("list\nindex")


class Dripping(Odd):
    """A driver that gives a byte now and then, and never all."""

    protocol = "dripping"

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return {"name": path, "type": "file", "size": None}

    def _open(self, path: str, *_: Any, **__: Any) -> Any:
        stall = self.stall

        class Drip(io.RawIOBase):
            def read(self, size: int = -1) -> bytes:
                stall.wait(0.01)
                return b"["

        return Drip()


@pytest.fixture
def odd_drivers() -> Iterator[None]:
    fsspec.register_implementation("odd", Odd, clobber=True)
    fsspec.register_implementation("unreachable", Unreachable, clobber=True)
    fsspec.register_implementation("dripping", Dripping, clobber=True)
    Odd.stall.clear()
    yield
    Odd.stall.set()


@pytest.mark.usefixtures("odd_drivers")
@pytest.mark.parametrize("url", ["odd://index", "odd://cancelled", "odd://lines", "unreachable://x"])
def test_whatever_a_driver_raises_is_one_line_that_names_store_and_digest(folder: Path, tmp_path: Path, url: str) -> None:
    digest = "sha256:" + "a" * 64
    actions: list[Callable[[], object]] = [
        lambda: fetch(Store(url), digest, tmp_path / "cache"),
        lambda: Store(url).manifest(digest),
        lambda: Store(url).put(folder),
        lambda: Store(url).probe(),
    ]
    for act in actions:
        with pytest.raises(StoreError) as caught:
            act()
        assert "\n" not in str(caught.value)
    with pytest.raises(StoreError) as caught:
        actions[0]()
    assert digest in str(caught.value)
    assert url in str(caught.value)


@pytest.mark.usefixtures("odd_drivers")
@pytest.mark.parametrize(("url", "said"), [("odd://stall", "no answer within 0.2 s"), ("dripping://x", "less than .* a second")])
def test_a_store_that_does_not_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, said: str) -> None:
    monkeypatch.setattr(adapter_store, "SLOWEST", 10_000_000)
    with pytest.raises(StoreError, match=said):
        fetch(Store(url, patience=0.2), "sha256:" + "a" * 64, tmp_path / "cache")


def test_an_http_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    """The real thing: it takes the connection, reads, and says nothing."""
    pytest.importorskip("aiohttp")
    with socket.create_server(("127.0.0.1", 0)) as tarpit:
        url = f"http://127.0.0.1:{tarpit.getsockname()[1]}/store"
        with pytest.raises(StoreError, match=r"no answer within 0.3 s"):
            fetch(Store(url, patience=0.3), "sha256:" + "a" * 64, tmp_path / "cache")


def test_no_secret_of_a_url_is_shown() -> None:
    assert Store("memory://user:hush@bucket/x?sig=hush").name == "memory://bucket/x"
    with pytest.raises(StoreError) as caught:
        Store("nosuch://user:hush@bucket::x")
    assert "hush" not in str(caught.value)
