"""The attack: releases and versions on the log whose `uri` leads somewhere else. Nothing is opened, and readers go on.

Behind most of these addresses lies what the digest promises, byte for byte: whoever opened one would succeed.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import queue
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import msgspec
import pytest

import headrace as door
from headrace_schemas.derived import Adapter, ModelVersion
from headrace_schemas.events import BatchReady, ModelVersionCreated, ReleasePromoted, TrainingStarted
from headrace_streams.settings import Settings
from support import training_data
from support.released import BUCKET, adapter, awrite, event, release, write

pytestmark = pytest.mark.kafka

Run = Callable[..., tuple[int, str, str]]


class CountingServer(ThreadingHTTPServer):
    """Serves a folder to whoever asks, and counts them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder)))
        self.connections = 0

    def get_request(self) -> Any:
        self.connections += 1
        return super().get_request()


class Attack:
    """An adapter that lies everywhere but in the reader's store, and the addresses that lead to it."""

    def __init__(self, folder: Path, server: CountingServer, marker: Path) -> None:
        self.server, self.marker = server, marker
        made = adapter_in(folder / "elsewhere", folder / "made", 7)
        assert adapter_in("memory://elsewhere", folder / "made", 7).digest == made.digest
        self.adapter = made
        place = f"adapters/{made.digest[7:]}"
        command = f"{{{{ cycler.__init__.__globals__.os.system('touch {marker}') }}}}"
        references = {
            "version": 1,
            "gen": [{"key": "adapter_config.json", "url": command, "dimensions": {"i": {"stop": 1}}}],
            "refs": {"adapter_config.json": [f"http://127.0.0.1:{server.server_port}/x"]},
        }
        code = base64.b64encode(json.dumps(references).encode()).decode()
        served = f"http://127.0.0.1:{server.server_port}/{place}"
        self.uris = [
            f"reference::data:application/json;base64,{code}",
            f"memory://elsewhere/{place}",
            served,
            f"simplecache::{served}",
            f"file://{folder}/elsewhere/{place}",
            f"{folder}/elsewhere/{place}",
            "file:///etc",
            f"{folder}/data/store/../../elsewhere/{place}",
            f"{served}::{folder}/data/store",
            "::",
            "zip://::",
            "dir://x",
            "github://",
            "\n\0",
            "",
        ]

    def announced(self, uri: str) -> Adapter:
        return msgspec.structs.replace(self.adapter, uri=uri)

    def check_that_nobody_came(self, opened: list[str], store: str) -> None:
        assert self.server.connections == 0
        assert not self.marker.exists()
        assert set(opened) <= {store}, "only the reader's own setting is ever opened"


def adapter_in(url: str | Path, folder: Path, seed: int) -> Adapter:
    """A small adapter in the store at `url`."""
    return adapter(Settings(store=str(url)), folder, seed)


@pytest.fixture
def attack(settings: Settings, tmp_path: Path) -> Iterator[Attack]:
    (tmp_path / "elsewhere").mkdir()
    server = CountingServer(tmp_path / "elsewhere")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Attack(tmp_path, server, tmp_path / "marker")
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def opened(attack: Attack, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every address that is given to fsspec, from when the attack stands on."""
    seen: list[str] = []
    url_to_fs, open_ = fsspec.core.url_to_fs, fsspec.open

    def noted(url: str, **options: Any) -> Any:
        seen.append(url)
        return url_to_fs(url, **options)

    def noted_open(url: str, *arguments: Any, **options: Any) -> Any:
        seen.append(url)
        return open_(url, *arguments, **options)

    monkeypatch.setattr(fsspec.core, "url_to_fs", noted)
    monkeypatch.setattr(fsspec, "open", noted_open)
    return seen


def test_an_agent_opens_no_address_of_the_log_and_goes_on(
    settings: Settings, tmp_path: Path, attack: Attack, opened: list[str]
) -> None:
    good = adapter(settings, tmp_path / "good", 1)
    opened.clear()
    refused: list[str] = []
    arrived: queue.Queue[Path] = queue.Queue()

    def agent(releases: door.Releases) -> None:
        for served in releases.follow():
            try:
                folder = served.fetch()
            except door.StoreError as error:  # the loop of the documentation
                refused.append(str(error))
                continue
            arrived.put(folder)

    cache = tmp_path / "cache"
    with door.Releases(
        settings.bootstrap, deployment=settings.deployment, store=settings.store, cache=cache, buckets=[BUCKET]
    ) as releases:
        assert releases.current(BUCKET) is None
        following = threading.Thread(target=agent, args=(releases,))
        following.start()
        forged = [release(number, attack.announced(uri)) for number, uri in enumerate(attack.uris, 1)]
        write(settings, "releases", BUCKET, *(event(ReleasePromoted, one) for one in forged))
        moved = msgspec.structs.replace(good, uri=attack.uris[2])
        write(settings, "releases", BUCKET, event(ReleasePromoted, release(len(forged) + 1, moved)))
        assert arrived.get(timeout=30).name == good.digest[7:], "what is in the store is served, wherever it is said to be"
    following.join(30)
    assert not following.is_alive()
    assert len(refused) == len(attack.uris)
    for line in refused:
        assert attack.adapter.digest in line
        assert settings.store in line
        assert "\n" not in line
    attack.check_that_nobody_came(opened, settings.store)
    assert [folder.name for folder in (cache / "adapters").iterdir()] == [good.digest[7:]]


def test_async_releases_open_no_address_of_the_log(settings: Settings, tmp_path: Path, attack: Attack, opened: list[str]) -> None:
    async def serve() -> None:
        await awrite(settings, "releases", BUCKET, event(ReleasePromoted, release(1, attack.announced(attack.uris[0]))))
        async with door.AsyncReleases(
            settings.bootstrap, deployment=settings.deployment, store=settings.store, cache=tmp_path / "cache"
        ) as releases:
            served = await releases.current(BUCKET)
            assert served is not None
            with pytest.raises(door.StoreError, match=attack.adapter.digest):
                await served.fetch()

    asyncio.run(asyncio.wait_for(serve(), 60))
    attack.check_that_nobody_came(opened, settings.store)


def test_an_agent_that_names_no_store_reads_its_own_users(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    at_home = Settings().store
    here, there = adapter_in(at_home, tmp_path / "here", 1), adapter(settings, tmp_path / "there", 2)
    other = "code/tiny"
    write(settings, "releases", BUCKET, event(ReleasePromoted, release(1, here)))
    write(settings, "releases", other, event(ReleasePromoted, release(1, there, other)))
    with door.Releases(settings.bootstrap, deployment=settings.deployment, cache=tmp_path / "cache") as releases:
        at_home_release, elsewhere = releases.current(BUCKET), releases.current(other)
        assert at_home_release is not None
        assert elsewhere is not None
        assert at_home_release.fetch().name == here.digest[7:]
        with pytest.raises(door.AdapterRefused) as caught:
            elsewhere.fetch()
        assert there.digest in str(caught.value)
        assert at_home in str(caught.value)


@pytest.fixture
def evaluate(headrace: Run, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Adapter], str]:
    """Writes a version with an adapter, has it evaluated by the command, and gives the one line that it was refused with."""
    policy = tmp_path / "policy.toml"
    policy.write_text('[train.bases.tiny]\nweights = "nowhere"\n')
    for name, value in {"STORE": settings.store, "DATA_DIR": settings.data_dir, "POLICY": policy}.items():
        monkeypatch.setenv(f"HEADRACE_{name}", str(value))
    batch = training_data.batch([training_data.recorded(1).member])
    write(settings, "batches", training_data.BUCKET, event(BatchReady, batch))
    write(settings, "runs", training_data.BUCKET, event(TrainingStarted, training_data.start(batch)))
    numbers = itertools.count(1)

    def refused(made: Adapter) -> str:
        version = ModelVersion(
            version_id=f"v{next(numbers)}", bucket=batch.bucket, artifact_type=batch.artifact_type, base=batch.base, adapter=made,
            batch_id=batch.batch_id, run_id="r", method="lora", hyperparameters={}, rows=1, tokens=1, seconds=1.0,
            parent_adapter=None,
        )  # fmt: skip
        write(settings, "versions", batch.bucket, event(ModelVersionCreated, version))
        code, out, error = headrace("evaluate", version.version_id, "--device", "cpu")
        assert (code, out) == (4, ""), error
        assert error.count("\n") == 1
        return error

    return refused


@pytest.mark.slow(seconds=10)
def test_evaluate_opens_no_address_of_a_version(
    settings: Settings, attack: Attack, opened: list[str], evaluate: Callable[[Adapter], str]
) -> None:
    for uri in attack.uris:
        line = evaluate(attack.announced(uri))
        assert attack.adapter.digest in line
        assert settings.store in line
    attack.check_that_nobody_came(opened, settings.store)


def test_evaluate_opens_no_address_of_what_is_served(
    settings: Settings, tmp_path: Path, attack: Attack, opened: list[str], evaluate: Callable[[Adapter], str]
) -> None:
    good = adapter(settings, tmp_path / "good", 1)
    for sequence, uri in enumerate(attack.uris[:3], 1):
        forged = release(sequence, attack.announced(uri), training_data.BUCKET)
        write(settings, "releases", training_data.BUCKET, event(ReleasePromoted, forged))
        assert attack.adapter.digest in evaluate(good)
    attack.check_that_nobody_came(opened, settings.store)
