"""The agent's model: a base folder, and the adapter folder of a release merged into it. Answers in batches, greedily.

Knows nothing of Headrace: transformers and peft are enough to serve what it publishes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

BATCH = 32
LONGEST = 72  # tokens of an answer


class Model:
    """One base with at most one adapter. To change the adapter, make another one: it takes a tenth of a second."""

    def __init__(self, base: Path, adapter: Path | None = None) -> None:
        """Raises what transformers or peft raise when a folder is not what it should be; then nothing has changed."""
        self._tokenizer: Any = AutoTokenizer.from_pretrained(base, padding_side="left")
        model: Any = AutoModelForCausalLM.from_pretrained(base)
        if adapter is not None:
            model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
        self._model = model.eval()

    @torch.inference_mode()
    def answers(self, prompts: Sequence[str]) -> list[str]:
        """One answer per prompt, in order."""
        ordered = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
        found: list[str] = [""] * len(prompts)
        for first in range(0, len(ordered), BATCH):
            places = ordered[first : first + BATCH]
            chats = [[{"role": "user", "content": prompts[place]}] for place in places]
            inputs = self._tokenizer.apply_chat_template(
                chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
            )
            outputs = self._model.generate(**inputs, max_new_tokens=LONGEST, do_sample=False)
            texts = self._tokenizer.batch_decode(outputs[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            for place, text in zip(places, texts, strict=True):
                found[place] = text
        return found
