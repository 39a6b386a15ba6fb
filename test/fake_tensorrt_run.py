"""The half of the pretended TensorRT that serves: runtime, engine, execution context."""

from __future__ import annotations

import json
from typing import Any

from fake_cuda import ALIGNMENT, Gpu, POISON, RuleBroken
from fake_tensorrt_types import (
    ExecutionContextAllocationStrategy,
    ILogger,
    MAGIC,
    session,
    Severity,
    TensorLocation,
)
import numpy as np

WORKING_BYTES = 4096
_TYPES = {
    "tensor(int64)": np.int64,
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
}


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
        self.session = session(plan["graph"])
        self.profiles = plan["profiles"]
        self.taken: set[int] = set()
        self.inputs = {value.name: value for value in self.session.get_inputs()}
        self.outputs = {value.name: value for value in self.session.get_outputs()}
        self.in_place = plan["in_place"]

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
