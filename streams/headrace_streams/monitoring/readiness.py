"""Whether a process is ready, and what is wrong with its tasks, from its report. Pure; knows no HTTP and no metric."""

from __future__ import annotations

from headrace_streams.runtime.status import SlotReport, WorkerReport

NOT_YET = ("starting", "restoring", "stopped")


def reasons_not_ready(report: WorkerReport) -> list[str]:
    """One line for each thing that keeps a process from doing its work; empty when it is ready. A member of the group that was
    given no partition is ready."""
    reasons = []
    if report.away is not None:
        reasons.append(f"the broker at {report.broker} is away: {report.away}")
    if report.waiting is not None:
        reasons.append(f"waits {report.waiting}")
    return [*reasons, *(line for slot in report.tasks if (line := _reason(slot)) is not None)]


def _reason(slot: SlotReport) -> str | None:
    place = f"{slot.topic}/{slot.partition}"
    if slot.ended == "refused":
        return f"{place} is refused: {slot.error}"
    if slot.ended == "done" or (slot.task is not None and slot.task.phase not in NOT_YET):
        return None
    phase = "starting" if slot.task is None else slot.task.phase
    last = f", started {slot.restarts} times again: {slot.error}" if slot.error else ""
    return f"{place} is {phase}{last}"
