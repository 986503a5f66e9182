"""The adapter store: what goes in comes out, byte for byte, or is refused by name."""

from __future__ import annotations

import json
import os
import pickle
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from headrace_schemas.canonical import sha256
from headrace_schemas.derived import Adapter, AdapterFile
from headrace_streams.adapter_store import AdapterRefused, Store, StoreError, fetch, manifest_of


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


def lies(adapter: Adapter, *files: AdapterFile) -> Adapter:
    """`adapter` with other files and the digest that fits them: what a forged announcement looks like."""
    return msgspec.structs.replace(adapter, files=list(files), digest=sha256(manifest_of(files)))


def test_put_and_fetch_give_the_same_bytes(store: Store, folder: Path, tmp_path: Path) -> None:
    adapter = store.put(folder)
    assert adapter.digest.startswith("sha256:")
    assert adapter.format == "peft"
    assert adapter.size_bytes == sum(path.stat().st_size for path in folder.iterdir())
    fetched = fetch(adapter, tmp_path / "cache")
    assert fetched == tmp_path / "cache" / "adapters" / adapter.digest.removeprefix("sha256:")
    assert sha256((fetched / "manifest.json").read_bytes()) == adapter.digest
    for path in folder.iterdir():
        assert (fetched / path.name).read_bytes() == path.read_bytes()
    assert store.put(folder) == store.put(fetched) == store.adapter(adapter.digest) == adapter


def test_an_unfinished_put_is_finished_by_the_next(store: Store, folder: Path, tmp_path: Path) -> None:
    adapter = store.put(folder)
    place = tmp_path / "store" / "adapters" / adapter.digest[7:]
    (place / "manifest.json").unlink()
    (place / "adapter_config.json").unlink()
    with pytest.raises(AdapterRefused, match="not in the store"):
        store.adapter(adapter.digest)
    store.put(folder)
    assert (fetch(adapter, tmp_path / "cache") / "adapter_config.json").read_text() == '{"r":8}'


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
        fetch(adapter, tmp_path / "cache")
    assert list((tmp_path / "cache" / "adapters").iterdir()) == []


def test_a_digest_that_is_not_the_manifests_is_refused(store: Store, folder: Path, tmp_path: Path) -> None:
    adapter = store.put(folder)
    with pytest.raises(AdapterRefused, match="manifest"):
        fetch(msgspec.structs.replace(adapter, digest="sha256:" + "0" * 64), tmp_path / "cache")
    with pytest.raises(AdapterRefused, match="not the digest"):
        store.adapter("sha256:../../etc")


@pytest.mark.parametrize(
    "path", ["../x.json", "/etc/x.json", "a/../../x.json", "a\\x.json", "", "./x.json", "c:x.json", "manifest.json"]
)
def test_paths_that_lead_elsewhere_are_refused(store: Store, folder: Path, tmp_path: Path, path: str) -> None:
    adapter = store.put(folder)
    forged = lies(adapter, AdapterFile(path=path, size_bytes=2, sha256=sha256(b"{}")))
    with pytest.raises(AdapterRefused, match="plain relative path"):
        fetch(forged, tmp_path / "cache")


def test_a_pickle_is_not_fetched_even_when_announced(store: Store, folder: Path, tmp_path: Path) -> None:
    adapter = store.put(folder)
    forged = lies(adapter, AdapterFile(path="adapter_model.bin", size_bytes=2, sha256=sha256(b"{}")))
    with pytest.raises(AdapterRefused, match=r"adapter_model\.bin"):
        fetch(forged, tmp_path / "cache")


def test_a_damaged_cache_is_fetched_again(store: Store, folder: Path, tmp_path: Path) -> None:
    adapter = store.put(folder)
    cached = fetch(adapter, tmp_path / "cache")
    (cached / "adapter_config.json").write_text('{"r":9}')
    assert (fetch(adapter, tmp_path / "cache") / "adapter_config.json").read_text() == '{"r":8}'
    assert [path.name for path in cached.parent.iterdir()] == [cached.name]


def test_a_verified_cache_needs_no_store(store: Store, folder: Path, tmp_path: Path) -> None:
    adapter = store.put(folder)
    cached = fetch(adapter, tmp_path / "cache")
    (tmp_path / "store").rename(tmp_path / "gone")
    assert fetch(adapter, tmp_path / "cache") == cached


def test_many_fetch_at_once(store: Store, folder: Path, tmp_path: Path) -> None:
    adapter = store.put(folder)
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: fetch(adapter, tmp_path / "cache"), range(16)))
    assert len(set(folders)) == 1
    assert [path.name for path in folders[0].parent.iterdir()] == [folders[0].name]


def test_a_store_behind_a_url(folder: Path, tmp_path: Path) -> None:
    store = Store("memory://bucket")
    adapter = store.put(folder)
    assert adapter.uri == f"memory:///bucket/adapters/{adapter.digest[7:]}"
    assert store.adapter(adapter.digest) == adapter == store.put(folder)
    assert (fetch(adapter, tmp_path / "cache") / "adapter_config.json").read_text() == '{"r":8}'
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
    assert fetch(store.put(folder), tmp_path / "cache").is_dir()
