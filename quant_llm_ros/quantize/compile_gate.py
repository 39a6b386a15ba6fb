"""Compiles graphs for NVIDIA GPUs that are not there, with TensorRT for RTX.

TensorRT itself needs the GPU it builds for. TensorRT for RTX (package ``tensorrt-rtx-cu13``, an
optional tool with a proprietary licence) has the same parser and API and compiles for a compute
capability by name. It has neither Orin (8.7) nor Thor (11.0), so 8.6 and 12.0 stand in for them:
what compiles there is known to be parsed and to have kernels, and nothing is known about speed.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import importlib.util
from pathlib import Path
import time

from quant_llm_ros.engine.tensorrt_api import Profile, TensorRt
from quant_llm_ros.engine.tensorrt_build import BuildOptions, decoder_profiles
from quant_llm_ros.errors import EngineError

MODULE = "tensorrt_rtx"
CAPABILITIES = ("SM86", "SM89", "SM120")


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

    def __str__(self) -> str:
        """Say it in a few words, for a person."""
        if not self.passed:
            return f"refused: {'; '.join(self.errors)}"
        return f"{self.engine_bytes / 1e6:.1f} MB, {self.seconds:.0f} s"


def is_available() -> bool:
    """Tell whether TensorRT for RTX is installed."""
    return importlib.util.find_spec(MODULE) is not None


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
    trt = TensorRt.load(MODULE)
    for name in capabilities:
        trt.check_capability(name)
    return [_compile(trt, path, name, profiles, workspace_mib) for name in capabilities]


def compile_decoder(path: Path, capabilities: Sequence[str] = CAPABILITIES) -> list[CompileResult]:
    """Compile the graph of a bundle, for passes of the sizes that ``build-engine`` takes.

    Args:
        path: The ``.onnx`` file.
        capabilities: For which GPUs.

    Returns:
        A result for each compute capability.

    Raises:
        EngineError: As for :func:`compile_graph`.
    """
    options = BuildOptions()
    profiles = decoder_profiles(prompt=options.prompt_tokens, drafts=options.draft_tokens)
    return compile_graph(path, capabilities, profiles, workspace_mib=options.workspace_mib)


def _compile(
    trt: TensorRt, path: Path, capability: str, profiles: Sequence[Profile], workspace_mib: int
) -> CompileResult:
    started = time.perf_counter()
    size = 0
    errors: tuple[str, ...] = ()
    try:
        engine, _ = trt.build(path, profiles, workspace_mib=workspace_mib, capability=capability)
        size = engine.nbytes
    except EngineError as error:
        errors = (str(error),)
    return CompileResult(capability, time.perf_counter() - started, size, errors)
