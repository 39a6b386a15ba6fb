"""What the halves of the pretended TensorRT share: its enumerations, loggers and buffers."""

from __future__ import annotations

import enum
import functools
from typing import Any

import onnxruntime

MAGIC = b"FAKEPLAN"


@functools.cache
def session(path: str) -> onnxruntime.InferenceSession:
    """Open a graph, once, with ONNX Runtime on the CPU."""
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


class DataType(enum.IntEnum):  # noqa: D101
    FLOAT = 0
    HALF = 1
    INT32 = 3


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
