"""Merged models, GGUF files and Modelfiles compute and say what the model does that they came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from headrace_trainer.artifacts.gguf_file import alpha_of, write_adapter, write_model
from headrace_trainer.artifacts.gguf_names import rope_factors
from headrace_trainer.artifacts.merge import NotExportable, merged, write_merged
from headrace_trainer.artifacts.modelfile import modelfile
from headrace_trainer.artifacts.source import ModelSource
from headrace_trainer.model import lora
from headrace_trainer.policy import BasePolicy
from support import architectures, tiny, training

IDS = torch.tensor([[5, 17, 80, 41, 200, 3, 9]])


def llama(folder: Path, **changed: Any) -> Path:
    """With more rows than its tokenizer has tokens."""
    return architectures.build("llama", folder, vocab_size=len(tiny.tokenizer()) + 3, **changed)


def adapter(base: Path, folder: Path, **more: Any) -> Path:
    """A LoRA adapter that changes every layer, and its own configuration file as peft writes it."""
    model = AutoModelForCausalLM.from_pretrained(base)
    wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM", **more))
    training.moved(wrapped, 1, 0.2).save_pretrained(str(folder))
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return torch.as_tensor(model.eval()(IDS).logits).float()


def source(base: Path, folder: Path | None = None, **loading: Any) -> ModelSource:
    return ModelSource("tiny", BasePolicy(weights=str(base), **loading), folder)


@pytest.mark.parametrize("family", ["qwen2", "llama"])
@pytest.mark.parametrize(("kind", "far"), [("f16", 2e-3), ("q8_0", 0.05)])
def test_a_gguf_file_that_is_loaded_back_gives_the_logits_of_the_merged_model(
    family: str, kind: Any, far: float, tmp_path: Path
) -> None:
    base = tiny.build(tmp_path / "base") if family == "qwen2" else llama(tmp_path / "base")
    tuned = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base), str(adapter(base, tmp_path / "adapter", use_rslora=True))
    )
    wanted = logits(tuned)
    found = merged(source(base, tmp_path / "adapter"))
    torch.testing.assert_close(logits(found.model), wanted, atol=1e-5, rtol=1e-5)
    write_model(found, tmp_path / "out" / "model.gguf", kind)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", gguf_file="model.gguf", dtype=torch.float32)
    torch.testing.assert_close(logits(loaded), wanted, atol=far, rtol=0)
    assert (logits(AutoModelForCausalLM.from_pretrained(base)) - wanted).abs().max() > 0.1, "the adapter changes nothing"
    if family == "qwen2":  # transformers' reader of llama's wants a first token, which this one has not
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out", gguf_file="model.gguf")
        ours = AutoTokenizer.from_pretrained(base)
        assert tokenizer("hello world 012")["input_ids"] == ours("hello world 012")["input_ids"]


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_the_scale_and_the_tensors_of_a_lora_in_gguf_are_what_the_adapter_adds(family: str, tmp_path: Path) -> None:
    base = tiny.build(tmp_path / "base") if family == "qwen2" else llama(tmp_path / "base")
    folder = adapter(base, tmp_path / "adapter", use_rslora=True)
    model = AutoModelForCausalLM.from_pretrained(base)
    reader = gguf.GGUFReader(write_adapter(folder, model.config, tmp_path / "adapter.gguf"))
    tensors = {tensor.name: np.asarray(tensor.data) for tensor in reader.tensors}
    field = reader.get_field("adapter.lora.alpha")
    assert field is not None
    alpha = float(field.contents())
    assert alpha == pytest.approx(6 * 4**0.5)
    tuned = PeftModel.from_pretrained(model, str(folder))
    layer: Any = tuned.get_submodule("base_model.model.model.layers.1.self_attn.q_proj")
    delta = layer.get_delta_weight("default").detach()
    down, up = tensors["blk.1.attn_q.weight.lora_a"], tensors["blk.1.attn_q.weight.lora_b"]
    if family == "llama":  # four heads of eight: each head's halves interleaved
        delta = torch.cat([head.reshape(2, 4, 32).transpose(0, 1).reshape(8, 32) for head in delta.split(8)])
    np.testing.assert_allclose(up @ down * alpha / 4, delta.numpy(), atol=1e-5)
    assert alpha_of({"r": 4, "lora_alpha": 6}) == 6


def test_a_folder_of_merged_weights_is_loaded_as_any_other_in_the_format_of_the_base(tmp_path: Path) -> None:
    base = tiny.build(tmp_path / "base")
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    model.to(torch.bfloat16)
    model.save_pretrained(base)
    folder = adapter(base, tmp_path / "adapter")
    files = write_merged(merged(source(base, folder)), tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.dtype == torch.bfloat16
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in files}
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), str(folder))
    torch.testing.assert_close(logits(loaded.float()), logits(tuned), atol=0.05, rtol=0)


def test_what_cannot_be_written_is_one_line_that_says_what_can_be_done(tmp_path: Path) -> None:
    base = tiny.build(tmp_path / "base")
    with pytest.raises(NotExportable, match=r"quantisation = 'nf4': it can't be merged; export --format adapter"):
        merged(source(base, quantisation="nf4"))
    found = merged(source(base))
    for change, said in (
        ({"model_type": "gemma2"}, "model_type = 'gemma2': GGUF is written for llama, qwen2; export --format merged"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type = 'yarn'"),
        ({"use_sliding_window": True}, "use_sliding_window = True"),
    ):
        kept = {name: getattr(found.model.config, name) for name in change}
        for name, value in change.items():
            setattr(found.model.config, name, value)
        with pytest.raises(NotExportable, match=said):
            write_model(found, tmp_path / "model.gguf", "f16")
        for name, value in kept.items():
            setattr(found.model.config, name, value)
    assert not (tmp_path / "model.gguf").exists()
    folder = adapter(base, tmp_path / "dora", use_dora=True)
    with pytest.raises(NotExportable, match="use_dora = True: no GGUF adapter can say it; use --format gguf"):
        write_adapter(folder, found.model.config, tmp_path / "adapter.gguf")


def test_llama3_s_slower_frequencies_stand_in_the_file(tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(llama(tmp_path / "base", rope_parameters=scaling))
    factors = rope_factors(model, model.config)
    assert factors is not None
    assert float(factors[0]) == pytest.approx(1.0)
    assert float(factors[-1]) == pytest.approx(8.0)
    assert all(1 <= float(factor) <= 8.00001 for factor in factors)


def test_a_modelfile_asks_as_the_chat_template_does() -> None:
    said = modelfile("model.gguf", tiny.tokenizer(), ["<|im_end|>"])
    assert said.splitlines()[0] == "FROM ./model.gguf"
    template = said.partition('TEMPLATE """')[2].partition('"""')[0]
    filled = template.replace("{{ if .System }}", "").replace("{{ .System }}", "S").replace("{{ .Prompt }}", "U")
    with_system, _, rest = filled.partition("{{ else }}")
    asked = with_system + rest.partition("{{ end }}")[2].replace("{{ .Response }}", "A")
    wanted = tiny.tokenizer().apply_chat_template(
        [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}, {"role": "assistant", "content": "A"}],
        tokenize=False,
    )
    assert asked == wanted
    assert 'PARAMETER stop "<|im_end|>"' in said
    with pytest.raises(NotExportable, match="a Modelfile cannot quote it"):
        modelfile("model.gguf", tiny.tokenizer(), ['x"\nADAPTER ./other'])
    assert 'TEMPLATE """{{ .Prompt }}\n{{ .Response }}"""' in modelfile("model.gguf", tiny.tokenizer(None), [])


def test_the_adapter_of_a_trainer_is_exported_as_it_is(tiny_base: Path, trained: Path, tmp_path: Path) -> None:
    config = AutoModelForCausalLM.from_pretrained(tiny_base).config
    reader = gguf.GGUFReader(write_adapter(trained, config, tmp_path / "adapter.gguf"))
    assert len(reader.tensors) == len(lora.tensors_in(trained))
