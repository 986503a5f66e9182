"""From the last hidden states to the loss of each token, a piece at a time. Knows causal models of transformers, no rows.

The logits of all tokens at once would be the largest thing in memory: 8,192 tokens at a vocabulary of 152 k are 5 GB in float32,
and their gradient as much again. Of a piece they are made, used and dropped, and made once more for the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import BaseModelOutputWithPast

PIECE = 32_000_000  # logits of a piece: 128 MB in float32
Head = Callable[[Tensor], Tensor]  # [tokens, hidden] -> [tokens, vocabulary]
OfLogits = Callable[..., Tensor]  # float32 [tokens, vocabulary], and what else is known of each token -> of each token something


def token_losses(model: Any, inputs: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood in nats, fp32, of each of `targets` at `positions` of the flattened `inputs` [rows, tokens].

    `model` is a causal LM or a PeftModel of one. The output head runs at these positions only (1.3x at a vocabulary of 32 k, more
    at larger ones).
    """
    if isinstance(model, FSDPModule):  # its weights come together in a forward of its own, which is `losses_of`
        return model(inputs, positions, targets)  # type: ignore[no-any-return, operator]
    return losses_of(model, inputs, positions, targets)


def losses_of(model: Any, inputs: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
    """`token_losses` of a model whose weights are here."""
    return of_logits(model, inputs, positions, _cross_entropy, targets)


def of_logits(model: Any, inputs: Tensor, positions: Tensor, compute: OfLogits, *of_tokens: Tensor) -> Tensor:
    """What `compute` makes of the logits at `positions` of the flattened `inputs`, and of what `of_tokens` say of these."""
    causal = causal_of(model)
    head = find_way(causal)
    if head is None:
        logits = causal(input_ids=inputs, use_cache=False).logits.flatten(0, 1)
        return _in_pieces(lambda at: logits[at], positions, compute, of_tokens, vocabulary(causal))
    hidden = _body(causal)(input_ids=inputs, use_cache=False).last_hidden_state.flatten(0, 1)[positions]
    return _in_pieces(head, hidden, compute, of_tokens, vocabulary(causal))


def causal_of(model: Any) -> Any:
    """The causal LM under an adapter, or the model itself if it has none."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _in_pieces(head: Head, source: Tensor, compute: OfLogits, of_tokens: Sequence[Tensor], width: int) -> Tensor:
    size = max(1, PIECE // width)
    if len(source) <= size:
        return _computed(head, source, compute, *of_tokens)
    pieces = []
    for start in range(0, len(source), size):
        piece, known = source[start : start + size], [each[start : start + size] for each in of_tokens]
        if torch.is_grad_enabled():
            pieces.append(checkpoint(_computed, head, piece, compute, *known, use_reentrant=False))
        else:
            pieces.append(_computed(head, piece, compute, *known))
    return torch.cat(pieces)


def _computed(head: Head, source: Tensor, compute: OfLogits, *of_tokens: Tensor) -> Tensor:
    return compute(head(source).float(), *of_tokens)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits, targets, reduction="none")


def vocabulary(causal: Any) -> int:
    """Logits of a token."""
    return int(causal.config.get_text_config().vocab_size)


def _body(causal: Any) -> Any:
    return getattr(causal, causal.base_model_prefix)


def find_way(causal: Any) -> Head | None:
    """How this architecture makes logits of its last hidden states: by what its own forward does after its body (some scale
    or cap what the output layer says, which a few tokens need not show), else by the output layer; None when neither gives what
    the whole does. Found out once per model on a few tokens."""
    found = getattr(causal, "_headrace_head", None)
    if found is None:
        found = next((name for name, head in _WAYS.items() if _is_exact(causal, head)), "whole")
        causal._headrace_head = found
    if found == "whole":
        return None
    return lambda hidden: _WAYS[found](causal, hidden)


def first_way(causal: Any, inputs: Tensor) -> None:
    """Takes the first way that runs for tensors without values, which cannot be compared."""
    causal._headrace_head = next((name for name, head in _WAYS.items() if _runs(causal, head, inputs)), "whole")


def _runs(causal: Any, head: Callable[[Any, Tensor], Tensor], inputs: Tensor) -> bool:
    try:
        head(causal, _body(causal)(input_ids=inputs, use_cache=False).last_hidden_state[0])
    except Exception:  # a body of another kind: its forward may want anything; if none runs at all, the step itself says why
        return False
    return True


def _output_layer(causal: Any, hidden: Tensor) -> Tensor:
    return causal.get_output_embeddings()(hidden)  # type: ignore[no-any-return]


def _own_forward(causal: Any, hidden: Tensor) -> Tensor:
    """The model's own forward, in which the body only hands over what it is given."""
    name, body = causal.base_model_prefix, _body(causal)
    causal._modules[name] = _Given(hidden[None])
    try:
        return causal(inputs_embeds=hidden[None], use_cache=False).logits[0]  # type: ignore[no-any-return]
    finally:
        causal._modules[name] = body


_WAYS: dict[str, Callable[[Any, Tensor], Tensor]] = {"own forward": _own_forward, "output layer": _output_layer}


class _Outputs(BaseModelOutputWithPast):  # type: ignore[misc, unused-ignore]
    """What a body hands over; what some have beside (router logits, cross attentions) is not there."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class _Given(nn.Module):
    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden

    def forward(self, *arguments: Any, **named: Any) -> _Outputs:
        return _Outputs(last_hidden_state=self.hidden)  # type: ignore[arg-type]


@torch.no_grad()
def _is_exact(causal: Any, head: Callable[[Any, Tensor], Tensor]) -> bool:
    body = getattr(causal, causal.base_model_prefix, None)
    if body is None or body is causal:
        return False
    training = causal.training
    causal.eval()
    try:
        with torch.autocast(causal.device.type, enabled=False):
            probe = torch.arange(1, 9, device=causal.device)[None] % vocabulary(causal)
            ours = head(causal, body(input_ids=probe, use_cache=False).last_hidden_state[0])
            whole = causal(input_ids=probe, use_cache=False).logits[0]
            return ours.shape == whole.shape and torch.allclose(ours, whole, rtol=1e-3, atol=1e-4)
    except Exception:  # a body of another kind: its forward may want anything
        return False
    finally:
        causal.train(training)
