"""What an engine needs of the CUDA runtime, through NVIDIA's cuda-python.

Everything that is taken from the GPU is kept in one place and given back in the reverse order.
"""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import ctypes
import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant_llm_ros.errors import DeviceError, DeviceMemoryError

ALIGNMENT = 256
"""TensorRT wants the addresses of its tensors to be multiples of this, in bytes."""
CPU_PATH = (
    "without a GPU, serve a bundle of target ort: "
    "quant_llm quantize --recipe config/recipes/default.yaml"
)
_MODULE = "cuda.bindings.runtime"
_MEBIBYTE = 2**20


def aligned(size: int) -> int:
    """Round a size in bytes up to what keeps the next address aligned."""
    return -(-size // ALIGNMENT) * ALIGNMENT


class Cuda:
    """One GPU, one stream, and all that was allocated there.

    Attributes:
        name: Name of the GPU.
        sm: Its compute capability as a number: 87 for 8.7.
        integrated: CPU and GPU share one memory, as on a Jetson.
        stream: Handle of the stream on which all work is done in order.
    """

    def __init__(self, runtime: Any) -> None:
        """Take the GPU; use :meth:`open`."""
        self._runtime = runtime
        self._held = contextlib.ExitStack()
        attribute = runtime.cudaDeviceAttr
        major, minor, integrated = (
            self.call("cudaDeviceGetAttribute", which, 0)
            for which in (
                attribute.cudaDevAttrComputeCapabilityMajor,
                attribute.cudaDevAttrComputeCapabilityMinor,
                attribute.cudaDevAttrIntegrated,
            )
        )
        self.sm = 10 * int(major) + int(minor)
        self.integrated = bool(integrated)
        name = self.call("cudaGetDeviceProperties", 0).name
        self.name = name.decode() if isinstance(name, bytes) else str(name)
        stream = self.call("cudaStreamCreateWithFlags", runtime.cudaStreamNonBlocking)
        self.stream = int(stream)
        self.keep("cudaStreamDestroy", stream)

    @classmethod
    def open(cls) -> Cuda:
        """Take the first GPU; where there are several, CUDA_VISIBLE_DEVICES says which that is.

        Raises:
            DeviceError: cuda-python is not installed, there is no GPU, or its driver is missing
                or too old.
        """
        try:
            runtime = importlib.import_module(_MODULE)
        except ImportError as error:
            raise DeviceError(
                f"{_MODULE} cannot be imported ({error}); run `pip install cuda-python` with the "
                f"first number of the CUDA version that the driver has; {CPU_PATH}"
            ) from error
        status, count = runtime.cudaGetDeviceCount()
        if status == runtime.cudaError_t.cudaErrorInsufficientDriver:
            raise DeviceError(_driver_too_old(runtime))
        if status == runtime.cudaError_t.cudaErrorNoDevice or count == 0:
            raise DeviceError(f"this computer has no NVIDIA GPU; {CPU_PATH}")
        if status != runtime.cudaError_t.cudaSuccess:
            raise DeviceError(f"CUDA cannot start: {_said(runtime, status)}; {CPU_PATH}")
        return cls(runtime)

    def call(self, function: str, *arguments: Any) -> Any:
        """Call a function of the CUDA runtime.

        Returns:
            What it gives besides its status: nothing, one value, or a tuple.

        Raises:
            DeviceMemoryError: There is not enough memory.
            DeviceError: It failed otherwise.
        """
        status, *values = getattr(self._runtime, function)(*arguments)
        if status != self._runtime.cudaError_t.cudaSuccess:
            message = f"{function} failed: {_said(self._runtime, status)}"
            if status == self._runtime.cudaError_t.cudaErrorMemoryAllocation:
                raise DeviceMemoryError(message)
            raise DeviceError(message)
        if not values:
            return None
        return values[0] if len(values) == 1 else tuple(values)

    def memory(self) -> tuple[int, int]:
        """Free and total memory of the GPU, bytes."""
        free, total = self.call("cudaMemGetInfo")
        return int(free), int(total)

    def allocate(self, size: int, purpose: str) -> int:
        """Allocate cleared memory on the GPU, freed by :meth:`close`.

        Args:
            size: Bytes.
            purpose: What it is for, in words for a person.

        Returns:
            Its address.

        Raises:
            DeviceMemoryError: There is not so much.
        """
        address = self._take("cudaMalloc", (size,), purpose, "cudaFree")
        # Not a number, left behind by another program, would spoil every sum that it gets into.
        self.call("cudaMemsetAsync", address, 0, size, self.stream)
        return address

    def pinned(self, size: int, purpose: str) -> NDArray[np.uint8]:
        """Allocate host memory that the GPU copies from and to by itself, freed by :meth:`close`.

        Args:
            size: Bytes.
            purpose: What it is for, in words for a person.

        Returns:
            The memory; not to be touched after :meth:`close`.

        Raises:
            DeviceMemoryError: There is not so much.
        """
        arguments = (size, self._runtime.cudaHostAllocDefault)
        address = self._take("cudaHostAlloc", arguments, purpose, "cudaFreeHost")
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def copy(self, to: int, source: int, size: int, *, to_device: bool) -> None:
        """Let the stream copy between pinned host memory and the GPU."""
        kinds = self._runtime.cudaMemcpyKind
        kind = kinds.cudaMemcpyHostToDevice if to_device else kinds.cudaMemcpyDeviceToHost
        self.call("cudaMemcpyAsync", to, source, size, kind, self.stream)

    def synchronize(self) -> None:
        """Wait until the stream has done everything.

        Raises:
            DeviceError: Something of it failed.
        """
        self.call("cudaStreamSynchronize", self.stream)

    def capture(self, work: Callable[[], None]) -> Any:
        """Record what some code gives to the stream, in place of doing it.

        Returns:
            A graph that :meth:`launch` takes, destroyed by :meth:`close`.

        Raises:
            DeviceError: Some of the work cannot be recorded; the stream is as before.
        """
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.call("cudaStreamBeginCapture", self.stream, mode)
        try:
            work()
        except DeviceError:
            with contextlib.suppress(DeviceError):
                self.call("cudaStreamEndCapture", self.stream)
            self._runtime.cudaGetLastError()  # forgets the error
            raise
        graph = self.call("cudaStreamEndCapture", self.stream)
        try:
            executable = self.call("cudaGraphInstantiate", graph, 0)
        finally:
            self.call("cudaGraphDestroy", graph)
        self.keep("cudaGraphExecDestroy", executable)
        return executable

    def launch(self, graph: Any) -> None:
        """Let the stream do what was recorded."""
        self.call("cudaGraphLaunch", graph, self.stream)

    def keep(self, function: str, handle: Any) -> None:
        """Have :meth:`close` call a function that gives a handle back."""
        # After a failure of the GPU these fail too, and everything must be tried all the same.
        self._held.callback(lambda: getattr(self._runtime, function)(handle))

    def close(self) -> None:
        """Wait for the stream and give everything back; may be repeated."""
        if self.stream:
            self._runtime.cudaStreamSynchronize(self.stream)
            self.stream = 0
        self._held.close()

    def _take(
        self, function: str, arguments: tuple[Any, ...], purpose: str, give_back: str
    ) -> int:
        """Allocate memory, and have it freed by :meth:`close`."""
        try:
            address = int(self.call(function, *arguments))
        except DeviceMemoryError as error:
            raise DeviceMemoryError(
                f"there are no {arguments[0] / _MEBIBYTE:.1f} MiB left for {purpose} (of the GPU "
                f"{self._free()}); end other programs, rebuild the bundle with a smaller "
                f"context_length, or, {CPU_PATH}"
            ) from error
        self.keep(give_back, address)
        return address

    def _free(self) -> str:
        try:
            free, total = self.memory()
        except DeviceError:
            return "how much is free is unknown"
        return f"{free / _MEBIBYTE:.0f} of {total / _MEBIBYTE:.0f} MiB are free"


def _said(runtime: Any, status: Any) -> str:
    """Name and meaning of a status."""
    words = []
    for function in (runtime.cudaGetErrorName, runtime.cudaGetErrorString):
        _, text = function(status)
        words.append(text.decode() if isinstance(text, bytes) else str(text))
    return f"{words[0]} ({words[1]})"


def _driver_too_old(runtime: Any) -> str:
    """Say which driver there is, and which one is needed."""

    def readable(version: int) -> str:
        return f"{version // 1000}.{version % 1000 // 10}"

    _, driver = runtime.cudaDriverGetVersion()
    _, needed = runtime.cudaRuntimeGetVersion()
    if not driver:
        return f"this computer has no NVIDIA driver; install it, or, {CPU_PATH}"
    return (
        f"the NVIDIA driver is for CUDA {readable(driver)}, too old for cuda-python, which needs "
        f"{readable(needed)}; update the driver (on a Jetson: JetPack), or run `pip install "
        f"'cuda-python=={driver // 1000}.*'`; {CPU_PATH}"
    )
