"""Which cores of the computer the model may use, so that the others are left to the robot.

Linux keeps this for every thread, and a new thread begins with that of the one that made it
(sched_setaffinity(2)). So a model that is loaded inside of :func:`kept_to` has its pool of threads
on these cores for ever, and the thread that runs it needs :meth:`keep_to` itself: ONNX Runtime
computes in it too, and its own setting (``session.intra_op_thread_affinities``) leaves it out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import os
from pathlib import Path
import re

from quant_llm_ros.errors import EngineError

_RANGE = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?", re.ASCII)
_MOST = 1024  # cores; no robot has more


def parse_cpus(text: str) -> tuple[int, ...]:
    """Read a list of cores, written as for ``taskset -c``: ``2,3`` or ``4-7``.

    Args:
        text: The list; empty or blank: no choice is made.

    Returns:
        The cores, ascending, each once.

    Raises:
        EngineError: It is no such list.
    """
    found: set[int] = set()
    for part in text.split(",") if text.strip() else []:
        match = _RANGE.fullmatch(part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < _MOST:
            raise EngineError(
                f"{text!r} is not a list of CPU cores; write their numbers as in 2,3 or 4-7"
            )
        found.update(range(first, last + 1))
    return tuple(sorted(found))


def check_cpus(cpus: Sequence[int], threads: int) -> None:
    """Check that this process may use the cores, and that they are enough.

    Args:
        cpus: The cores; none: no choice is made, which is always right.
        threads: CPU threads of the model.

    Raises:
        EngineError: They cannot be chosen here, one of them is not there or not allowed to this
            process, or there are fewer than threads.
    """
    if not cpus:
        return
    if not hasattr(os, "sched_setaffinity"):
        raise EngineError("this system cannot keep a program to CPU cores; leave cpus empty")
    allowed = allowed_cpus()
    missing = sorted(set(cpus) - allowed)
    if missing:
        raise EngineError(
            f"cpus names {_listed(missing)}, but this process may use {_listed(sorted(allowed))}: "
            f"the others are not there, are offline, or belong to others (a container's or a "
            f"service's cpuset)"
        )
    if len(cpus) < threads:
        raise EngineError(
            f"cpus names {len(cpus)} of the cores for {threads} threads, which would wait for "
            f"each other; set threads to {len(cpus)}, or name more cores"
        )


def allowed_cpus() -> set[int]:
    """Find the cores that the system would give to this process if it asked for all."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(_MOST))  # the kernel leaves out what is not to be had
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before)
    return allowed


def keep_to(cpus: Sequence[int]) -> None:
    """Keep the calling thread, and all that it makes from now on, to some cores.

    Args:
        cpus: Cores that :func:`check_cpus` found right; none: nothing is changed.

    Raises:
        EngineError: The system took the cores away meanwhile.
    """
    if cpus:
        _set(0, cpus)


def keep_process_to(cpus: Sequence[int]) -> None:
    """Keep all threads of this process, and all that they make, to some cores; see `keep_to`."""
    if cpus:
        for task in Path("/proc/self/task").iterdir():
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                _set(int(task.name), cpus)


@contextlib.contextmanager
def kept_to(cpus: Sequence[int]) -> Iterator[None]:
    """Keep the calling thread to some cores for a while; those that it makes stay there."""
    if not cpus:
        yield
        return
    before = os.sched_getaffinity(0)
    keep_to(cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _set(thread: int, cpus: Sequence[int]) -> None:
    try:
        os.sched_setaffinity(thread, cpus)
    except ProcessLookupError:
        raise
    except OSError as error:
        raise EngineError(
            f"cannot keep to the CPU cores {_listed(cpus)}: {error.strerror}"
        ) from error


def _listed(cpus: Sequence[int]) -> str:
    """Write cores for a person: ``core 3``, ``cores 0-3, 6``."""
    runs: list[list[int]] = []
    for cpu in cpus:
        if runs and cpu == runs[-1][-1] + 1:
            runs[-1].append(cpu)
        else:
            runs.append([cpu])
    text = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    return f"core{'s' if len(cpus) > 1 else ''} {text}"
