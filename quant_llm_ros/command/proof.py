"""The whole self-test of a bundle on a device: logits, decisions, time, memory, and a verdict."""

from __future__ import annotations

from collections.abc import Sequence
import datetime
import time

import numpy as np

from quant_llm_ros import __version__
from quant_llm_ros.command import reference_decisions
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.command.understander import Understander
from quant_llm_ros.engine.bundle import Bundle, SKILLS
from quant_llm_ros.engine.device import (
    available_memory_mb,
    describe_device,
    process_memory_mb,
)
from quant_llm_ros.engine.open import open_engine
from quant_llm_ros.engine.providers import AUTO
from quant_llm_ros.engine.selftest import self_test, time_engine
from quant_llm_ros.engine.verdict import Verdict


def prove(
    bundle: Bundle, *, provider: str = AUTO, threads: int = 2, allow_fallback: bool = False
) -> Verdict:
    """Test a bundle on this device.

    Args:
        bundle: The bundle.
        provider: One of ``engine.providers.PROVIDERS``.
        threads: CPU threads of the engine.
        allow_fallback: Let the runtime fall back to a slower provider.

    Returns:
        What was found; not written anywhere yet.

    Raises:
        QuantLlmError: The engine cannot be loaded or fails; there is nothing to judge then.
    """
    available = available_memory_mb()
    started = time.perf_counter()
    engine = open_engine(bundle, provider=provider, threads=threads, allow_fallback=allow_fallback)
    try:
        logits = self_test(engine, bundle)
        timings = time_engine(engine, bundle)
        understander = Understander.of_bundle(
            bundle, engine, SkillRegistry.load(bundle.file(SKILLS))
        )
        ready_ms = (time.perf_counter() - started) * 1e3
        decided = reference_decisions.check(
            understander.understand, reference_decisions.load(bundle)
        )
        memory = process_memory_mb()
        left = available_memory_mb()
    finally:
        engine.close()
    # Where other programs gave more back meanwhile, this says nothing about the engine.
    if available is not None and left is not None and available > left:
        memory["drop_of_available"] = available - left
    figures = {
        "logits": {
            "relative_error": logits.relative_error,
            "limit": logits.limit,
            "worst_prompt": float(logits.worst_prompt),
            "prompts": float(logits.prompts),
        },
        "decisions": {
            "checked": float(decided.checked),
            "equal": float(decided.checked - len(decided.different)),
            **_percentiles("passes", decided.passes),
        },
        "latency_ms": {
            "load": engine.info.load_ms,
            "ready": ready_ms,
            "prefill_per_token": timings.prefill_ms_per_token,
            "decode_per_token": timings.decode_ms_per_token,
            **_percentiles("text_to_decision", decided.total_ms),
        },
        "memory_mb": memory,
    }
    return Verdict(
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        generator=f"quant_llm_ros {__version__}",
        bundle_sha256=bundle.sha256,
        runtime=engine.info.runtime,
        provider=engine.info.provider,
        device=describe_device(),
        passed=logits.passed and decided.passed,
        problems=tuple(str(part) for part in (logits, decided) if not part.passed),
        figures={
            group: {name: float(f"{value:.4g}") for name, value in values.items()}
            for group, values in figures.items()
        },
    )


def _percentiles(name: str, values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    p50, p90 = np.percentile(values, (50, 90))
    return {f"{name}_p50": float(p50), f"{name}_p90": float(p90)}
