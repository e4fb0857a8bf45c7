"""Right-sizing: from what a server took under load to how many workers, how much memory and what cost hold a peak."""

import math
from dataclasses import dataclass

TARGET_UTILISATION = 0.6  # of the workers' processors: beyond, waiting grows faster than load
HOURS_A_MONTH = 730.0


@dataclass(frozen=True, slots=True)
class Sizing:
    """What a rate of requests takes."""

    at_rps: float
    cores: float  # busy, on the average
    workers: int
    memory_bytes: int
    usd_per_month: float  # of as many cores as workers, all month
    usd_per_1k: float  # of the processor time alone


def propose_size(
    at_rps: float, cpu_seconds: float, requests: int, memory_bytes: int, workers: int, usd_per_core_hour: float
) -> Sizing:
    """How many workers hold `at_rps` with their processors at most 60 % busy, and what they take.

    Args:
        at_rps: the peak to hold, requests per second.
        cpu_seconds: processor time of the measured server for its requests.
        requests: that it answered, at least 1.
        memory_bytes: peak resident, its processes summed.
        workers: that it had.
        usd_per_core_hour: price of a core.

    Source: utilisation law, busy = rate x service time; at 60 % an M/D/1 queue waits three quarters of a service time.

    >>> propose_size(1000, cpu_seconds=1.0, requests=1000, memory_bytes=10, workers=1, usd_per_core_hour=0.05).workers
    2
    """
    service_s = cpu_seconds / requests
    cores = at_rps * service_s
    needed = max(1, math.ceil(cores / TARGET_UTILISATION))
    return Sizing(
        at_rps=at_rps,
        cores=cores,
        workers=needed,
        memory_bytes=math.ceil(memory_bytes * needed / workers),
        usd_per_month=needed * usd_per_core_hour * HOURS_A_MONTH,
        usd_per_1k=1000 * service_s / 3600 * usd_per_core_hour,
    )
