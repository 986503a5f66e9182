"""The faults by kind, and a schedule of them by seed. Each ends before it returns; what recovers after that is not its matter."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .rig import Rig


class Fault(NamedTuple):
    """`wait` is the pause before it, `seconds` how long it lasts, where it lasts."""

    kind: str
    wait: float
    seconds: float


def worker_killed(rig: Rig, fault: Fault) -> None:
    rig.signal_worker(signal.SIGKILL)
    rig.start_worker()


def worker_stopped(rig: Rig, fault: Fault) -> None:
    rig.signal_worker(signal.SIGTERM)
    rig.start_worker()


def worker_frozen(rig: Rig, fault: Fault) -> None:
    rig.worker.send_signal(signal.SIGSTOP)
    time.sleep(fault.seconds)
    rig.worker.send_signal(signal.SIGCONT)


def broker_killed(rig: Rig, fault: Fault) -> None:
    rig.broker.kill()
    rig.broker.start()


def broker_stopped(rig: Rig, fault: Fault) -> None:
    rig.broker.stop()
    rig.broker.start()


def broker_frozen(rig: Rig, fault: Fault) -> None:
    rig.broker.freeze(fault.seconds)


def connections_cut(rig: Rig, fault: Fault) -> None:
    rig.broker.proxy.cut()


def connections_black_holed(rig: Rig, fault: Fault) -> None:
    rig.broker.proxy.swallow(True)
    time.sleep(fault.seconds)
    rig.broker.proxy.swallow(False)


def rebalance(rig: Rig, fault: Fault) -> None:
    """A second worker joins, has its share for a while, and leaves."""
    second = rig.second_worker()
    time.sleep(fault.seconds)
    rig.end(second, signal.SIGTERM)


def disk_full(rig: Rig, fault: Fault) -> None:
    rig.broker.fill_disk()
    rig.broker.stop()
    rig.broker.start()


def clock_jump(rig: Rig, fault: Fault) -> None:
    """The worker's clock is an hour ahead for a while, and then right again."""
    rig.shift_clock(3600)
    time.sleep(fault.seconds)
    rig.shift_clock(0)


def publisher_killed(rig: Rig, fault: Fault) -> None:
    rig.publisher.kill()
    rig.publisher.wait()
    rig.start_publisher()


KINDS: dict[str, Callable[[Rig, Fault], None]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        worker_killed,
        worker_frozen,
        worker_stopped,
        broker_killed,
        broker_frozen,
        broker_stopped,
        connections_cut,
        connections_black_holed,
        rebalance,
        disk_full,
        clock_jump,
        publisher_killed,
    )
}
LONGEST = {"worker-frozen": 12.0, "broker-frozen": 12.0, "connections-black-holed": 12.0, "rebalance": 6.0, "clock-jump": 4.0}


def schedule(seed: int, kinds: Sequence[str], faults: int) -> list[Fault]:
    """The same for the same arguments."""
    draw = random.Random(seed)
    return [
        Fault(kind, round(draw.uniform(0.0, 2.0), 3), round(draw.uniform(1.0, LONGEST.get(kind, 1.0)), 3))
        for kind in (draw.choice(kinds) for _ in range(faults))
    ]
