"""`headrace export` writes an adapter as files that serve it elsewhere, each with a card; what cannot be is one line."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from msgspec import json, structs

from headrace_cli.common import CliError
from headrace_cli.main import invoke
from headrace_schemas.codec import decode
from headrace_schemas.events import ReleasePromoted
from headrace_streams import release_log
from headrace_streams.kafka.reader import Reader
from headrace_streams.release_log import Decision
from headrace_streams.settings import Settings
from headrace_trainer.artifacts.card import ReleaseLineage, card
from headrace_trainer.artifacts.merge import merged
from headrace_trainer.artifacts.source import ModelSource, source_of
from headrace_trainer.model import lora
from headrace_trainer.policy import BasePolicy

GOLDENS = Path(__file__).parents[1] / "goldens"


@pytest.mark.parametrize(
    ("form", "files"),
    [
        ("adapter", {lora.CONFIG, lora.WEIGHTS}),
        ("gguf-adapter", {"adapter.gguf"}),
        ("ollama", {"model.gguf", "Modelfile"}),
        ("merged", {"config.json", "model.safetensors", "tokenizer.json"}),
    ],
)
def test_an_adapter_is_written_in_each_form_with_its_card(
    form: str, files: set[str], tiny_base: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    told = ["export", "--adapter", str(trained), "--base", str(tiny_base), "--format", form, "--out", str(out), "--json"]
    assert invoke(told) == 0
    found = json.decode(capsys.readouterr().out)
    assert files <= set(found["files"])
    assert all(size > 0 for size in found["files"].values())
    said = (out / "README.md").read_text()
    assert f"base_model: {json.encode(str(tiny_base)).decode()}\n" in said
    for heading in ("Files", "Lineage", "Data", "Evaluation", "Licence"):
        assert f"\n## {heading}\n" in said
    assert invoke(told) == 2
    assert "it is not empty" in capsys.readouterr().err


def test_what_cannot_be_exported_is_one_line(tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "out")]
    for arguments, line in (
        ([], "which model? give --release, --adapter or --base"),
        (["--base", str(tiny_base)], "there is no adapter to export; --format merged or gguf"),
        (["r1", "--adapter", str(tiny_base)], "--release and --adapter: give one of them"),
        (["--adapter", str(tiny_base)], "adapter_config.json"),
    ):
        assert invoke(["export", *arguments, *out]) != 0
        err = capsys.readouterr().err
        assert line in err
        assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_export_that_ends_before_its_end_leaves_nothing_and_can_be_tried_again(
    tiny_base: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ["export", "--adapter", str(trained), "--base", str(tiny_base), "--out", str(tmp_path / "out")]
    with monkeypatch.context() as patched:
        patched.setattr("headrace_trainer.artifacts.cli.card", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
        assert invoke(told) != 0
    assert "no space left" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []
    assert invoke(told) == 0


def test_a_base_that_the_log_names_is_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    promoted = decode((GOLDENS / "headrace.release.promoted.v1.json").read_bytes())
    assert isinstance(promoted, ReleasePromoted)
    data = structs.replace(promoted.data, base="somebody/elses-model", adapter=None)

    async def history(_: Reader) -> list[Decision]:
        return [Decision("promoted", "", data)]

    monkeypatch.setattr(release_log, "history", history)
    found = asyncio.run(source_of(Settings(), data.release_id, None, None))
    assert found.base == "somebody/elses-model", "its name, for a card"
    with pytest.raises(CliError, match=r"no weights are mapped to base 'somebody/elses-model': map them in train\.bases, or"):
        merged(found)
    named = asyncio.run(source_of(Settings(), data.release_id, None, "/a/folder"))
    assert named.loading.weights == "/a/folder", "of whoever asks"


def test_what_others_have_named_is_text_on_a_card(tmp_path: Path) -> None:
    base = "x\nlicense: mit\n---\n![](https://example.net/beacon) <img src=x>"
    said = card(ModelSource(base, None, tmp_path / "[a](b)"), ReleaseLineage(), "adapter", [], None)
    assert said.splitlines()[3] == "---", "the header ends where it should"
    assert "license: mit" not in said.splitlines()
    assert "![](" not in said.partition("# ")[2]
    assert "\\[a\\](b)" in said
    assert "\\<img" in said


def test_a_card_names_the_licence_files_of_the_base(tmp_path: Path) -> None:
    source = ModelSource("tiny", BasePolicy(weights=str(tmp_path)), None)
    assert "no licence file lies beside its weights" in card(source, ReleaseLineage(), "merged", [], tmp_path)
    (tmp_path / "LICENSE").write_text("…")
    assert "its files LICENSE go on to hold" in card(source, ReleaseLineage(), "merged", [], tmp_path)
