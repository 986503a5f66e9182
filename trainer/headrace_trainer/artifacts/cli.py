"""`headrace export`: a release, or an adapter in a folder, as files that serve it elsewhere. Knows the parts that write them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click

from headrace_cli.common import USAGE, CliError, common, emit, end_progress, note, progress, run
from headrace_schemas.derived import Batch
from headrace_schemas.events import BatchReady
from headrace_streams.settings import Settings
from headrace_trainer.artifacts.card import ReleaseLineage, card
from headrace_trainer.artifacts.source import ModelSource, source_of

FORMATS = ("adapter", "merged", "gguf", "gguf-adapter", "ollama")
_ADAPTER_FILES = ("*.safetensors", "*.json")


@click.command()
@click.argument("release", metavar="[RELEASE]", required=False)
@click.option("--format", "form", type=click.Choice(FORMATS), default="adapter", show_default=True, help="What is written.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write into; new or empty."
)
@click.option("--quantisation", type=click.Choice(["f16", "q8_0"]), default="q8_0", show_default=True, help="Of gguf and ollama.")
@click.option(
    "--adapter", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Instead of a release: an adapter."
)
@click.option("--base", metavar="NAME", help="A base of the policy, a folder or a hub name, where it is another than recorded.")
@common
def export(
    settings: Settings, as_json: bool, release: str | None, form: str, out: Path, quantisation: Any, adapter: Path | None,
    base: str | None,
) -> None:  # fmt: skip
    """Write RELEASE as files that serve it elsewhere, with a model card (README.md) beside.

    adapter: the PEFT folder. merged: base and adapter in one, for transformers and vLLM. gguf: the same in one file, for
    llama.cpp. gguf-adapter: the adapter alone, for llama.cpp beside a base in GGUF. ollama: gguf with a Modelfile."""
    if out.exists() and any(out.iterdir()):
        raise CliError(USAGE, f"--out {out}: it is not empty; name a new folder")
    source = run(source_of(settings, release, adapter, base))
    if source.adapter is None and form in ("adapter", "gguf-adapter"):
        raise CliError(
            USAGE, f"{release or source.base} is the base itself: there is no adapter to export; --format merged or gguf"
        )
    lineage = run(_lineage(settings, source)) if source.decision is not None else ReleaseLineage()
    out.mkdir(parents=True, exist_ok=True)
    try:
        base_folder = _write(source, form, out, quantisation)
        files = sorted(path for path in out.iterdir() if path.is_file())
        (out / "README.md").write_text(card(source, lineage, form, files, base_folder), encoding="utf-8")
    except BaseException:  # half of a model looks like a model
        for path in out.iterdir():
            path.unlink() if path.is_file() else shutil.rmtree(path)
        raise
    if as_json:
        emit({"format": form, "folder": str(out), "adapter": source.digest, "base": source.base,
              "files": {path.name: path.stat().st_size for path in files}})  # fmt: skip
        return
    for path in files:
        click.echo(f"{path}  {path.stat().st_size:,} bytes")
    note(f"{form} of {release or source.base}; its card is {out / 'README.md'}")


def _write(source: ModelSource, form: str, out: Path, quantisation: Any) -> Path | None:
    """The folder of the base's files, where it was needed."""
    if form == "adapter":
        assert source.adapter is not None
        for pattern in _ADAPTER_FILES:
            for path in source.adapter.glob(pattern):
                shutil.copyfile(path, out / path.name)
        return None
    from headrace_trainer.artifacts.gguf_file import write_adapter, write_model
    from headrace_trainer.artifacts.merge import merged, write_merged
    from headrace_trainer.artifacts.modelfile import modelfile
    from headrace_trainer.model.base import load_config
    from headrace_trainer.model.hub import folder_of
    from headrace_trainer.model.stops import stop_ids

    if form == "gguf-adapter":
        assert source.adapter is not None
        folder = folder_of(source.loading).path
        write_adapter(source.adapter, load_config(str(folder), source.loading.trust_remote_code), out / "adapter.gguf")
        return folder
    progress(f"merging into {source.base}")
    found = merged(source)
    if form == "merged":
        write_merged(found, out)
        end_progress()
        return found.folder
    stops = [str(found.tokenizer.convert_ids_to_tokens(stop)) for stop in stop_ids(found.tokenizer, found.model)]
    said = modelfile("model.gguf", found.tokenizer, stops) if form == "ollama" else None  # before gigabytes are written
    progress(f"writing {quantisation}")
    write_model(found, out / "model.gguf", quantisation)
    end_progress()
    if said is not None:
        (out / "Modelfile").write_text(said, encoding="utf-8")
    return found.folder


async def _lineage(settings: Settings, source: ModelSource) -> ReleaseLineage:
    from headrace_streams import requests
    from headrace_streams.kafka.reader import Reader

    assert source.decision is not None
    data = source.decision.data
    version = next((each for each in await requests.versions(settings) if each.version_id == data.version_id), None)
    evaluation = await requests.evaluation(settings, data.evaluation_id) if data.evaluation_id is not None else None
    batch: Batch | None = None
    if version is not None:
        named = Reader(settings).events("batches", key=data.bucket, containing=version.batch_id.encode())
        async for event in named:
            if isinstance(event, BatchReady) and event.data.batch_id == version.batch_id:
                batch = event.data
    return ReleaseLineage(version, evaluation, batch)
