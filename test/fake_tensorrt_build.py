"""The half of the pretended TensorRT that compiles: parser, network, settings, builder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fake_cuda import Gpu, RuleBroken
import fake_tensorrt_plugin
from fake_tensorrt_types import (
    IHostMemory,
    ILogger,
    IProgressMonitor,
    MAGIC,
    NetworkDefinitionCreationFlag,
    session,
    Severity,
)


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
        self.in_place = False

    @property
    def num_inputs(self) -> int:
        return len(session(self.path).get_inputs())

    def get_input(self, index: int) -> ITensor:
        return ITensor(session(self.path).get_inputs()[index])


class ParserError:  # noqa: D101
    def __init__(self, description: str, operator: str = "Nothing", name: str = "") -> None:
        self._said = description, operator, name

    def node(self) -> int:
        return 0

    def node_name(self) -> str:
        return self._said[2]

    def node_operator(self) -> str:
        return self._said[1]

    def desc(self) -> str:
        return self._said[0]


class OnnxParser:  # noqa: D101
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network = network
        self._errors: list[ParserError] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def parse_from_file(self, model: str) -> bool:
        try:
            path = fake_tensorrt_plugin.with_functions(model)
            session(path)
        except fake_tensorrt_plugin.UnknownPlugin as error:
            self._errors = [ParserError(*error.args)]
            return False
        except Exception:
            self._errors = [ParserError("the file is no graph")]
            return False
        self._network.path = path
        self._network.in_place = b"TensorScatter" in Path(model).read_bytes()
        return True

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]


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
            "in_place": network.in_place,
            "profiles": [profile.shapes for profile in config.profiles],
        }
        return IHostMemory(MAGIC + json.dumps(content).encode())
