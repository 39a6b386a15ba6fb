"""What can be wrong when a compiled engine is to be loaded, and what is then said about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
import shutil
import sys
from typing import TypeAlias

from fake_cuda import cudaError_t, Gpu
from fake_tensorrt import fake_module

from quant_llm_ros.engine.bundle import Bundle
from quant_llm_ros.engine.engine_cache import FOLDER, PLAN, RECORD
from quant_llm_ros.engine.tensorrt_build import Build, BuildOptions
from quant_llm_ros.errors import DeviceError, DeviceMemoryError, EngineError, EngineFileError

OPTIONS = BuildOptions(prompt_tokens=12, draft_tokens=5)
NO_MEMORY = cudaError_t.cudaErrorMemoryAllocation
LOST = cudaError_t.cudaErrorIllegalAddress
CPU = "without a GPU, serve a bundle of target ort"
"""The way that always works, which every message names."""

Fault: TypeAlias = Callable[[Gpu, Bundle], None]
"""Breaks something of a computer or of a bundle with its engine."""


def compiled(bundle: Bundle, folder: Path) -> Bundle:
    """Copy a bundle and compile it."""
    copy = Bundle.load(shutil.copytree(bundle.path, folder / "bundle"))
    build = Build(copy, OPTIONS)
    build.run(lambda *_: True)
    build.close()
    return copy


def another_sm(gpu: Gpu, bundle: Bundle) -> None:
    gpu.sm = 110


def another_tensorrt(gpu: Gpu, bundle: Bundle) -> None:
    sys.modules["tensorrt"] = fake_module(gpu, "10.16.2.0")


def another_model(gpu: Gpu, bundle: Bundle) -> None:
    record = next((bundle.path / FOLDER).glob(f"*/{RECORD}"))
    text = record.read_text()
    key = text.split("model_sha256: ")[1][:64]
    record.write_text(text.replace(key, "a" * 64))
    folder = record.parent
    folder.rename(folder.with_name(folder.name.replace(key[:12], "a" * 12)))


def damaged(gpu: Gpu, bundle: Bundle) -> None:
    plan = next((bundle.path / FOLDER).glob(f"*/{PLAN}"))
    content = bytearray(plan.read_bytes())
    content[-3] ^= 1
    plan.write_bytes(content)


def cut_short(gpu: Gpu, bundle: Bundle) -> None:
    plan = next((bundle.path / FOLDER).glob(f"*/{PLAN}"))
    plan.write_bytes(plan.read_bytes()[:20])


def plan_gone(gpu: Gpu, bundle: Bundle) -> None:
    next((bundle.path / FOLDER).glob(f"*/{PLAN}")).unlink()


def record_damaged(gpu: Gpu, bundle: Bundle) -> None:
    next((bundle.path / FOLDER).glob(f"*/{RECORD}")).write_text("key: [")


def no_engine(gpu: Gpu, bundle: Bundle) -> None:
    shutil.rmtree(bundle.path / FOLDER)


def no_gpu(gpu: Gpu, bundle: Bundle) -> None:
    gpu.devices = 0


def old_driver(gpu: Gpu, bundle: Bundle) -> None:
    gpu.driver = 12020


def no_driver(gpu: Gpu, bundle: Bundle) -> None:
    gpu.driver = 0


def no_cuda_python(gpu: Gpu, bundle: Bundle) -> None:
    sys.modules["cuda.bindings.runtime"] = None


def no_tensorrt(gpu: Gpu, bundle: Bundle) -> None:
    sys.modules["tensorrt"] = None


def little_memory(gpu: Gpu, bundle: Bundle) -> None:
    gpu.total = 20_000


def no_room_for_the_plan(gpu: Gpu, bundle: Bundle) -> None:
    gpu.fail("deserialize", NO_MEMORY)


def no_room_for_a_context(gpu: Gpu, bundle: Bundle) -> None:
    gpu.fail("context", NO_MEMORY)


def first_pass_fails(gpu: Gpu, bundle: Bundle) -> None:
    gpu.fail("execute", NO_MEMORY)


FAULTS: list[tuple[Fault, type[EngineError], str]] = [
    (another_sm, EngineFileError, "GPU SM87, here SM110.*quant_llm build-engine"),
    (another_tensorrt, EngineFileError, "TensorRT 10.16.1.11, here 10.16.2.0.*build-engine"),
    (another_model, EngineFileError, "model aaaaaaaaaaaa, here .*quant_llm build-engine"),
    (damaged, EngineFileError, "engine.plan is damaged.*quant_llm build-engine"),
    (cut_short, EngineFileError, "engine.plan is damaged.*quant_llm build-engine"),
    (plan_gone, EngineFileError, "engine.plan: No such file.*quant_llm build-engine"),
    (record_damaged, EngineFileError, "engine.yaml cannot be read.*quant_llm build-engine"),
    (no_engine, EngineFileError, "has no engine for this computer.*quant_llm build-engine"),
    (no_gpu, DeviceError, "this computer has no NVIDIA GPU"),
    (old_driver, DeviceError, "driver is for CUDA 12.2, too old .* 13.0.*update the driver"),
    (no_driver, DeviceError, "no NVIDIA driver; install it"),
    (no_cuda_python, DeviceError, "pip install cuda-python"),
    (no_tensorrt, DeviceError, "TensorRT cannot be imported.*JetPack"),
    (little_memory, DeviceMemoryError, "left for the .* MiB are free.*end other programs"),
    (no_room_for_the_plan, EngineFileError, "out of memory.*end other programs"),
    (no_room_for_a_context, DeviceError, "execution context: .*out of memory"),
    (first_pass_fails, EngineError, "could not start the pass: .*out of memory"),
]
"""Each fault, the error that follows, and what its message says."""
