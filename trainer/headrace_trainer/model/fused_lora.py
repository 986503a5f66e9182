"""A linear layer and its LoRA adapter in one step, forward and backward. Knows peft's layers, no rows.

Of the same product the library makes more: it casts a layer's whole input to the adapter's float32, which autocast casts back,
scales and adds the whole output, and has the gradient of B by a product that CPUs are bad at ([out, tokens] x [tokens, r] takes
ten times as long in float32 as [r, tokens] x [tokens, out]).
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.nn import functional


def fuse(wrapped: Any) -> int:
    """Replaces the forward of every layer of a PeftModel that it knows to be a plain one; how many. The others (quantised, a
    convolution, experts, a variant of LoRA) keep the library's."""
    found = [
        module
        for module in wrapped.modules()
        if type(module) is Linear and type(module.base_layer) is nn.Linear and not module.lora_variant
    ]
    for module in found:
        module.__class__ = FusedLinear
    return len(found)


class FusedLinear(Linear):  # type: ignore[misc, unused-ignore]
    """The library's layer, computed in one step where that computes the same."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As the library's."""
        computed = None if args or kwargs else self._format(x)
        if computed is None:
            return super().forward(x, *args, **kwargs)
        (name,), layer = self.active_adapters, self.base_layer
        down, up = self.lora_A[name].weight, self.lora_B[name].weight
        dropped = self.lora_dropout[name](x)
        return _Product.apply(x, dropped, layer.weight, layer.bias, down, up, self.scaling[name], computed)  # type: ignore[no-any-return]

    def _format(self, x: Tensor) -> torch.dtype | None:
        """In which the product is computed, None where it is another one: adapters off, merged or several, or formats mixed."""
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return None
        name = self.active_adapters[0]
        if name not in self.lora_A or self.lora_B[name].bias is not None:
            return None
        if torch.is_autocast_enabled(x.device.type):
            return torch.get_autocast_dtype(x.device.type)
        return x.dtype if x.dtype == self.base_layer.weight.dtype == self.lora_A[name].weight.dtype else None


class _Product(torch.autograd.Function):
    """`x Wᵀ + bias + scale · dropped Aᵀ Bᵀ` in the format `computed`; gradients to x, dropped, A and B. W is frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dropped: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scale: float,
        computed: Any,
    ) -> Tensor:
        given = x.to(computed)
        adapted = given if dropped is x else dropped.to(computed)
        weight, down, up = weight.to(computed), down.to(computed), up.to(computed)
        out = functional.linear(given, weight, None if bias is None else bias.to(computed))
        adapted = adapted.flatten(0, -2)
        inner = functional.linear(adapted, down)
        out.flatten(0, -2).addmm_(inner, up.T, alpha=scale)
        ctx.save_for_backward(adapted, inner, weight, down, up)
        ctx.scale, ctx.format, ctx.same = scale, x.dtype, dropped is x
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        adapted, inner, weight, down, up = ctx.saved_tensors
        gradient = grads[0].flatten(0, -2)
        through = (gradient @ up).mul_(ctx.scale)  # [tokens, r]
        of_up = ((inner.T @ gradient).T * ctx.scale).contiguous()
        of_down = through.T @ adapted
        of_x = of_dropped = None
        if ctx.needs_input_grad[0]:
            of_x = gradient @ weight
            if ctx.same:
                of_x.addmm_(through, down)
            of_x = of_x.view(*grads[0].shape[:-1], -1).to(ctx.format)
        if not ctx.same and ctx.needs_input_grad[1]:
            of_dropped = (through @ down).view(*grads[0].shape[:-1], -1).to(ctx.format)
        return of_x, of_dropped, None, None, of_down, of_up, None, None
