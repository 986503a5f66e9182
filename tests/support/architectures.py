"""The architectures that the project claims, each as a tiny base with random weights and the tokenizer of `support.tiny`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers as hub
from transformers import AutoModelForCausalLM

from support import tiny

_SIZE: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}  # fmt: skip
_HEADS: dict[str, Any] = {**_SIZE, "head_dim": 8}
_EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_HYBRID: dict[str, Any] = {
    "shared_expert_intermediate_size": 16, "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
_LATENT: dict[str, Any] = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1,
    "num_key_value_heads": 4, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "qk_nope_head_dim": 4,
    "first_k_dense_replace": 1,
}  # fmt: skip
_PLAIN: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}

CONFIGS: Mapping[str, Callable[..., Any]] = {
    "llama": lambda **tokens: hub.LlamaConfig(**_SIZE, **tokens),
    "qwen2": lambda **tokens: hub.Qwen2Config(**_SIZE, **tokens),
    "qwen3": lambda **tokens: hub.Qwen3Config(**_HEADS, **tokens),
    "mistral": lambda **tokens: hub.MistralConfig(**_SIZE, **tokens),
    "gemma": lambda **tokens: hub.GemmaConfig(**_HEADS, **tokens),
    "gemma2": lambda **tokens: hub.Gemma2Config(**_HEADS, **tokens),
    "gemma3": lambda **tokens: hub.Gemma3TextConfig(**_HEADS, **tokens),
    "phi": lambda **tokens: hub.PhiConfig(**_SIZE, **tokens),
    "phi3": lambda **tokens: hub.Phi3Config(**_SIZE, **tokens),
    "olmo2": lambda **tokens: hub.Olmo2Config(**_SIZE, **tokens),
    "granite": lambda **tokens: hub.GraniteConfig(**_SIZE, logits_scaling=3.0, **tokens),
    "gpt2": lambda **tokens: hub.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=512, **tokens),
    "gpt_neox": lambda **tokens: hub.GPTNeoXConfig(**_PLAIN, intermediate_size=64, max_position_embeddings=512, **tokens),
    "falcon": lambda **tokens: hub.FalconConfig(**_PLAIN, **tokens),
    "opt": lambda **tokens: hub.OPTConfig(
        **_PLAIN, ffn_dim=64, max_position_embeddings=512, word_embed_proj_dim=32, **tokens
    ),
    "bloom": lambda **tokens: hub.BloomConfig(hidden_size=32, n_layer=2, n_head=4, **tokens),
    "mixtral": lambda **tokens: hub.MixtralConfig(**_SIZE, num_local_experts=4, num_experts_per_tok=2, **tokens),
    "qwen2_moe": lambda **tokens: hub.Qwen2MoeConfig(**_SIZE, **_EXPERTS, shared_expert_intermediate_size=16, **tokens),
    "qwen3_moe": lambda **tokens: hub.Qwen3MoeConfig(**_HEADS, **_EXPERTS, **tokens),
    "gpt_oss": lambda **tokens: hub.GptOssConfig(
        **_HEADS, num_local_experts=4, num_experts_per_tok=2, rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        **tokens,
    ),
    "deepseek_v3": lambda **tokens: hub.DeepseekV3Config(**{**_SIZE, **_LATENT}, **tokens),
    "qwen3_next": lambda **tokens: hub.Qwen3NextConfig(**_HEADS, **_EXPERTS, **_HYBRID, **tokens),
    "mamba2": lambda **tokens: hub.Mamba2Config(
        hidden_size=32, num_hidden_layers=2, num_heads=8, head_dim=8, state_size=8, n_groups=2, **tokens
    ),
}  # fmt: skip


def build(name: str, folder: Path, seed: int = 0, **changed: Any) -> Path:
    """Writes the base into `folder`. `changed` goes to its configuration."""
    tokenizer = tiny.tokenizer()
    tokenizer.save_pretrained(folder)
    tokens = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(seed)
    config = CONFIGS[name](**tokens, bos_token_id=None)
    for key, value in changed.items():
        setattr(config, key, value)
    if getattr(config, "layer_types", None) and "num_hidden_layers" in changed:
        config.layer_types = (config.layer_types * config.num_hidden_layers)[: config.num_hidden_layers]
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    return folder
