"""The process of one step of a sweep: ``python -m quant_llm_ros.report.worker``.

It reads a job, one JSON object, from standard input, and writes JSON lines to standard output: a
``stage`` with its ``fraction``, and at the end the ``result`` or the ``error``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
import sys
from typing import Any, TextIO

from quant_llm_ros.errors import QuantLlmError, RecipeError
from quant_llm_ros.report.measure import measure, peak_memory_mb, What


def main() -> int:
    """Do the job on standard input."""
    # What libraries print, C++ ones too, must not get between the lines that the parent reads.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    job = json.load(sys.stdin)
    try:
        result = {"build": _build, "measure": _measure}[job["step"]](job, out)
    except (QuantLlmError, OSError, MemoryError) as error:
        _say(out, error=f"{error}" or type(error).__name__)
        return 1
    _say(out, result=result)
    return 0


def _say(out: TextIO, **line: Any) -> None:
    print(json.dumps(line), file=out, flush=True)


def _build(job: dict[str, Any], out: TextIO) -> dict[str, Any]:
    try:
        from quant_llm_ros.quantize.build import build_bundle
        from quant_llm_ros.quantize.recipe import Recipe
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"making bundles needs the package {error.name!r}; install the extra: "
            "pip install 'quant_llm_ros[quantize]'"
        ) from error
    bundle = build_bundle(
        Recipe.load(job["recipe"]),
        Path(job["bundle"]),
        skills=Path(job["skills"]),
        progress=lambda stage, part: _say(out, stage=stage, fraction=part),
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
    from quant_llm_ros.engine.bundle import Bundle

    what = What(**{**job["what"], "datasets": tuple(job["what"]["datasets"])})
    return measure(
        Bundle.load(job["bundle"], verify=False),
        what,
        lambda stage, part: _say(out, stage=stage, fraction=part),
    )


if __name__ == "__main__":
    raise SystemExit(main())
