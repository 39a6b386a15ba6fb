"""Opens the engine that a bundle is made for."""

from __future__ import annotations

import importlib

from quant_llm_ros.engine.bundle import Bundle
from quant_llm_ros.engine.protocol import Engine
from quant_llm_ros.engine.providers import AUTO, load_onnxruntime, PROVIDERS
from quant_llm_ros.errors import EngineError

_ONNXRUNTIME = "ort"
_TENSORRT = ("tensorrt", "tensorrt-jp6")


def open_engine(
    bundle: Bundle, *, provider: str = AUTO, threads: int = 2, allow_fallback: bool = False
) -> Engine:
    """Load a bundle's model with the runtime that its graph is made for.

    Args:
        bundle: The bundle. One of target ``ort`` runs with ONNX Runtime, one of target
            ``tensorrt`` or ``tensorrt-jp6`` with the engine that ``quant_llm build-engine`` made.
        provider: One of ``providers.PROVIDERS``. A bundle for TensorRT knows ``auto`` and
            ``tensorrt``, which mean the same there.
        threads: CPU threads of a pass, where it runs on the CPU.
        allow_fallback: Let ONNX Runtime fall back to a slower provider; else that is an error.

    Returns:
        The engine, with an empty cache.

    Raises:
        EngineError: The engine cannot be loaded; the message says why and what to do.
    """
    if provider not in PROVIDERS:
        raise EngineError(f"provider is {provider!r}; expected one of {', '.join(PROVIDERS)}")
    # Neither engine is imported at the top: a robot has the libraries of one of them.
    engine: Engine
    if bundle.target == _ONNXRUNTIME:
        load_onnxruntime()
        module = importlib.import_module("quant_llm_ros.engine.onnxruntime_engine")
        engine = module.OnnxRuntimeEngine.load(
            bundle, provider=provider, threads=threads, allow_fallback=allow_fallback
        )
        return engine
    if bundle.target not in _TENSORRT:
        known = ", ".join((_ONNXRUNTIME, *_TENSORRT))
        raise EngineError(
            f"{bundle.path} is built for target {bundle.target!r}; this program runs {known}"
        )
    if provider not in (AUTO, "tensorrt"):
        raise EngineError(
            f"{bundle.path} is built for target {bundle.target}, which provider {provider} cannot "
            f"run; set provider to auto, or serve a bundle of target ort (`quant_llm quantize` "
            f"with the default recipe)"
        )
    module = importlib.import_module("quant_llm_ros.engine.tensorrt_engine")
    engine = module.TensorRtEngine.open(bundle)
    return engine
