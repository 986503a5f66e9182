"""Whose fault the error that ended a job is: the batch's own, the surroundings', or nobody can say. Knows errors, not what
becomes of the batch.

The batch's own comes again however often it is tried. That of the surroundings (disk, memory, a GPU that is taken, weights that
can't be had) says nothing of the batch.
"""

from __future__ import annotations

import signal
from typing import Literal

from headrace_schemas.root_error import HeadraceError
from headrace_streams.adapter_files import StoreError

Cause = Literal["batch", "surroundings", "unknown"]

_BATCH = ("MemberRefused", "AdapterInvalid", "RowsMissing", "TeacherRefused")  # the pins of a run name its layers and its parent
_SURROUNDINGS = ("BaseMissing", "GraderMissing", "OutOfMemoryError", "AcceleratorError")
# What torch and the drivers under it raise as a plain RuntimeError.
_WORDS = ("out of memory", "can't allocate memory", "cuda error", "cudnn error", "cublas", "nccl", "no space left on device")


class RankFailed(HeadraceError):
    """What ended one of several processes of a job, in one line; `killed`: by the system, or for want of memory, so that half as
    many tokens at a time may do."""

    def __init__(self, message: str, cause: Cause, *, killed: bool = False) -> None:
        super().__init__(message)
        self.cause, self.killed = cause, killed


def cause_of(error: BaseException) -> Cause:
    """Of an exception of a job, or of what is around it. By name where the class is of a library that may not be loaded."""
    if isinstance(error, RankFailed):
        return error.cause
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & set(_BATCH) or isinstance(error, ArithmeticError):
        return "batch"
    if names & set(_SURROUNDINGS) or isinstance(error, OSError | MemoryError | ImportError | StoreError):
        return "surroundings"
    if isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS):
        return "surroundings"
    return "unknown"


def out_of_memory(error: BaseException) -> bool:
    """Whether a smaller micro-batch may help."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS[:2])


def cause_of_exit(code: int | None) -> Cause:
    """Of a job's process that ended without a word. Killed: what kills is the system that ran out of memory, or somebody."""
    return "surroundings" if code in (-signal.SIGKILL, -signal.SIGTERM) else "unknown"
