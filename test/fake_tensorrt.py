"""A pretended TensorRT on a pretended GPU: compiled engines run their graph with ONNX Runtime.

Every class and method has the name and the parameters of the real one
(``test_tensorrt_api.py`` compares them with the bindings of several versions). The real rules are
kept: every tensor has an aligned address of living memory that is large enough, shapes are within
the profile, the working memory is given by the caller, KV cache updates share their address and
other outputs do not, and a pass is recorded only after one of the same shapes has run.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import re
import sys
import types

from fake_cuda import cudaDeviceAttr, cudaError_t, cudaMemcpyKind, cudaStreamCaptureMode, Gpu
from fake_cuda import Runtime as CudaRuntime
from fake_tensorrt_build import (
    Builder,
    IBuilderConfig,
    INetworkDefinition,
    IOptimizationProfile,
    ITensor,
    ITimingCache,
    OnnxParser,
    ParserError,
)
import fake_tensorrt_plugin as plugin
from fake_tensorrt_run import ICudaEngine, IExecutionContext, Runtime
from fake_tensorrt_types import (
    ComputeCapability,
    DataType,
    ExecutionContextAllocationStrategy,
    IHostMemory,
    ILogger,
    IProgressMonitor,
    MemoryPoolType,
    NetworkDefinitionCreationFlag,
    Severity,
    TensorLocation,
)
import pytest

__all__ = ["ComputeCapability", "Severity", "fake_module", "installed", "names"]


def fake_module(gpu: Gpu, version: str) -> types.SimpleNamespace:
    """Make a module ``tensorrt`` of a version for a GPU."""
    bound = {"gpu": gpu, "version": version}
    return types.SimpleNamespace(
        __version__=version,
        DataType=DataType,
        Builder=type("Builder", (Builder,), bound),
        ExecutionContextAllocationStrategy=ExecutionContextAllocationStrategy,
        ILogger=ILogger,
        IProgressMonitor=IProgressMonitor,
        MemoryPoolType=MemoryPoolType,
        NetworkDefinitionCreationFlag=NetworkDefinitionCreationFlag,
        OnnxParser=OnnxParser,
        Runtime=type("Runtime", (Runtime,), bound),
        TensorLocation=TensorLocation,
    )


@contextlib.contextmanager
def installed(
    monkeypatch: pytest.MonkeyPatch, version: str = "10.16.1.11", module: str = "tensorrt"
) -> Iterator[Gpu]:
    """Let TensorRT and cuda-python be installed on a computer with a GPU."""
    gpu = Gpu()
    trt = fake_module(gpu, version)
    with monkeypatch.context() as patch:
        for name in ("tensorrt", "tensorrt_rtx"):
            patch.setitem(sys.modules, name, trt if name == module else None)
        patch.setitem(sys.modules, "tensorrt.plugin", plugin if module == "tensorrt" else None)
        patch.setattr(plugin, "op", types.SimpleNamespace())
        patch.setitem(sys.modules, "cuda.bindings.runtime", CudaRuntime(gpu))
        yield gpu


def names() -> set[str]:
    """Names of all that is pretended here, as the real bindings must have them too."""
    trt = [
        Builder, DataType, ExecutionContextAllocationStrategy, IBuilderConfig, ICudaEngine,
        IExecutionContext, IHostMemory, ILogger, INetworkDefinition, IOptimizationProfile,
        IProgressMonitor, ITensor, ITimingCache, MemoryPoolType, NetworkDefinitionCreationFlag,
        OnnxParser, ParserError, Runtime, TensorLocation,
    ]  # fmt: skip
    cuda = [cudaDeviceAttr, cudaError_t, cudaMemcpyKind, cudaStreamCaptureMode]
    made = {
        "Builder.__init__",
        "OnnxParser.__init__",
        "Runtime.__init__",
        "ComputeCapability.SM86",
    }
    made |= {"ILogger.__init__", "IProgressMonitor.__init__", "OnnxParser.num_errors"}
    made |= {"ITensor.name", *(f"ILogger.Severity.{one.name}" for one in Severity)}
    made |= {"IBuilderConfig.set_compute_capability", "IBuilderConfig.num_compute_capabilities"}
    made |= {f"plugin.{name}" for name in plugin.NAMES}
    for kind in (*trt, *cuda):
        public = [name for name in vars(kind) if not name.startswith("_")]
        own = {"gpu", "version", "Severity"}
        made |= {f"{kind.__name__}.{name}" for name in public if name not in own}
    return made | {name for name in vars(CudaRuntime) if re.fullmatch(r"cuda[A-Z]\w+", name)} - {
        kind.__name__ for kind in cuda
    }
