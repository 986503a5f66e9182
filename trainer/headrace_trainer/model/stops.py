"""The tokens at which a base stops, and whether an adapter can learn to say them. Knows a model's output layer, no rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

_UNTRAINED = 0.05  # of the median length of the output layer's rows: what was never trained is zero, or near it


def stop_ids(tokenizer: Any, model: Any) -> tuple[int, ...]:
    """What ends an answer when the base is served: the tokenizer's own end of text, then what its generation config names
    besides. Ids that its output layer does not reach are left out, unless there is no other."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = [configured] if isinstance(configured, int) else list(configured or ())
    known = [stop for stop in dict.fromkeys([tokenizer.eos_token_id, *ids]) if stop is not None]
    return tuple(stop for stop in known if stop < _output_rows(model)) or tuple(known[:1])


def stop_troubles(model: Any, stops: Iterable[int], modules_to_save: Sequence[str]) -> list[str]:
    """`stop_trouble` of each; none where layers are trained whole, of which the output layer is one as a rule."""
    troubles = [stop_trouble(model, stop) for stop in ([] if modules_to_save else sorted(stops))]
    return [trouble for trouble in troubles if trouble is not None]


def stop_trouble(model: Any, stop: int) -> str | None:
    """Why an adapter on the inner layers cannot learn to say a stop, in words; None when it can. Its row of the output layer
    stays as it is, and one that was never trained answers to nothing that those layers say."""
    rows = _output_rows(model)
    if stop >= rows:
        return f"the stop token {stop} is outside of the output layer ({rows} rows): nothing can learn to stop"
    lengths = _output(model).weight.detach().float().norm(dim=1)
    median = float(lengths.median())
    if (length := float(lengths[stop])) < _UNTRAINED * median:
        return (
            f"the output row of the stop token {stop} was never trained (length {length:.3g}, median {median:.3g}): an adapter "
            "that leaves the output layer alone can hardly learn to stop"
        )
    return None


def _output(model: Any) -> Any:
    return model.get_output_embeddings()


def _output_rows(model: Any) -> int:
    output = _output(model)
    return int(output.weight.shape[0]) if isinstance(getattr(output, "weight", None), torch.Tensor) else 2**31
