"""How much memory a run takes, found out before it takes any: a training step over tensors that have shapes and no values.

    peak = weights + 4 x adapter + slack x step(tokens) + runtime

Weights in the format they are held in; the adapter in float32, beside it two moments of AdamW and the best so far; `slack`: what
the allocator holds beside what is asked for; `step`: the most that is alive at once during forward and backward, gradients
included, counted storage by storage as the real operations would make them; linear in rows and, where all layers are alike, in
layers, so that two of each tell the rest. No GPU is needed for one's figure: its attention keeps as much as the CPU's. Knows
torch and how a base is made of its configuration; nothing of rows, files or Kafka.
"""

from __future__ import annotations

import weakref
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM

from headrace_schemas.root_error import HeadraceError
from headrace_trainer.model import head, lora
from headrace_trainer.model.base import load_config, within_positions
from headrace_trainer.model.precision import Precision, autocast, weights_dtype
from headrace_trainer.model.quantisation import saved_bytes
from headrace_trainer.objectives.table import OBJECTIVES
from headrace_trainer.policy import Hyperparameters
from headrace_trainer.spec import MemoryPlan

# Measured on a CPU (tests/bench/bench_memory.py): a process with the libraries holds 0.8 GB; glibc's heap is 1.3 to 1.5 times
# what a step has alive; making activations twice loads torch's compiler, 0.45 GB. A GPU's context and caching allocator hold less
# beside it; not measured.
RUNTIME = {"cpu": 800_000_000, "cuda": 800_000_000}
COMPILER = 450_000_000
SLACK = {"cpu": 1.4, "cuda": 1.1}
LEAST_TOKENS = 2048  # below that smaller micro-batches cost more than making activations twice
_SAMPLED = (2, 4)  # layers


class NoEstimate(HeadraceError):
    """What this architecture does depends on values (such as where a mixture sends its tokens), so that shapes do not tell."""


class StepMemory(NamedTuple):
    """Bytes of a base with its adapter. `step(rows)` is `fixed + rows * per_row`, for rows of `width` tokens; `twice`:
    activations are made twice; `layer`: weights of one layer."""

    weights: int
    adapter: int
    fixed: int
    per_row: int
    width: int
    twice: bool = False
    layer: int = 0
    layers: int = 0

    def peak(self, tokens: int, device: str = "cpu", processes: int = 1) -> int:
        """Bytes of a run whose micro-batches have up to so many padded tokens; a row is never split. Of each of several
        `processes`: its share of weights and adapter, and what is whole at a time, which is all beside the layers, a layer and
        the next."""
        rows, kind = max(1.0, tokens / self.width), device.split(":")[0]
        runtime = RUNTIME[kind] + (COMPILER if self.twice else 0)
        held = self.weights + 4 * self.adapter
        if processes > 1:
            together = self.weights - self.layer * max(0, self.layers - 2) if self.layer else self.weights
            held = held // processes + together
        return round(held + SLACK[kind] * (self.fixed + rows * self.per_row) + runtime)


def plan(
    folder: Path,
    hyper: Hyperparameters,
    *,
    device: str = "cpu",
    precision: Precision = "fp32",
    available: int,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    processes: int = 1,
    quantisation: str | None = None,
) -> MemoryPlan:
    """Tokens of a micro-batch and whether activations are made twice, so that a run, or each of its `processes`, stays under
    `available` bytes: first fewer tokens, down to `LEAST_TOKENS` or a row or pair, then activations twice. `fits` False: one of
    these is more, and is tried all the same."""
    config = load_config(str(folder), trust_remote_code)
    width = within_positions(config, hyper.max_sequence_tokens)
    unit = width * OBJECTIVES[hyper.objective].rows  # is never split
    ways = {"on": (True,), "off": (False,), "auto": (False, True)}[hyper.activation_checkpointing]
    plans = []
    for twice in ways:
        try:
            memory = measure(config, hyper, width, twice, device, precision, attn_implementation, trust_remote_code, quantisation)
        except NoEstimate as error:
            return MemoryPlan(hyper.batch_tokens, "on" if ways == (True,) else "off", available=available, unknown=str(error))
        tokens = hyper.batch_tokens
        least = min(tokens, unit if twice or len(ways) == 1 else max(unit, LEAST_TOKENS))
        while tokens > least and memory.peak(max(tokens, unit), device, processes) > available:
            tokens = max(least, tokens // 2)
        peak = memory.peak(max(tokens, unit), device, processes)
        plans.append(MemoryPlan(tokens, "on" if twice else "off", peak, memory.weights, available, peak <= available))
        if plans[-1].fits:
            break
    return plans[-1]


def measure(
    config: Any,
    hyper: Hyperparameters,
    width: int,
    twice: bool,
    device: str = "cpu",
    precision: Precision = "fp32",
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    quantisation: str | None = None,
) -> StepMemory:
    """Of a base of this configuration, with rows of `width` tokens, all of them learnt. NoEstimate."""
    dtype = weights_dtype(device, precision)
    options = {"dtype": dtype, "attn_implementation": attn_implementation, "trust_remote_code": trust_remote_code}
    text = config.get_text_config()
    layers = int(getattr(text, "num_hidden_layers", 0) or 0)
    alike = layers > _SAMPLED[-1] and len(set(getattr(text, "layer_types", None) or [0])) == 1

    def at(count: int) -> tuple[int, int, int, int]:
        one, two = (
            _measured(_with_layers(config, count), hyper, options, width, rows, twice, precision, quantisation) for rows in (1, 2)
        )
        return one[0], one[1], 2 * one[2] - two[2], two[2] - one[2]

    if not alike:
        return StepMemory(*at(layers), width, twice)  # no layer is said: the whole may be needed at once
    low, high = (at(count) for count in _SAMPLED)
    times = (layers - _SAMPLED[0]) / (_SAMPLED[1] - _SAMPLED[0])
    weights, adapter, fixed, per_row = (round(few + (more - few) * times) for few, more in zip(low, high, strict=True))
    layer = (high[0] - low[0]) // (_SAMPLED[1] - _SAMPLED[0])
    return StepMemory(weights, adapter, fixed, per_row, width, twice, layer, layers)


def _with_layers(config: Any, count: int) -> Any:
    fewer = deepcopy(config)
    text = fewer.get_text_config()
    if count and count != getattr(text, "num_hidden_layers", count):
        text.num_hidden_layers = count
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[:count]
    return fewer


def _measured(
    config: Any,
    hyper: Hyperparameters,
    options: dict[str, Any],
    width: int,
    rows: int,
    twice: bool,
    precision: Precision,
    quantisation: str | None,
) -> tuple[int, int, int]:
    """Bytes of weights, of the adapter, and the most beside them that one step has alive."""
    computed = torch.bfloat16 if precision == "bf16" else torch.float32
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, **options)
        model.requires_grad_(False)
        saved, unpacked = saved_bytes(model, computed) if quantisation else (0, 0)
        wrapped, _ = lora.attach(model, hyper, 0)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    _empty(wrapped, fake)
    wrapped.train()
    if twice:
        make_activations_twice(wrapped)
    sizes: dict[bool, dict[int, int]] = {True: {}, False: {}}
    for value in wrapped.parameters():
        sizes[value.requires_grad][id(value)] = value.untyped_storage().nbytes()
    alive = _Alive()
    for value in wrapped.parameters():
        alive.add(value)
    held = alive.now
    try:
        with fake:
            tokens = torch.zeros(rows, width, dtype=torch.long)
            head.first_way(model, tokens[:1, : min(8, width)])
            with alive, autocast("cpu", precision):
                losses = head.token_losses(wrapped, tokens, torch.arange(rows * width), tokens.flatten())
                losses.sum().backward()  # type: ignore[no-untyped-call]
    except Exception as error:  # what cannot run without values says so in many ways
        raise NoEstimate(f"{type(error).__name__}: {lora.one_line(error, 120)}") from error
    return sum(sizes[False].values()) - saved, sum(sizes[True].values()), alive.peak - held + unpacked


def make_activations_twice(wrapped: Any) -> None:
    """Activation checkpointing: a layer's activations are dropped and made again for the gradient. AdapterInvalid where the base
    can't."""
    causal = head.causal_of(wrapped)
    if not causal.supports_gradient_checkpointing:
        raise lora.AdapterInvalid(
            f'activation_checkpointing = "on": a {causal.config.model_type} does not support it; write "off"'
        )
    causal.gradient_checkpointing_enable({"use_reentrant": False})


def _empty(model: nn.Module, fake: FakeTensorMode) -> None:
    """Puts tensors without values in place of the model's, tied ones still tied."""
    made: dict[int, Tensor] = {}
    with fake:
        for module in model.modules():
            for values in (module._parameters, module._buffers):
                for name, value in list(values.items()):
                    if value is None:
                        continue
                    if id(value) not in made:
                        empty = torch.empty(value.shape, dtype=value.dtype, device="cpu")
                        is_parameter = isinstance(value, nn.Parameter)
                        made[id(value)] = nn.Parameter(empty, requires_grad=value.requires_grad) if is_parameter else empty
                    values[name] = made[id(value)]  # type: ignore[assignment]


class _Alive(TorchDispatchMode):
    """Bytes of all storages that operations made and nobody has dropped yet."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return out


def available_bytes(device: str, share_of_cpu: float = 0.8, share_of_gpu: float = 0.9) -> int:
    """What a run may take: on a CPU a share of what the system or its container has left, on a GPU of all it has."""
    if device.startswith("cuda"):
        return int(share_of_gpu * torch.cuda.mem_get_info(device)[1])
    left = []
    for line in Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else ():
        if line.startswith("MemAvailable:"):
            left.append(int(line.split()[1]) * 1024)
    for limit, used in (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        group = Path("/sys/fs/cgroup")
        try:
            left.append(int((group / limit).read_text()) - int((group / used).read_text()))
        except (OSError, ValueError):
            continue
    return int(share_of_cpu * min(left)) if left else 1 << 62
