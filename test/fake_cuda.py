"""A pretended GPU: what the engine calls of ``cuda.bindings.runtime``, on host memory.

It keeps the real rules and raises :class:`RuleBroken` where one is broken. Work that is given to
the stream is done when the stream is waited for, not before; memory comes full of NaN; what was
freed may not be touched; a graph repeats the very addresses that were recorded.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import enum
import types
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 256
POISON = 0xFF  # 0xFFFF is NaN in FP16, 0xFFFFFFFF in FP32


class RuleBroken(AssertionError):
    """Something was done that a real GPU forbids, or that has no defined result there."""


class cudaError_t(enum.IntEnum):  # noqa: D101
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorIllegalAddress = 700
    cudaErrorLaunchFailure = 719
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class cudaMemcpyKind(enum.IntEnum):  # noqa: D101
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaDeviceAttr(enum.IntEnum):  # noqa: D101
    cudaDevAttrIntegrated = 18
    cudaDevAttrComputeCapabilityMajor = 75
    cudaDevAttrComputeCapabilityMinor = 76


class cudaStreamCaptureMode(enum.IntEnum):  # noqa: D101
    cudaStreamCaptureModeThreadLocal = 1


OK = cudaError_t.cudaSuccess


@dataclasses.dataclass
class Block:
    """A piece of memory.

    Attributes:
        kind: ``device`` or ``pinned``.
        store: What holds it.
        start: Its address.
        size: Its bytes.
        freed: It was given back.
    """

    kind: str
    store: NDArray[np.uint8]
    start: int
    size: int
    freed: bool = False


@dataclasses.dataclass
class Fault:
    """A failure to come.

    Attributes:
        after: Calls that still succeed.
        status: What the failing call says.
        times: How often it fails.
    """

    after: int
    status: cudaError_t
    times: int = 1


class Gpu:
    """The state of the pretended GPU.

    Attributes:
        sm: Compute capability.
        devices: Number of GPUs.
        driver: CUDA version of the driver, 1000 times the first number; 0 without a driver.
        total: Its memory, bytes.
        faults: Failures to come, by function; ``work`` is what the stream does.
        broken: Status of every call after a failure from which a GPU does not recover.
        launches: Number of graphs that were launched.
    """

    def __init__(self) -> None:
        """Start one like that of a Jetson Orin."""
        self.sm, self.name, self.integrated = 87, "Orin", True
        self.devices, self.driver = 1, 13000
        self.total = 2**30
        self.faults: dict[str, Fault] = {}
        self.sticky = False
        self.broken = OK
        self.launches = 0
        self._blocks: list[Block] = []
        self._streams: set[int] = set()
        self._pending: list[Callable[[], None]] = []
        self._captured: list[Callable[[], None]] | None = None
        self._graphs: dict[int, list[Callable[[], None]]] = {}
        self._next = 1000

    # --- For tests ---

    @property
    def used(self) -> int:
        """Bytes of memory that were allocated and not freed."""
        return sum(block.size for block in self._blocks if not block.freed)

    @property
    def held(self) -> int:
        """Number of things that were not given back."""
        blocks = sum(not block.freed for block in self._blocks)
        return blocks + len(self._streams) + len(self._graphs)

    def fail(self, what: str, status: cudaError_t, *, after: int = 0, times: int = 1) -> None:
        """Let a function fail at its next call, or ``after`` so many."""
        self.faults[what] = Fault(after, status, times)

    # --- For the pretended TensorRT ---

    @property
    def capturing(self) -> bool:
        """What is given to the stream is recorded."""
        return self._captured is not None

    def enqueue(self, stream: Any, work: Callable[[], None]) -> None:
        """Give work to the stream."""
        if int(stream) not in self._streams:
            raise RuleBroken(f"there is no stream {stream}")
        (self._pending if self._captured is None else self._captured).append(work)

    def view(
        self, address: int, shape: tuple[int, ...], dtype: Any, kind: str = "device"
    ) -> NDArray[Any]:
        """The memory at an address, which must be alive and large enough."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        for block in self._blocks:
            if block.start <= address and address + size <= block.start + block.size:
                if block.freed:
                    raise RuleBroken(f"{kind} memory at {address:#x} is used after it was freed")
                if block.kind != kind:
                    raise RuleBroken(f"{block.kind} memory is used as {kind} memory")
                offset = address - block.start
                return block.store[offset : offset + size].view(dtype).reshape(shape)
        raise RuleBroken(f"{size} bytes at {address:#x} are not allocated")

    # --- Inside ---

    def status(self, what: str) -> cudaError_t:
        """Whether a call succeeds."""
        if self.broken:
            return self.broken
        fault = self.faults.get(what)
        if fault is None:
            return OK
        if fault.after:
            fault.after -= 1
            return OK
        fault.times -= 1
        if not fault.times:
            del self.faults[what]
        return fault.status

    def allocate(self, kind: str, size: int) -> int:
        """Allocate memory full of NaN, aligned as CUDA's is."""
        store = np.full(size + ALIGNMENT, POISON, dtype=np.uint8)
        skip = -store.ctypes.data % ALIGNMENT
        block = Block(kind, store[skip : skip + size], store.ctypes.data + skip, size)
        self._blocks.append(block)
        return block.start

    def free(self, kind: str, address: int) -> None:
        """Free memory, which waits for the stream as the real function does."""
        self.drain()
        for block in self._blocks:
            if block.start == address and block.kind == kind and not block.freed:
                block.freed = True
                block.store[:] = POISON
                return
        raise RuleBroken(f"{kind} memory at {address:#x} is freed, but it is not allocated")

    def drain(self) -> cudaError_t:
        """Do what the stream was given."""
        while self._pending:
            work = self._pending.pop(0)
            failed = self.status("work")
            if failed:
                self._pending.clear()
                if self.sticky:
                    self.broken = failed
                return failed
            work()
        return self.broken

    def handle(self) -> int:
        """Make a number for something new."""
        self._next += 1
        return self._next


class Runtime:
    """``cuda.bindings.runtime``: every function gives its status first."""

    cudaError_t = cudaError_t
    cudaMemcpyKind = cudaMemcpyKind
    cudaDeviceAttr = cudaDeviceAttr
    cudaStreamCaptureMode = cudaStreamCaptureMode
    cudaStreamNonBlocking = 1
    cudaHostAllocDefault = 0

    def __init__(self, gpu: Gpu) -> None:
        """Serve a GPU."""
        self._gpu = gpu

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        if self._gpu.driver < 13000:
            return cudaError_t.cudaErrorInsufficientDriver, None
        if not self._gpu.devices:
            return cudaError_t.cudaErrorNoDevice, None
        return OK, self._gpu.devices

    def cudaDriverGetVersion(self) -> tuple[Any, ...]:
        return OK, self._gpu.driver

    def cudaRuntimeGetVersion(self) -> tuple[Any, ...]:
        return OK, 13000

    def cudaGetErrorName(self, error: Any) -> tuple[Any, ...]:
        return OK, cudaError_t(error).name.encode()

    def cudaGetErrorString(self, error: Any) -> tuple[Any, ...]:
        return OK, b"words for " + cudaError_t(error).name.encode()

    def cudaGetLastError(self) -> tuple[Any, ...]:
        return (OK,)

    def cudaDeviceGetAttribute(self, attr: Any, device: int) -> tuple[Any, ...]:
        gpu = self._gpu
        values = {
            cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor: gpu.sm // 10,
            cudaDeviceAttr.cudaDevAttrComputeCapabilityMinor: gpu.sm % 10,
            cudaDeviceAttr.cudaDevAttrIntegrated: int(gpu.integrated),
        }
        return OK, values[attr]

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        return OK, types.SimpleNamespace(name=self._gpu.name.encode())

    def cudaMemGetInfo(self) -> tuple[Any, ...]:
        return (
            self._gpu.status("cudaMemGetInfo"),
            self._gpu.total - self._gpu.used,
            self._gpu.total,
        )

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        return self._allocate("cudaMalloc", "device", size)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, ...]:
        return self._allocate("cudaHostAlloc", "pinned", size)

    def _allocate(self, function: str, kind: str, size: int) -> tuple[Any, ...]:
        gpu = self._gpu
        failed = gpu.status(function)
        if not failed and gpu.used + size > gpu.total:
            failed = cudaError_t.cudaErrorMemoryAllocation
        return (failed, None) if failed else (OK, gpu.allocate(kind, size))

    def cudaFree(self, devPtr: int) -> tuple[Any, ...]:
        self._gpu.free("device", int(devPtr))
        return (self._gpu.broken,)

    def cudaFreeHost(self, ptr: int) -> tuple[Any, ...]:
        self._gpu.free("pinned", int(ptr))
        return (self._gpu.broken,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        stream = self._gpu.handle()
        self._gpu._streams.add(stream)
        return OK, stream

    def cudaStreamDestroy(self, stream: Any) -> tuple[Any, ...]:
        self._gpu.drain()
        self._gpu._streams.remove(int(stream))
        return (self._gpu.broken,)

    def cudaStreamSynchronize(self, stream: Any) -> tuple[Any, ...]:
        if int(stream) not in self._gpu._streams:
            raise RuleBroken(f"there is no stream {stream}")
        if self._gpu.capturing:
            return (cudaError_t.cudaErrorStreamCaptureUnsupported,)
        return (self._gpu.drain(),)

    def cudaMemcpyAsync(
        self, dst: int, src: int, count: int, kind: Any, stream: Any
    ) -> tuple[Any, ...]:
        gpu = self._gpu
        failed = gpu.status("cudaMemcpyAsync")
        if failed:
            return (failed,)
        to_device = kind == cudaMemcpyKind.cudaMemcpyHostToDevice
        kinds = ("device", "pinned") if to_device else ("pinned", "device")

        def work() -> None:
            to = gpu.view(dst, (count,), np.uint8, kinds[0])
            to[:] = gpu.view(src, (count,), np.uint8, kinds[1])

        gpu.enqueue(stream, work)
        return (OK,)

    def cudaMemsetAsync(self, devPtr: int, value: int, count: int, stream: Any) -> tuple[Any, ...]:
        return self.cudaMemset2DAsync(devPtr, count, value, count, 1, stream)

    def cudaMemset2DAsync(
        self, devPtr: int, pitch: int, value: int, width: int, height: int, stream: Any
    ) -> tuple[Any, ...]:
        gpu = self._gpu
        if gpu.broken:
            return (gpu.broken,)
        if width > pitch:
            return (cudaError_t.cudaErrorInvalidValue,)

        def work() -> None:
            for row in range(height):
                gpu.view(devPtr + row * pitch, (width,), np.uint8)[:] = value

        gpu.enqueue(stream, work)
        return (OK,)

    def cudaStreamBeginCapture(self, stream: Any, mode: Any) -> tuple[Any, ...]:
        gpu = self._gpu
        failed = gpu.status("cudaStreamBeginCapture")
        if not failed:
            gpu._captured = []
        return (failed,)

    def cudaStreamEndCapture(self, stream: Any) -> tuple[Any, ...]:
        gpu = self._gpu
        recorded, gpu._captured = gpu._captured, None
        failed = gpu.status("cudaStreamEndCapture")
        if failed or recorded is None:
            return failed or cudaError_t.cudaErrorStreamCaptureInvalidated, None
        graph = gpu.handle()
        gpu._graphs[graph] = recorded
        return OK, graph

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[Any, ...]:
        gpu = self._gpu
        failed = gpu.status("cudaGraphInstantiate")
        if failed:
            return failed, None
        executable = gpu.handle()
        gpu._graphs[executable] = list(gpu._graphs[int(graph)])
        return OK, executable

    def cudaGraphDestroy(self, graph: Any) -> tuple[Any, ...]:
        del self._gpu._graphs[int(graph)]
        return (OK,)

    def cudaGraphExecDestroy(self, graphExec: Any) -> tuple[Any, ...]:
        del self._gpu._graphs[int(graphExec)]
        return (OK,)

    def cudaGraphLaunch(self, graphExec: Any, stream: Any) -> tuple[Any, ...]:
        gpu = self._gpu
        failed = gpu.status("cudaGraphLaunch")
        if not failed:
            gpu.launches += 1
            for work in gpu._graphs[int(graphExec)]:
                gpu.enqueue(stream, work)
        return (failed,)
