"""Which execution provider of ONNX Runtime runs a model, and whether it really does.

ONNX Runtime falls back to the CPU without an error: where a GPU provider does not start (no GPU, a
driver that is too old, a CUDA library that is missing), and for single operators that a provider
lacks. ``get_available_providers`` only tells what the wheel was built with. So the session is
asked what it uses (``get_providers``), and where each operator was put
(``session.record_ep_graph_assignment_info``, since ONNX Runtime 1.24).
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
import importlib
from pathlib import Path
from typing import Any

from quant_llm_ros.errors import EngineError

CPU = "cpu"
AUTO = "auto"
PROVIDERS = (AUTO, CPU, "cuda", "tensorrt")
"""What can be asked for. ``auto``: CUDA where the installed ONNX Runtime was built with it, which
then has to start; else the CPU. It never stands for TensorRT, which compiles for minutes."""

RECORD_PLACEMENT = "session.record_ep_graph_assignment_info"
ENGINE_CACHE = "engines"
"""Folder in a bundle for what is compiled on the device; not among its hashed files."""

_NAMES = {
    CPU: "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
# Nearly all of a decoder's time. Small integer operators on shapes belong on the CPU.
_HEAVY = ("MatMul", "MatMulNBits", "Gemm", "Attention", "GroupQueryAttention")

Options = dict[str, str]


def load_onnxruntime() -> Any:
    """Import ONNX Runtime, which a robot that serves with TensorRT need not have.

    Raises:
        EngineError: It is not installed, or its libraries cannot be loaded.
    """
    try:
        return importlib.import_module("onnxruntime")
    except (ImportError, OSError) as error:
        raise EngineError(
            f"ONNX Runtime cannot be imported ({error}); run `pip install onnxruntime`, or serve "
            f"a bundle of target tensorrt with TensorRT"
        ) from error


def resolve(provider: str) -> str:
    """Find the provider that ``auto`` stands for here, and check that the installed wheel has it.

    Args:
        provider: One of :data:`PROVIDERS`.

    Returns:
        ``cpu``, ``cuda`` or ``tensorrt``.

    Raises:
        EngineError: There is no such provider, or the installed ONNX Runtime lacks it.
    """
    if provider not in PROVIDERS:
        raise EngineError(f"provider is {provider!r}; expected one of {', '.join(PROVIDERS)}")
    onnxruntime = load_onnxruntime()
    available = onnxruntime.get_available_providers()
    if provider == AUTO:
        return "cuda" if _NAMES["cuda"] in available else CPU
    if _NAMES[provider] not in available:
        raise EngineError(
            f"provider {provider}: the installed ONNX Runtime {onnxruntime.__version__} was built "
            f"without {_NAMES[provider]}; replace it, `pip uninstall onnxruntime` and then `pip "
            f"install onnxruntime-gpu` (on a Jetson: the wheel that docs/jetson.md names), or set "
            f"provider to {CPU}"
        )
    return provider


def session_providers(provider: str, cache: Path) -> list[tuple[str, Options]]:
    """List what a session shall try, best first.

    Args:
        provider: As :func:`resolve` gives it.
        cache: Folder in which the TensorRT provider keeps its compiled engines.

    Raises:
        EngineError: The folder cannot be made.
    """
    listed: list[tuple[str, Options]] = []
    if provider == "tensorrt":
        try:
            cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EngineError(
                f"{cache} cannot be made for TensorRT's engines ({error.strerror}); make the "
                f"bundle's folder writable, or set provider to cuda"
            ) from error
        # Options: onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html
        options = {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(cache),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(cache),
            "trt_fp16_enable": "1",
        }
        listed.append((_NAMES["tensorrt"], options))
    if provider != CPU:
        # A robot's memory is not only ours: grow by what is asked for, not by powers of two.
        listed.append((_NAMES["cuda"], {"arena_extend_strategy": "kSameAsRequested"}))
    return [*listed, (_NAMES[CPU], {})]


def check_in_use(session: Any, provider: str, *, allow_fallback: bool) -> str:
    """Check that a session runs on what was asked for.

    Args:
        session: An ``onnxruntime.InferenceSession``.
        provider: As :func:`resolve` gave it.
        allow_fallback: Slower providers will do too.

    Returns:
        ONNX Runtime's name of the provider in use.

    Raises:
        EngineError: It is another one, or the heavy operators are not all on it.
    """
    in_use = str(session.get_providers()[0])
    if provider == CPU or allow_fallback:
        return in_use
    title = f"ONNX Runtime {load_onnxruntime().__version__}"
    if in_use != _NAMES[provider]:
        raise EngineError(
            f"provider {provider}: {_NAMES[provider]} did not start, {title} fell back to "
            f"{in_use}; its reason stands on standard error: no GPU, a driver that is too old, or "
            f"CUDA, cuDNN or TensorRT libraries that are missing or of another version. Correct "
            f"that, set provider to {CPU}, or set allow_fallback"
        )
    left = _left_on_cpu(session)
    if left:
        raise EngineError(
            f"provider {provider}: {title} runs "
            f"{', '.join(f'{count} {name}' for name, count in left)} on the CPU, for which "
            f"{in_use} has no kernel; take a newer ONNX Runtime, set provider to {CPU}, or set "
            f"allow_fallback"
        )
    return in_use


def _left_on_cpu(session: Any) -> Sequence[tuple[str, int]]:
    """Count the heavy operators that were put on the CPU; none where that is not recorded."""
    recorded = getattr(session, "get_provider_graph_assignment_info", None)
    if recorded is None:
        return []
    return collections.Counter(
        node.op_type
        for subgraph in recorded()
        if subgraph.ep_name == _NAMES[CPU]
        for node in subgraph.get_nodes()
        if node.op_type in _HEAVY
    ).most_common()
