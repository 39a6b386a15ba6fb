"""From the start of a process to its first decision."""

from __future__ import annotations

import subprocess
import sys
import time

from quant_llm_ros.benchmark.machine import peak_memory_mb
from quant_llm_ros.benchmark.runner import Settings
from quant_llm_ros.errors import EngineError


def first_decision(settings: Settings, sentence: str) -> tuple[float, float]:
    """Start ``quant_llm understand`` as a user does, and wait for its first decision.

    Args:
        settings: Bundle, skills and threads.
        sentence: What is decided about.

    Returns:
        Seconds from the start of the process to the decision, self-test included, and the most
        memory that the process held, in megabytes (Linux).

    Raises:
        EngineError: It gave no decision.
    """
    command = [sys.executable, "-m", "quant_llm_ros.cli", "understand"]
    command += [f"--bundle={settings.bundle}", f"--threads={settings.threads}"]
    command += [f"--provider={settings.provider}", "--shortlist=0"]
    command += [f"--skills={settings.skills}"] if settings.skills else []
    command += ["--allow-fallback"] if settings.allow_fallback else []
    started = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(f"{sentence}\n")
        process.stdin.flush()
        line = process.stdout.readline()
        seconds = time.perf_counter() - started
        peak_mb = peak_memory_mb(process.pid) if line else 0.0
        process.stdin.close()
    if not line or process.returncode:
        raise EngineError(f"`{' '.join(command)}` gave no decision; run it to see why")
    return seconds, peak_mb
