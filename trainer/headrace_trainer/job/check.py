"""Whether a base can be trained and asked, before a batch depends on it: tokenizer, template, what memory a run takes, and, at
length, one step and one answer. Called in a process that has torch; knows a job's parts, no Kafka, no batch.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from msgspec import Struct

from headrace_schemas.derived import Components, Content, Example, Weights
from headrace_schemas.inputs import Agent
from headrace_trainer.job.plan import describe, plan_of
from headrace_trainer.policy import EvaluationPolicy, Hyperparameters
from headrace_trainer.spec import MemoryPlan

_EXAMPLE = Example(
    example_id="check", revision=1, interaction_id="check", bucket="check/check", artifact_type="check", model="check",
    agent=Agent(name="check"), prompt_group="check", content=Content(prompt="What is 2 + 2?", output="5", target="2 + 2 is 4."),
    quality=0.0, reward=1.0, components=Components(validation=0.0, feedback=0.0, difficulty=0.0, multiplier=1.0),
    weights=Weights(balance=1.0), contradicted=False, voices=1, event_time="2026-01-01T00:00:00Z", train=True,
)  # fmt: skip


@dataclass(frozen=True)
class CheckSpec:
    """A base as policy says it is loaded, and how it is to be trained. `whole`: it is loaded, for a step and an answer."""

    folder: Path
    hyper: Hyperparameters
    device: str
    precision: str
    memory_gb: float | None = None
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    threads: int | None = None
    whole: bool = True
    processes: int = 1
    quantisation: str | None = None


class CheckReport(Struct, frozen=True, omit_defaults=True):
    """What was found. `loss` in nats a token before the step, `answer` of the base as it is."""

    architecture: str
    template: bool
    stops: list[str]
    memory: str
    fits: bool
    parameters: int = 0
    trained: int = 0
    format: str = ""
    layers: str = ""
    loss: float | None = None
    answer: str | None = None
    seconds: float = 0.0
    notes: list[str] = []


def check(spec: CheckSpec) -> CheckReport:
    """Raises BaseMissing, AdapterInvalid, RowUnfit, or what torch raises."""
    import torch

    from headrace_trainer.data.rows import RowTokeniser
    from headrace_trainer.model.base import load_config, load_tokenizer

    began = time.monotonic()
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    memory = plan_of(
        spec.folder, spec.hyper, spec.device, spec.precision, spec.memory_gb, spec.attn_implementation, spec.trust_remote_code,
        spec.processes, spec.quantisation,
    )  # fmt: skip
    if spec.whole:
        return _whole(spec, memory, began)
    config = load_config(str(spec.folder), spec.trust_remote_code)
    tokenizer = load_tokenizer(str(spec.folder), spec.trust_remote_code)
    RowTokeniser(tokenizer, spec.hyper.max_sequence_tokens).example(_EXAMPLE, 1.0)
    stops = [f"{tokenizer.eos_token_id} {tokenizer.eos_token}"]
    return CheckReport(
        str(config.model_type),
        bool(tokenizer.chat_template),
        stops,
        describe(memory),
        memory.fits,
        seconds=time.monotonic() - began,
    )


def _whole(spec: CheckSpec, memory: MemoryPlan, began: float) -> CheckReport:
    from headrace_trainer.data.rows import RowTokeniser
    from headrace_trainer.evaluation.generate import generate
    from headrace_trainer.learning.loop import train
    from headrace_trainer.model import lora, targets
    from headrace_trainer.model.base import load_base, within_positions
    from headrace_trainer.model.stops import stop_ids, stop_troubles

    base = load_base(
        str(spec.folder), device=spec.device, precision=spec.precision, attn_implementation=spec.attn_implementation,  # type: ignore[arg-type]
        trust_remote_code=spec.trust_remote_code, quantisation=spec.quantisation,
    )  # fmt: skip
    stops = stop_ids(base.tokenizer, base.model)
    limit = within_positions(base.model.config, spec.hyper.max_sequence_tokens)
    row = RowTokeniser(base.tokenizer, limit, stops).example(_EXAMPLE, 1.0).row
    notes = stop_troubles(base.model, {row.completion[-1]} & set(stops), spec.hyper.modules_to_save)
    parameters, format_ = sum(value.numel() for value in base.model.parameters()), str(base.model.dtype).removeprefix("torch.")
    found = targets.targets_of(base.model, spec.hyper.target_modules)
    model, _ = lora.attach(base.model, spec.hyper, 0)
    with model.disable_adapter():
        answers = generate(model, [row], base, EvaluationPolicy(max_new_tokens=16), spec.precision)  # type: ignore[arg-type]
    once = spec.hyper.model_copy(update={"steps": 1, "rows_per_step": 1})
    result = train(model, base, [row], [], once, seed=0, precision=spec.precision)  # type: ignore[arg-type]
    return CheckReport(
        architecture=str(base.model.config.model_type), template=bool(base.tokenizer.chat_template),
        stops=[f"{stop} {base.tokenizer.convert_ids_to_tokens(stop)}" for stop in stops],
        memory=describe(memory), fits=memory.fits,
        parameters=parameters, trained=sum(value.numel() for value in model.parameters() if value.requires_grad), format=format_,
        layers=targets.last_names([*found.modules, *found.parameters]), loss=result.loss, answer=answers[0],
        seconds=time.monotonic() - began, notes=notes,
    )  # fmt: skip
