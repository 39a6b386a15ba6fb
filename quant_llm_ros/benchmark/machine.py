"""What the machine can do, and what a process used of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
import resource
import time

import numpy as np

_BYTES = 256 * 2**20
_ROUNDS = 5


def read_bandwidth(threads: int) -> float:
    """Measure how fast memory is read, in bytes per second.

    Args:
        threads: Threads that read at once.
    """
    # Far more than the caches hold; a dot product with itself reads it once and writes nothing.
    parts = [np.ones(_BYTES // 4 // threads, np.float32) for _ in range(threads)]
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(_ROUNDS):
            started = time.perf_counter()
            list(pool.map(lambda part: float(part @ part), parts))
            best = min(best, time.perf_counter() - started)
    return sum(part.nbytes for part in parts) / best


def peak_memory_mb() -> float:
    """Give the most memory that this process held so far, in megabytes (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
