"""A base is what its files are: a changed one is noticed and named, a restart hashes nothing twice, hub names become folders."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import orjson
import pytest
import torch

from headrace_schemas.canonical import sha256
from headrace_trainer.job.process import probe_hardware
from headrace_trainer.learning.loop import _RunState
from headrace_trainer.model.base import load_base
from headrace_trainer.model.hub import folder_of
from headrace_trainer.model.identity import BaseMissing, FileNotes, changes, identify
from headrace_trainer.model.precision import surroundings_of
from headrace_trainer.model.sharding import ALONE
from headrace_trainer.policy import BasePolicy, Hyperparameters


@pytest.fixture
def folder(tiny_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


def edit(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    content = orjson.loads(path.read_bytes())
    change(content)
    path.write_bytes(orjson.dumps(content))


def flip(path: Path) -> None:
    """The last byte another, size and time of change as before or not: the caller's."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def rewrite(path: Path) -> None:
    path.write_text("{{ messages }}")


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "weights": (lambda folder: flip(folder / "model.safetensors"), "weights"),
    "stop ids": (lambda folder: edit(folder / "generation_config.json", lambda config: config.update(eos_token_id=5)), "config"),
    "scale": (lambda folder: edit(folder / "config.json", lambda config: config.update(rms_norm_eps=1e-3)), "config"),
    "tokens": (lambda folder: edit(folder / "tokenizer_config.json", lambda config: config.update(pad_token="!")), "tokenizer"),
    "template": (lambda folder: rewrite(folder / "chat_template.jinja"), "template"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_what_of_a_base_is_another_is_named(folder: Path, kind: str) -> None:
    change, part = CHANGES[kind]
    before = identify(folder, FileNotes())
    assert changes(before, identify(folder, FileNotes())) == ""
    change(folder)
    after = identify(folder, FileNotes())
    said = changes(before, after)
    assert said.startswith(f"{part} sha256:")
    assert "," not in said, "and nothing else"
    assert after.digest != before.digest


def test_files_that_say_nothing_of_the_base_change_nothing(folder: Path) -> None:
    before = identify(folder, FileNotes())
    (folder / "README.md").write_text("a card")
    (folder / "optimizer.pt").write_bytes(b"state")
    assert identify(folder, FileNotes()) == before


def test_a_restart_hashes_only_what_has_another_size_or_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = tmp_path / "trainer" / "bases.json"
    progress: list[tuple[int, int]] = []
    first = identify(folder, FileNotes(notes), on_hashed=lambda done, whole: progress.append((done, whole)))
    assert progress[-1][0] == progress[-1][1] > 0
    written = notes.stat().st_ino
    assert identify(folder, FileNotes(notes), on_hashed=lambda done, whole: progress.append((-1, -1))) == first
    assert progress[-1] != (-1, -1), "nothing was read"
    assert notes.stat().st_ino == written, "and nothing written"
    weights = folder / "model.safetensors"
    stat = weights.stat()
    flip(weights)
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert identify(folder, FileNotes(notes)) == first, "what the notes do not prove: same size, same time"
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert identify(folder, FileNotes(notes)).weights != first.weights
    notes.write_text("{ half")
    assert identify(folder, FileNotes(notes)).config == first.config


def test_a_folder_that_is_no_base_or_half_of_one_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseMissing, match=r"no such folder"):
        folder_of(BasePolicy(weights=str(tmp_path / "none")))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(BaseMissing, match=r"no config\.json"):
        identify(empty, FileNotes())
    (empty / "config.json").write_text("{}")
    with pytest.raises(BaseMissing, match=r"no weights"):
        identify(empty, FileNotes())
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_bytes(orjson.dumps(index))
    with pytest.raises(
        BaseMissing, match=r"model-00002-of-00002\.safetensors, which model\.safetensors\.index\.json names, is not"
    ):
        identify(folder, FileNotes())


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as the library asks for: what a repository holds, and its files."""

    def __init__(self, folder: Path, asked: list[str], *arguments: object) -> None:
        self.folder, self.asked = folder, asked
        super().__init__(*arguments)  # type: ignore[arg-type]

    def log_message(self, *arguments: object) -> None:
        return

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, body: bool = True) -> None:
        if body:
            self.asked.append(self.path)
        name = self.path.rpartition("/")[2]
        headers = {"X-Repo-Commit": COMMIT}
        if self.path.startswith("/api/models/org/tiny/revision/"):
            names = [path.name for path in sorted(self.folder.iterdir())]
            content = orjson.dumps({"id": "org/tiny", "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]})
        elif f"/resolve/{COMMIT}/" in self.path and (self.folder / name).is_file():
            content = (self.folder / name).read_bytes()
            headers["ETag"] = f'"{sha256(content)[7:]}"'
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def hub(folder: Path) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    (folder / "model.py").write_text("raise SystemExit")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, folder, asked))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    server.server_close()
    thread.join()


DOWNLOAD = """
import sys
from headrace_trainer.model.hub import folder_of
from headrace_trainer.model.identity import BaseMissing, FileNotes, identify
from headrace_trainer.policy import BasePolicy
told = []
try:
    found = folder_of(BasePolicy(weights=sys.argv[1], revision=sys.argv[2]), lambda done, whole: told.append((done, whole)))
except BaseMissing as error:
    print(error)
else:
    identity = identify(found.path, FileNotes(), revision=found.revision)
    print(identity.digest, identity.revision, found.hub_name, told[-1] if told else None, (found.path / "model.py").exists())
assert "torch" not in sys.modules, "who starts jobs loads no torch"
"""


def download(endpoint: str, home: Path, name: str = "org/tiny", revision: str = "main") -> str:
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HF_ENDPOINT": endpoint, "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }  # fmt: skip
    command = [sys.executable, "-c", DOWNLOAD, name, revision]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow(seconds=8)
def test_a_hub_name_is_downloaded_once_with_bytes_told_and_its_commit_is_known(
    hub: tuple[str, list[str]], folder: Path, tmp_path: Path
) -> None:
    endpoint, asked = hub
    local = identify(folder, FileNotes())
    digest, revision, name, *told, code = download(endpoint, tmp_path / "home").split()
    (folder / "model.py").unlink()  # not downloaded: nobody trusts it
    assert digest == identify(folder, FileNotes()).digest != local.digest
    assert (revision, name, code) == (COMMIT, "org/tiny", "False")
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert int(told[1].strip(")")) == pytest.approx(size, rel=0.2), "the bar's end"
    assert told[0].strip("(,") == told[1].strip(")"), "which was reached"
    files = [path for path in asked if "/resolve/" in path]
    again = download(endpoint, tmp_path / "home").split()
    assert again[:3] == [digest, revision, name]
    assert [path for path in asked if "/resolve/" in path] == files, "nothing was downloaded again"
    assert download("http://127.0.0.1:9", tmp_path / "home").split()[:3] == [digest, revision, name], (
        "the hub is away: what is here"
    )
    said = download(endpoint, tmp_path / "other", "org/none")
    assert said.startswith("base weights 'org/none' (hub name) cannot be had: ")
    assert "\n" not in said


def test_code_that_comes_with_weights_is_not_run_unless_trusted(folder: Path, tmp_path: Path) -> None:
    edit(
        folder / "config.json",
        lambda config: config.update(auto_map={"AutoConfig": "code.Own", "AutoModelForCausalLM": "code.M"}),
    )
    edit(folder / "config.json", lambda config: config.update(model_type="own"))
    marker = tmp_path / "ran"
    (folder / "code.py").write_text(f"open({str(marker)!r}, 'w')\nclass Own: pass\n")
    with pytest.raises(BaseMissing, match=r"write trust_remote_code = true in \[train\.bases\]") as refused:
        load_base(str(folder))
    assert "\n" not in str(refused.value)
    assert not marker.exists()


def test_attention_is_computed_as_policy_says_or_refused_in_one_line(folder: Path) -> None:
    assert load_base(str(folder), attn_implementation="eager").model.config._attn_implementation == "eager"
    with pytest.raises(BaseMissing, match=r"attn_implementation: FlashAttention2") as refused:
        load_base(str(folder), attn_implementation="flash_attention_2")
    assert "\n" not in str(refused.value)


def test_surroundings_say_on_what_a_run_computes() -> None:
    found = surroundings_of("cpu", 3)
    assert (found.device, found.threads, found.torch) == ("cpu", 3, torch.__version__)
    assert found.instructions == torch.backends.cpu.get_cpu_capability()
    assert type(found.torch) is str, "a version of torch is a class of its own, which no encoder knows"
    assert asyncio.run(probe_hardware("cpu", 3)).surroundings == found, "as pins say it: found where jobs run, by policy"


def test_the_generator_of_the_device_that_trains_is_kept_and_no_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    kept: dict[str, torch.Tensor] = {}

    def get(device: str = "cuda") -> torch.Tensor:
        asked.append(device)
        return torch.arange(4, dtype=torch.uint8)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", get)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device="cuda": kept.update({device: state}))
    model = torch.nn.Linear(2, 2)
    _RunState(model, Hyperparameters(), "cpu", ALONE).dump("r")
    assert asked == [], "a job on the CPU asks no GPU, which may be another's"
    state = _RunState(model, Hyperparameters(), "cuda:1", ALONE)
    state.load(state.dump("r"))
    assert asked == ["cuda:1"]
    assert kept.keys() == {"cuda:1"}


@pytest.mark.parametrize("modules", ["model.identity, headrace_trainer.model.hub", "artifacts.cli, headrace_trainer.suite_cli"])
def test_identity_is_found_and_a_command_is_understood_without_torch(modules: str) -> None:
    code = f"import sys, headrace_trainer.{modules}; assert 'torch' not in sys.modules"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
