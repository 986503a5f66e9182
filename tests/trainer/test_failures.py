"""Whose fault an error of a job is."""

from __future__ import annotations

import errno
import signal

import pytest
import torch

from headrace_streams.adapter_files import AdapterRefused, StoreError
from headrace_trainer.data.members import MemberRefused
from headrace_trainer.evaluation.grader import GraderMissing
from headrace_trainer.job.failures import cause_of, cause_of_exit
from headrace_trainer.model.base import BaseMissing
from headrace_trainer.model.lora import AdapterInvalid


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (MemberRefused("member e1 is not what the manifest says"), "batch"),
        (AdapterInvalid("adapter x: y is missing"), "batch"),
        (FloatingPointError("the loss is nan"), "batch"),
        (ZeroDivisionError(), "batch"),
        (BaseMissing("base weights 'x' cannot be loaded: no connection"), "surroundings"),
        (GraderMissing("no grader"), "surroundings"),
        (StoreError("adapter is not in the store"), "surroundings"),
        (AdapterRefused("announced was another"), "surroundings"),
        (OSError(errno.ENOSPC, "No space left on device"), "surroundings"),
        (ConnectionResetError(), "surroundings"),
        (MemoryError(), "surroundings"),
        (ModuleNotFoundError("No module named 'x'"), "surroundings"),
        (torch.OutOfMemoryError("CUDA out of memory"), "surroundings"),
        (RuntimeError("CUDA error: device-side assert triggered"), "surroundings"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "surroundings"),
        (RuntimeError("shape mismatch"), "unknown"),
        (KeyError("x"), "unknown"),
    ],
)
def test_each_error_is_somebodys_or_nobody_can_say(error: Exception, cause: str) -> None:
    assert cause_of(error) == cause


@pytest.mark.parametrize(
    ("code", "cause"), [(-signal.SIGKILL, "surroundings"), (-signal.SIGSEGV, "unknown"), (1, "unknown"), (None, "unknown")]
)
def test_a_job_that_was_killed_says_nothing_of_its_batch(code: int | None, cause: str) -> None:
    assert cause_of_exit(code) == cause
