"""What a run would take, before it is begun; called in a process that has torch. Knows the estimator, and words for it."""

from __future__ import annotations

from pathlib import Path

from headrace_trainer.policy import Hyperparameters
from headrace_trainer.spec import MemoryPlan


def plan_of(
    folder: Path,
    hyper: Hyperparameters,
    device: str,
    precision: str,
    memory_gb: float | None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    processes: int = 1,
    quantisation: str | None = None,
) -> MemoryPlan:
    """`memory_gb`: what the policy grants; None: what there is. Processes on a CPU share it; each GPU has its own."""
    from headrace_trainer.model.memory import available_bytes, plan

    available = int(memory_gb * 1e9) if memory_gb is not None else available_bytes(device)
    if not device.startswith("cuda"):
        available //= processes
    return plan(
        folder, hyper, device=device, precision=precision, available=available, attn_implementation=attn_implementation,  # type: ignore[arg-type]
        trust_remote_code=trust_remote_code, processes=processes, quantisation=quantisation,
    )  # fmt: skip


def describe(plan: MemoryPlan) -> str:
    """A plan in one line."""
    twice = ", activations made twice" if plan.activation_checkpointing == "on" else ""
    if plan.unknown is not None:
        return f"micro-batches of {plan.batch_tokens} tokens{twice}; what memory they take is not known ({plan.unknown})"
    fits = "" if plan.fits else "; IT DOES NOT FIT: lower max_sequence_tokens or take a smaller base"
    return (
        f"micro-batches of {plan.batch_tokens} tokens{twice}: {plan.peak / 1e9:.1f} GB at most, {plan.weights / 1e9:.1f} of them "
        f"weights, {plan.available / 1e9:.1f} GB available{fits}"
    )
