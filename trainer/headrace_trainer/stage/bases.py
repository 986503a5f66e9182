"""The bases that the policy maps, looked at before any batch needs them: at a trainer's start the cheap part, for `--check` all.

Knows what is asked of each and whose fault an answer is; nothing of tokens or weights.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from msgspec import Struct

from headrace_schemas.derived import BaseIdentity
from headrace_schemas.root_error import HeadraceError
from headrace_trainer.job.check import CheckReport, CheckSpec, check
from headrace_trainer.job.process import JobFailed, in_child
from headrace_trainer.model.identity import BaseChanged, BaseMissing
from headrace_trainer.policy import Hyperparameters
from headrace_trainer.stage.context import TrainerContext

log = logging.getLogger("headrace")

Tell = Callable[[str], None]


class BaseRefused(HeadraceError):
    """A base that cannot be trained as the policy says, whatever comes."""


class CheckedBase(Struct, frozen=True):
    """What was found of a base, or `error`: why nothing can be trained for it, in one line."""

    base: str
    weights: str
    identity: BaseIdentity | None = None
    report: CheckReport | None = None
    error: str | None = None
    passing: bool = False


async def look_at(context: TrainerContext, tell: Tell, *, whole: bool) -> list[CheckedBase]:
    """Every mapped base with each set of hyperparameters that the policy has for it. An error of the surroundings (no network, no
    such folder yet) is `passing`."""
    return [await _look(context, name, hyper, tell, whole) for name in context.policy.bases for hyper in _hyper(context, name)]


async def check_at_start(context: TrainerContext, tell: Tell) -> None:
    """BaseRefused for the first base that policy has wrong. What may pass by itself is only told: its batches will be held."""
    for checked in await look_at(context, tell, whole=False):
        if checked.error is None:
            assert checked.report is not None
            log.info("base %s: %s, %s", checked.base, checked.report.architecture, checked.report.memory)
        elif checked.passing:
            log.warning("base %s: %s; its batches are held until it can be had", checked.base, checked.error)
        else:
            raise BaseRefused(f"base {checked.base!r}: {checked.error}; `headrace trainer --check` looks at it without a trainer")


def _hyper(context: TrainerContext, name: str) -> list[Hyperparameters]:
    """The defaults, and what single buckets of the base have instead."""
    own = [bucket for bucket in context.policy.buckets if bucket.partition("/")[2] == name]
    return list(dict.fromkeys([context.policy.defaults, *map(context.policy.hyperparameters, own)]))


async def _look(context: TrainerContext, name: str, hyper: Hyperparameters, tell: Tell, whole: bool) -> CheckedBase:
    mapped = context.policy.bases[name]
    try:
        known = await context.base_of(name, lambda phase, done, size: tell(f"for base {name}: {phase} {_bytes(done, size)}"))
    except (BaseMissing, BaseChanged) as error:
        return CheckedBase(name, mapped.weights, error=str(error), passing=isinstance(error, BaseMissing))
    tell(f"for base {name}: looking at it")
    spec = CheckSpec(
        known.folder.path, hyper, context.hardware.device, context.precision_of(hyper), context.policy.memory_gb,
        mapped.attn_implementation, mapped.trust_remote_code, context.policy.threads, whole,
        context.policy.processes, mapped.quantisation,
    )  # fmt: skip
    try:
        return CheckedBase(name, mapped.weights, known.identity, await in_child(check, spec))
    except JobFailed as error:
        return CheckedBase(name, mapped.weights, known.identity, error=str(error), passing=error.cause == "surroundings")


def _bytes(done: int, size: int) -> str:
    return f"{done / 1e6:.0f} of {size / 1e6:.0f} MB" if size else f"{done / 1e6:.0f} MB"
