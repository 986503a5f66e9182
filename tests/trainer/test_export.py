"""`headrace export` writes an adapter as files that serve it elsewhere, each with a card; what cannot be is one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import json

from headrace_cli.main import invoke
from headrace_trainer.artifacts.card import ReleaseLineage, card
from headrace_trainer.artifacts.source import ModelSource
from headrace_trainer.model import lora
from headrace_trainer.policy import BasePolicy


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
    assert f"base_model: {tiny_base}" in said
    for heading in ("Files", "ReleaseLineage", "Data", "Evaluation", "Licence"):
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


def test_a_card_names_the_licence_files_of_the_base(tmp_path: Path) -> None:
    source = ModelSource("tiny", BasePolicy(weights=str(tmp_path)), None)
    assert "no licence file lies beside its weights" in card(source, ReleaseLineage(), "merged", [], tmp_path)
    (tmp_path / "LICENSE").write_text("…")
    assert "its files LICENSE go on to hold" in card(source, ReleaseLineage(), "merged", [], tmp_path)
