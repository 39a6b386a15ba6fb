"""Makes every call of CUDA that the engine makes, where no GPU is visible.

The addresses and handles are plain numbers, which no driver must be given: run it with
``CUDA_VISIBLE_DEVICES`` empty, as ``test_tensorrt_api.py`` does.
"""

from __future__ import annotations

from typing import Any

from cuda.bindings import runtime


def main() -> None:
    """Check that the bindings take the arguments; without a GPU every call then says so."""
    assert runtime.cudaGetDeviceCount()[0] != runtime.cudaError_t.cudaSuccess, "a GPU is visible"
    to_device = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
    mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    address, stream = 4096, 7
    calls: dict[str, tuple[Any, ...]] = {
        "cudaDeviceGetAttribute": (runtime.cudaDeviceAttr.cudaDevAttrIntegrated, 0),
        "cudaFree": (address,),
        "cudaFreeHost": (address,),
        "cudaGetDeviceProperties": (0,),
        "cudaGraphInstantiate": (runtime.cudaGraph_t(), 0),
        "cudaGraphLaunch": (runtime.cudaGraphExec_t(), stream),
        "cudaHostAlloc": (256, runtime.cudaHostAllocDefault),
        "cudaMalloc": (256,),
        "cudaMemGetInfo": (),
        "cudaMemcpyAsync": (address, address, 8, to_device, stream),
        "cudaMemset2DAsync": (address, 8, 0, 4, 2, stream),
        "cudaMemsetAsync": (address, 0, 8, stream),
        "cudaStreamBeginCapture": (stream, mode),
        "cudaStreamCreateWithFlags": (runtime.cudaStreamNonBlocking,),
        "cudaStreamEndCapture": (stream,),
        "cudaStreamSynchronize": (stream,),
    }
    for name, arguments in calls.items():
        status = getattr(runtime, name)(*arguments)[0]
        assert status != runtime.cudaError_t.cudaSuccess, name
    assert int(runtime.cudaStream_t(stream)) == stream


if __name__ == "__main__":
    main()
