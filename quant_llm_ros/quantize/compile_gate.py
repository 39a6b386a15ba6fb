"""Compiles graphs for NVIDIA GPUs that are not there, with TensorRT for RTX.

TensorRT itself needs the GPU it builds for. TensorRT for RTX (package ``tensorrt-rtx-cu13``, an
optional tool with a proprietary licence) has the same parser and API and compiles for a compute
capability by name. It has neither Orin (8.7) nor Thor (11.0), so 8.6 and 12.0 stand in for them:
what compiles there is known to be parsed and to have kernels, and nothing is known about speed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import importlib
import importlib.util
from pathlib import Path
import time
from typing import Any, TypeAlias

from quant_llm_ros.errors import EngineError

MODULE = "tensorrt_rtx"
CAPABILITIES = ("SM86", "SM89", "SM120")
_MEBIBYTE = 2**20


Profile: TypeAlias = Mapping[str, tuple[int, int, int]]
"""Optimization profile: the least, the typical and the largest of each size that changes, by its
name in the graph (``n`` new tokens, ``k`` positions whose logits are wanted)."""


@dataclasses.dataclass(frozen=True)
class CompileResult:
    """What became of one graph for one compute capability.

    Attributes:
        capability: For example ``SM86``.
        seconds: Time of parsing and compiling.
        engine_bytes: Size of the engine; 0 if there is none.
        errors: What the parser and the builder complained about; empty if all is well.
    """

    capability: str
    seconds: float
    engine_bytes: int
    errors: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """An engine was made."""
        return self.engine_bytes > 0


def is_available() -> bool:
    """Tell whether TensorRT for RTX is installed."""
    return importlib.util.find_spec(MODULE) is not None


def decoder_profiles(prompt: int, drafts: int) -> tuple[Profile, Profile, Profile]:
    """Make the profiles of a decoder: prefill, decoding token by token, verifying a draft.

    Args:
        prompt: Most new tokens of a prefill.
        drafts: Most tokens of a draft, 2 or more.
    """
    one = (1, 1, 1)
    draft = (2, (2 + drafts) // 2, drafts)
    return (
        {"n": (1, max(1, prompt // 2), prompt), "k": one},
        {"n": one, "k": one},
        {"n": draft, "k": draft},
    )


def compile_graph(
    path: Path,
    capabilities: Sequence[str] = CAPABILITIES,
    profiles: Sequence[Profile] = (),
    *,
    workspace_mib: int = 1024,
) -> list[CompileResult]:
    """Compile an ONNX file, strongly typed.

    Args:
        path: The ``.onnx`` file.
        capabilities: For which GPUs.
        profiles: The engine has kernels for each; none for a graph without sizes that change.
        workspace_mib: Memory that a kernel may use, in MiB.

    Returns:
        A result for each compute capability.

    Raises:
        EngineError: TensorRT for RTX is not installed or has no such compute capability, or the
            file does not exist.
    """
    if not is_available():
        raise EngineError(
            f"{MODULE} is not installed; to check graphs without a GPU: "
            f"pip install -r requirements/tensorrt.txt"
        )
    if not path.is_file():
        raise EngineError(f"{path} does not exist")
    trt = importlib.import_module(MODULE)
    known = trt.ComputeCapability.__members__
    for name in capabilities:
        if name not in known:
            raise EngineError(f"{MODULE} does not know {name}; known: {', '.join(known)}")
    return [_compile(trt, path, name, profiles, workspace_mib) for name in capabilities]


def _compile(
    trt: Any, path: Path, capability: str, profiles: Sequence[Profile], workspace_mib: int
) -> CompileResult:
    started = time.perf_counter()
    complaints: list[str] = []

    class Listener(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                complaints.append(" ".join(message.split()))

    builder = trt.Builder(Listener())
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, builder.logger)
    engine = None
    if parser.parse_from_file(str(path)):
        config = builder.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib * _MEBIBYTE)
        for sizes in profiles:
            profile = builder.create_optimization_profile()
            for i in range(network.num_inputs):
                value = network.get_input(i)
                if -1 in value.shape:
                    profile.set_shape(value.name, *_shapes(value, sizes))
            config.add_optimization_profile(profile)
        engine = builder.build_serialized_network(network, config)
    else:
        complaints = [_parser_error(parser.get_error(i)) for i in range(parser.num_errors)]
    return CompileResult(
        capability=capability,
        seconds=time.perf_counter() - started,
        engine_bytes=engine.nbytes if engine is not None else 0,
        errors=tuple(complaints),
    )


def _shapes(value: Any, sizes: Profile) -> list[tuple[int, ...]]:
    """Least, typical and largest shape of a graph input."""
    return [
        tuple(
            sizes[value.get_dimension_name(axis)][which] if size == -1 else size
            for axis, size in enumerate(value.shape)
        )
        for which in range(3)
    ]


def _parser_error(error: Any) -> str:
    node = error.node_name() or f"node {error.node()}"
    return f"{node} ({error.node_operator()}): {' '.join(error.desc().split())}"
