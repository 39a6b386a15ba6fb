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
import enum
import functools
import json
from pathlib import Path
import re
import sys
import types
from typing import Any

from fake_cuda import (
    ALIGNMENT,
    cudaDeviceAttr,
    cudaError_t,
    cudaMemcpyKind,
    cudaStreamCaptureMode,
    Gpu,
    POISON,
    RuleBroken,
)
from fake_cuda import Runtime as CudaRuntime
import numpy as np
import onnxruntime
import pytest

MAGIC = b"FAKEPLAN"
WORKING_BYTES = 4096
_TYPES = {
    "tensor(int64)": np.int64,
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
}


@functools.cache
def _session(path: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class Severity(enum.IntEnum):  # noqa: D101
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class NetworkDefinitionCreationFlag(enum.IntEnum):  # noqa: D101
    STRONGLY_TYPED = 1


class MemoryPoolType(enum.IntEnum):  # noqa: D101
    WORKSPACE = 0


class ExecutionContextAllocationStrategy(enum.IntEnum):  # noqa: D101
    STATIC = 0
    USER_MANAGED = 2


class TensorLocation(enum.IntEnum):  # noqa: D101
    DEVICE = 0
    HOST = 1


class ComputeCapability(enum.IntEnum):  # noqa: D101
    NONE = 0
    CURRENT = 1
    SM86 = 86


class ILogger:  # noqa: D101
    Severity = Severity

    def __init__(self) -> None: ...

    def log(self, severity: Any, msg: str) -> None: ...


class IProgressMonitor:  # noqa: D101
    def __init__(self) -> None: ...

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None: ...

    def step_complete(self, phase_name: str, step: int) -> bool: ...

    def phase_finish(self, phase_name: str) -> None: ...


class IHostMemory(bytearray):  # noqa: D101
    @property
    def nbytes(self) -> int:
        return len(self)


class ITensor:  # noqa: D101
    def __init__(self, value: Any) -> None:
        self.name = value.name
        self._shape = value.shape

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(-1 if isinstance(size, str) else size for size in self._shape)

    def get_dimension_name(self, index: int) -> str:
        return str(self._shape[index])


class INetworkDefinition:  # noqa: D101
    def __init__(self, flags: int) -> None:
        if flags != 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED:
            raise RuleBroken("the network is not strongly typed")
        self.path = ""

    @property
    def num_inputs(self) -> int:
        return len(_session(self.path).get_inputs())

    def get_input(self, index: int) -> ITensor:
        return ITensor(_session(self.path).get_inputs()[index])


class ParserError:  # noqa: D101
    def node(self) -> int:
        return 0

    def node_name(self) -> str:
        return ""

    def node_operator(self) -> str:
        return "Nothing"

    def desc(self) -> str:
        return "the file is no graph"


class OnnxParser:  # noqa: D101
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network = network
        self.num_errors = 0

    def parse_from_file(self, model: str) -> bool:
        try:
            _session(model)
        except Exception:
            self.num_errors = 1
            return False
        self._network.path = model
        return True

    def get_error(self, index: int) -> ParserError:
        return ParserError()


class IOptimizationProfile:  # noqa: D101
    def __init__(self) -> None:
        self.shapes: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(
        self,
        input: str,  # noqa: A002
        min: tuple[int, ...],  # noqa: A002
        opt: tuple[int, ...],
        max: tuple[int, ...],  # noqa: A002
    ) -> None:
        if not all(low <= middle <= high for low, middle, high in zip(min, opt, max, strict=True)):
            raise RuleBroken(f"{input}: {min}, {opt}, {max} do not ascend")
        self.shapes[input] = [min, opt, max]


class ITimingCache:  # noqa: D101
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> IHostMemory:
        return IHostMemory(self.content + b"measured")


class IBuilderConfig:  # noqa: D101
    num_compute_capabilities = 0
    progress_monitor: IProgressMonitor | None = None

    def __init__(self) -> None:
        self.profiles: list[IOptimizationProfile] = []
        self.cache: ITimingCache | None = None
        self.workspace = 0

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self.workspace = pool_size

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        return ITimingCache(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        self.cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self.cache

    def set_compute_capability(self, compute_capability: Any, index: int) -> bool:
        return True


class Builder:  # noqa: D101
    gpu: Gpu
    version: str

    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> IHostMemory | None:
        if self.gpu.status("build"):
            self._logger.log(Severity.ERROR, "[defaultAllocator.cpp] Cuda failure: out of memory")
            return None
        monitor = config.progress_monitor
        if monitor is not None:
            monitor.phase_start("Building", None, 2)
            for step in range(2):
                if not monitor.step_complete("Building", step):
                    monitor.phase_finish("Building")
                    return None
            monitor.phase_finish("Building")
        names = [network.get_input(i).name for i in range(network.num_inputs)]
        for name in ("input_ids", "logit_positions"):
            if name in names and any(name not in one.shapes for one in config.profiles):
                raise RuleBroken(f"a profile lacks {name}")
        content = {
            "version": self.version,
            "sm": self.gpu.sm,
            "graph": network.path,
            "profiles": [profile.shapes for profile in config.profiles],
        }
        return IHostMemory(MAGIC + json.dumps(content).encode())


class Runtime:  # noqa: D101
    gpu: Gpu
    version: str

    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: Any) -> ICudaEngine | None:
        content = bytes(memoryview(serialized_engine))
        if self.gpu.status("deserialize"):
            return self._refuse("Cuda failure: out of memory")
        try:
            plan = json.loads(content[len(MAGIC) :])
        except ValueError:
            plan = {}
        if not content.startswith(MAGIC) or plan.get("version") != self.version:
            return self._refuse("Version tag does not match")
        if plan["sm"] != self.gpu.sm:
            return self._refuse("Target GPU SM does not match")
        return ICudaEngine(self.gpu, self._logger, plan)

    def _refuse(self, reason: str) -> None:
        self._logger.log(Severity.ERROR, f"IRuntime::deserializeCudaEngine: {reason}")


class ICudaEngine:  # noqa: D101
    device_memory_size_v2 = WORKING_BYTES

    def __init__(self, gpu: Gpu, logger: ILogger, plan: dict[str, Any]) -> None:
        self.gpu, self.logger = gpu, logger
        self.session = _session(plan["graph"])
        self.profiles = plan["profiles"]
        self.taken: set[int] = set()
        self.inputs = {value.name: value for value in self.session.get_inputs()}
        self.outputs = {value.name: value for value in self.session.get_outputs()}
        graph = Path(plan["graph"]).read_bytes()
        self.in_place = b"TensorScatter" in graph

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.profiles)

    @property
    def num_io_tensors(self) -> int:
        return len(self.inputs) + len(self.outputs)

    def get_tensor_name(self, index: int) -> str:
        return [*self.inputs, *self.outputs][index]

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.DEVICE

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return [tuple(shape) for shape in self.profiles[profile_index][name]]

    def get_aliased_input_tensor(self, name: str) -> str | None:
        if self.in_place and name.startswith("present_"):
            return name.replace("present_", "past_")
        return None

    def create_execution_context(
        self,
        strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC,
    ) -> IExecutionContext | None:
        if self.gpu.status("context"):
            self.logger.log(Severity.ERROR, "createExecutionContext: out of memory")
            return None
        return IExecutionContext(self, strategy)


class IExecutionContext:  # noqa: D101
    def __init__(self, engine: ICudaEngine, strategy: ExecutionContextAllocationStrategy) -> None:
        self._engine, self._strategy = engine, strategy
        self._profile: int | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._memory = (0, 0)
        self._ran: dict[str, tuple[int, ...]] = {}

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if profile_index in self._engine.taken:
            raise RuleBroken(f"profile {profile_index} is in use by another context")
        self._engine.taken.add(profile_index)
        self._profile = profile_index
        return True

    def set_device_memory(self, memory: int, size: int) -> None:
        self._memory = (memory, size)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if not isinstance(shape, tuple) or name not in self._engine.inputs:
            raise RuleBroken(f"set_input_shape({name!r}, {shape!r})")
        if self._profile is None:
            raise RuleBroken("a shape before a profile")
        least, _, most = self._engine.profiles[self._profile][name]
        if not all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True)):
            self._log(f"{name}: {shape} is not within the profile, {least} to {most}")
            return False
        self._shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in {**self._engine.inputs, **self._engine.outputs}:
            raise RuleBroken(f"there is no tensor {name}")
        if not isinstance(memory, int) or memory % ALIGNMENT:
            raise RuleBroken(f"the address of {name} is not aligned")
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        engine, gpu = self._engine, self._engine.gpu
        if gpu.status("execute"):
            self._log("enqueueV3: out of memory")
            return False
        if self._strategy != ExecutionContextAllocationStrategy.USER_MANAGED:
            raise RuleBroken("every context would have a working memory of its own")
        if self._memory[1] < engine.device_memory_size_v2:
            raise RuleBroken("the working memory is too small")
        shapes = {name: self._shapes_of(value) for name, value in engine.inputs.items()}
        missing = {*engine.inputs, *engine.outputs} - set(self._addresses)
        if missing:
            raise RuleBroken(f"tensors without an address: {sorted(missing)}")
        for name in engine.outputs:
            if name.startswith("present_"):
                past = name.replace("present_", "past_")
                same = self._addresses[name] == self._addresses[past]
                if same != engine.in_place:
                    raise RuleBroken(f"{name} and {past}: same address is {same}")
        if gpu.capturing and self._ran != shapes:
            raise RuleBroken("a pass is recorded before one of its shapes has run")
        self._ran = shapes
        addresses, memory = dict(self._addresses), self._memory

        def work() -> None:
            feeds = {
                name: gpu.view(addresses[name], shape, _TYPES[engine.inputs[name].type]).copy()
                for name, shape in shapes.items()
            }
            gpu.view(memory[0], (memory[1],), np.uint8)[:] = POISON
            results = engine.session.run(list(engine.outputs), feeds)
            for name, result in zip(engine.outputs, results, strict=True):
                gpu.view(addresses[name], result.shape, result.dtype)[:] = result

        gpu.enqueue(stream_handle, work)
        return True

    def _shapes_of(self, value: Any) -> tuple[int, ...]:
        if not any(isinstance(size, str) for size in value.shape):
            return tuple(value.shape)
        if value.name not in self._shapes:
            raise RuleBroken(f"{value.name} has no shape")
        return self._shapes[value.name]

    def _log(self, message: str) -> None:
        self._engine.logger.log(Severity.ERROR, message)


def fake_module(gpu: Gpu, version: str) -> types.SimpleNamespace:
    """Make a module ``tensorrt`` of a version for a GPU."""
    bound = {"gpu": gpu, "version": version}
    return types.SimpleNamespace(
        __version__=version,
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
        patch.setitem(sys.modules, "cuda.bindings.runtime", CudaRuntime(gpu))
        yield gpu


def names() -> set[str]:
    """Names of all that is pretended here, as the real bindings must have them too."""
    trt = [
        Builder, ExecutionContextAllocationStrategy, IBuilderConfig, ICudaEngine,
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
    for kind in (*trt, *cuda):
        public = [name for name in vars(kind) if not name.startswith("_")]
        own = {"gpu", "version", "Severity"}
        made |= {f"{kind.__name__}.{name}" for name in public if name not in own}
    return made | {name for name in vars(CudaRuntime) if re.fullmatch(r"cuda[A-Z]\w+", name)} - {
        kind.__name__ for kind in cuda
    }
