"""Models and LoRA adapters as GGUF files, which llama.cpp and Ollama read. Knows the container's library and byte-level
tokenizers; no log, no release."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import gguf
import torch
from torch import Tensor

from headrace_trainer.artifacts.gguf_names import family_of, name_of, rope_factors, turned
from headrace_trainer.artifacts.merge import MergedModel, NotExportable
from headrace_trainer.model import lora

Quantisation = Literal["f16", "q8_0"]
_TYPES = {
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
_BLOCK = 32  # weights of a block of q8_0; a row that is no multiple stays in f16
# How texts are cut before merges, as tokenizer files spell it: llama.cpp has each as code of its own, by name.
_CUTS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen2",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": (
        "llama-bpe"
    ),
}


def write_model(found: MergedModel, path: Path, quantisation: Quantisation) -> Path:
    """NotExportable for a family or a tokenizer that is not known, before anything is written."""
    model, config = found.model, found.model.config
    family = family_of(config)
    vocabulary = _vocabulary(found.tokenizer, model.get_input_embeddings().num_embeddings)
    weights = {name: tensor for name, tensor in model.state_dict().items() if not (_tied(config) and name == "lm_head.weight")}
    names = {name: name_of(name.rpartition(".")[0]) for name in weights}
    kind, file_type = _TYPES[quantisation]
    writer = gguf.GGUFWriter(path, family)
    _describe(writer, config, file_type)
    _tell_tokenizer(writer, found.tokenizer, vocabulary)
    for name, tensor in weights.items():
        ours = turned(family, names[name], tensor.float(), config)
        _add(writer, f"{names[name]}.{name.rpartition('.')[2]}", ours, kind)
    if (factors := rope_factors(model, config)) is not None:
        _add(writer, "rope_freqs.weight", factors, kind)
    return _written(writer, path)


def write_adapter(folder: Path, config: Any, path: Path) -> Path:
    """The LoRA adapter in `folder`, for a base of this config. The scale that is written is `alpha · √r` for rsLoRA, as readers
    divide by r. NotExportable for what a GGUF adapter can't say: DoRA, layers trained whole, ranks or scales of single layers."""
    family, settings = family_of(config), lora.config_of(folder)
    for field in ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern"):
        if settings.get(field):
            raise NotExportable(f"adapter {folder}: {field} = {settings[field]!r}: no GGUF adapter can say it; use --format gguf")
    tensors = lora.tensors_in(folder)
    writer = gguf.GGUFWriter(path, family)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha_of(settings))
    for name, tensor in sorted(tensors.items()):
        module, _, side = name.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".")
        if side not in ("lora_A", "lora_B"):
            raise NotExportable(f"adapter {folder}: {name}: no GGUF adapter can say it; use --format gguf")
        ours = name_of(module)
        value = tensor if side == "lora_A" else turned(family, ours, tensor, config)
        _add(writer, f"{ours}.weight.{side.lower()}", value, gguf.GGMLQuantizationType.F32)
    return _written(writer, path)


def alpha_of(settings: Mapping[str, Any]) -> float:
    """What readers of GGUF divide by the rank, for the scale of an adapter."""
    rank, alpha = int(settings["r"]), float(settings["lora_alpha"])
    return alpha * rank**0.5 if settings.get("use_rslora") else alpha


def _tied(config: Any) -> bool:
    return bool(getattr(config, "tie_word_embeddings", False))


def _describe(writer: gguf.GGUFWriter, config: Any, file_type: Any) -> None:
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(config.model_type)
    writer.add_file_type(file_type)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(float((getattr(config, "rope_parameters", None) or {}).get("rope_theta", 10000.0)))
    writer.add_rope_dimension_count(size)
    if size * heads != config.hidden_size:
        writer.add_key_length(size)
        writer.add_value_length(size)
    writer.add_vocab_size(config.vocab_size)


class _Vocabulary(NamedTuple):
    tokens: list[str]
    types: list[int]
    merges: list[str]
    cut: str


def _vocabulary(tokenizer: Any, rows: int) -> _Vocabulary:
    """As many tokens as the embedding has rows: those that no text has are unused."""
    told = json.loads(tokenizer.backend_tokenizer.to_str())
    cut = _cut_of(told)
    if told["model"].get("type") != "BPE" or cut is None:
        raise NotExportable(
            "tokenizer: GGUF is written for byte-level BPE cut as by Qwen2, Llama 3 or GPT-2; use --format merged"
        )
    known = {index: token for token, index in tokenizer.get_vocab().items()}
    added = {entry["id"]: entry["special"] for entry in told["added_tokens"]}
    tokens = [known.get(index, f"[PAD{index}]") for index in range(rows)]
    kinds = gguf.TokenType
    types = [
        int(kinds.UNUSED if index not in known else kinds.CONTROL if added.get(index) else
            kinds.USER_DEFINED if index in added else kinds.NORMAL)
        for index in range(rows)
    ]  # fmt: skip
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in told["model"]["merges"]]
    return _Vocabulary(tokens, types, merges, cut)


def _cut_of(told: Mapping[str, Any]) -> str | None:
    """llama.cpp's name of how texts are cut; None for a way that is not known."""
    steps = told.get("pre_tokenizer") or {}
    parts = steps.get("pretokenizers", [steps])
    if not parts or parts[-1].get("type") != "ByteLevel" or parts[-1].get("add_prefix_space"):
        return None
    if len(parts) == 1:
        return "gpt-2" if parts[0].get("use_regex", True) else None
    if len(parts) > 2 or parts[0].get("type") != "Split" or parts[0].get("behavior") != "Isolated":
        return None
    return _CUTS.get((parts[0].get("pattern") or {}).get("Regex", ""))


def _tell_tokenizer(writer: gguf.GGUFWriter, tokenizer: Any, vocabulary: _Vocabulary) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.cut)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    for add, token in (
        (writer.add_bos_token_id, tokenizer.bos_token_id), (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):  # fmt: skip
        if token is not None:
            add(token)
    writer.add_add_bos_token(begins_with_bos(tokenizer))
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def begins_with_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer itself puts its first token before every text."""
    ids = tokenizer("a")["input_ids"]
    return bool(ids) and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id


def _add(writer: gguf.GGUFWriter, name: str, tensor: Tensor, kind: Any) -> None:
    """Vectors stay in fp32."""
    value = tensor.detach().to(torch.float32).contiguous().numpy()
    if value.ndim < 2:
        kind = gguf.GGMLQuantizationType.F32
    elif kind == gguf.GGMLQuantizationType.Q8_0 and value.shape[-1] % _BLOCK:
        kind = gguf.GGMLQuantizationType.F16
    writer.add_tensor(name, gguf.quants.quantize(value, kind), raw_dtype=kind)


def _written(writer: gguf.GGUFWriter, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
