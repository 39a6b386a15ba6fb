"""The steps of a sweep that another process asks for.

It reads jobs, a line of JSON each, from standard input, and writes JSON lines to standard output:
a ``stage`` with its ``fraction``, and at the end of a job the ``result``. It ends behind an
``error``.
"""

from __future__ import annotations

from collections.abc import Callable
import json
import os
from pathlib import Path
import signal
import sys
from typing import Any, TextIO, TYPE_CHECKING

from quant_llm_ros.engine.bundle import Bundle
from quant_llm_ros.errors import QuantLlmError, RecipeError
from quant_llm_ros.report.measure import measure, peak_memory_mb, Progress, reset_peak_memory, What

if TYPE_CHECKING:  # at run time it would bring torch, which the measuring process must not hold
    from quant_llm_ros.quantize.recipe import Recipe

    Build = Callable[[Recipe, Path, Path, Progress], Bundle]
    """Makes a bundle of a recipe: gets also its folder and the skills."""


def work(build: Build) -> int:
    """Do the jobs on standard input.

    Args:
        build: Makes bundles.

    Returns:
        0, or 1 where one was not done, or 130 where it was interrupted.
    """
    # What libraries print, C++ ones too, must not get between the lines that the parent reads.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # Whoever asked for a step may take it back: what is half written is then removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for line in iter(sys.stdin.readline, ""):
            job = json.loads(line)
            _print_to(Path(job["log"]))
            reset_peak_memory()
            result = _measure(job, out) if job["step"] == "measure" else _build(build, job, out)
            _say(out, result=result)
    except (QuantLlmError, OSError, MemoryError) as error:
        _say(out, error=f"{error}" or type(error).__name__)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _print_to(log: Path) -> None:
    """Let everything that is printed from now on go to a file."""
    with log.open("a", encoding="utf-8") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())


def _say(out: TextIO, **line: Any) -> None:
    print(json.dumps(line), file=out, flush=True)


def _build(build: Build, job: dict[str, Any], out: TextIO) -> dict[str, Any]:
    try:
        from quant_llm_ros.quantize.recipe import Recipe
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"making bundles needs the package {error.name!r}; install the extra: "
            "pip install 'quant_llm_ros[quantize]'"
        ) from error
    bundle = build(
        Recipe.load(job["recipe"]),
        Path(job["bundle"]),
        Path(job["skills"]),
        lambda stage, part: _say(out, stage=stage, fraction=part),
    )
    return {
        **bundle.figures,
        "name": bundle.name,
        "target": bundle.target,
        "parameters": bundle.model.parameters,
        "source": bundle.model.source,
        "peak_memory_mb": peak_memory_mb(),
    }


def _measure(job: dict[str, Any], out: TextIO) -> dict[str, Any]:
    what = What(**{**job["what"], "datasets": tuple(job["what"]["datasets"])})
    return measure(
        Bundle.load(job["bundle"], verify=False),
        what,
        lambda stage, part: _say(out, stage=stage, fraction=part),
    )
