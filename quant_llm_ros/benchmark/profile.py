"""What a pass of the model spends its time on, as ONNX Runtime's profiler sees it."""

from __future__ import annotations

import collections
import json
from pathlib import Path
import tempfile

from quant_llm_ros.benchmark.runner import Settings
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.command.understander import Understander
from quant_llm_ros.engine.bundle import Bundle, SKILLS

BETWEEN = "between the operators"
_PASSES = 20


def profile(settings: Settings, tokens: int) -> dict[str, float]:
    """Profile passes over new tokens behind the prompt's prefix, on the CPU.

    Profiling itself takes some microseconds for each operator.

    Args:
        settings: Bundle of target ``ort``, skills and threads.
        tokens: New tokens of a pass.

    Returns:
        Milliseconds of a pass by kind of operator, the largest first, and ``BETWEEN`` for what no
        operator took.
    """
    # Imported here: with TensorRT alone there is no ONNX Runtime.
    from quant_llm_ros.engine.onnxruntime_engine import OnnxRuntimeEngine

    bundle = Bundle.load(settings.bundle, verify=False)
    skills = SkillRegistry.load(settings.skills or bundle.file(SKILLS))
    with tempfile.TemporaryDirectory(prefix="quant_llm_profile_") as folder:
        engine = OnnxRuntimeEngine.load(
            bundle, threads=settings.threads, profile=f"{folder}/profile"
        )
        whole = Understander.of_bundle(bundle, engine, skills, drafts=False, shortlist=0)
        prefix = whole.answerer.prefix
        for _ in range(_PASSES):
            engine.rollback(len(prefix))
            engine.append(prefix[:tokens])
        file = engine.end_profile()
        engine.close()
        return by_operator(Path(file).read_text(encoding="utf-8"), _PASSES)


def by_operator(text: str, passes: int) -> dict[str, float]:
    """Read a profile of ONNX Runtime.

    Args:
        text: Its JSON.
        passes: Number of passes that count, the last ones.

    Returns:
        As ``profile`` does.
    """
    events = [event for event in json.loads(text) if "dur" in event]
    runs = sorted(
        (event for event in events if event["name"] == "model_run"), key=lambda e: e["ts"]
    )[-passes:]
    took: collections.Counter[str] = collections.Counter()
    for event in events:
        if event.get("cat") == "Node" and event["ts"] >= runs[0]["ts"]:
            took[event["args"]["op_name"]] += event["dur"]
    took[BETWEEN] = max(0, sum(run["dur"] for run in runs) - took.total())
    return {name: round(us / len(runs) / 1e3, 3) for name, us in took.most_common()}
