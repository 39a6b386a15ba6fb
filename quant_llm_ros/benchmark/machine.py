"""What the machine can do, and what a process used of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
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


def peak_memory_mb(process: int | str = "self") -> float:
    """Give the most memory that a process held so far, in megabytes (Linux).

    Not ``getrusage``: there a new process begins with what its parent held.

    Args:
        process: Its number; default is this one.
    """
    status = Path(f"/proc/{process}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6
