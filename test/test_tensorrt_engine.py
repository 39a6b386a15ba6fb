"""The TensorRT engine on a pretended GPU: what it computes, and how it fails."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
from pathlib import Path
import shutil
import sys

from fake_cuda import cudaError_t, Gpu
from fake_tensorrt import fake_module, installed
import numpy as np
from numpy.typing import NDArray
import pytest
from target_graphs import INT4, WIDE
from tiny_models import build_tiny, make_folder

from quant_llm_ros.engine.bundle import Bundle
from quant_llm_ros.engine.engine_cache import FOLDER, PLAN, RECORD
from quant_llm_ros.engine.onnxruntime_engine import OnnxRuntimeEngine
from quant_llm_ros.engine.selftest import self_test
from quant_llm_ros.engine.tensorrt_build import Build, BuildOptions
from quant_llm_ros.engine.tensorrt_engine import TensorRtEngine
from quant_llm_ros.errors import (
    ContextOverflowError,
    DeviceError,
    DeviceMemoryError,
    EngineError,
    EngineFileError,
)
from quant_llm_ros.quantize.graph_run import HALF_LIMIT

CONTEXT = 64
OPTIONS = BuildOptions(prompt_tokens=12, draft_tokens=5)
NO_MEMORY = cudaError_t.cudaErrorMemoryAllocation
LOST = cudaError_t.cudaErrorIllegalAddress


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """One tiny model as a bundle of each target, without an engine."""
    folder = tmp_path_factory.mktemp("bundles")
    model = make_folder(folder / "model", **WIDE)
    return {
        target: build_tiny(
            folder, model, target, target=target, quantize=INT4, context_length=CONTEXT
        )
        for target in ("ort", "tensorrt", "tensorrt-jp6")
    }


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """A computer with TensorRT and a GPU, which has everything back at the end."""
    with installed(monkeypatch) as gpu:
        yield gpu


@pytest.fixture(params=["tensorrt", "tensorrt-jp6"])
def bundle(
    request: pytest.FixtureRequest, bundles: dict[str, Bundle], gpu: Gpu, tmp_path: Path
) -> Bundle:
    """A bundle of each target with its engine."""
    return compiled(bundles[request.param], tmp_path)


def compiled(bundle: Bundle, folder: Path) -> Bundle:
    """Copy a bundle and compile it."""
    copy = Bundle.load(shutil.copytree(bundle.path, folder / "bundle"))
    build = Build(copy, OPTIONS)
    build.run(lambda *_: True)
    build.close()
    return copy


def error(computed: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    assert computed.shape == expected.shape
    assert computed.dtype == np.float32
    return float(np.abs(computed - expected).max() / np.abs(expected).max())


# Tokens to append, or a length to roll back to; and which logits are wanted.
WALK: list[tuple[int, dict[str, object]]] = [
    (9, {}),  # a prompt
    (1, {}),  # a step, which is a graph
    (1, {}),
    (1, {"at": [0]}),
    (5, {"last": 5}),  # a draft
    (-15, {}),  # two tokens of it were wrong
    (1, {}),
    (4, {"at": [0, 2]}),
    (12, {"at": [0, 3, 11]}),
    (-9, {}),  # back to the prompt
    (30, {"at": [2, 28]}),  # longer than a pass
    (12, {"last": 12}),  # more logits than a pass gives
    (1, {}),
    (12, {}),  # now the context is full
    (-0, {}),
    (1, {}),
    (2, {"last": 2}),
]


def test_it_computes_what_the_cpu_does(
    bundle: Bundle, bundles: dict[str, Bundle], gpu: Gpu
) -> None:
    """Whatever is appended and taken back, the logits are those of ONNX Runtime in FP32."""
    cpu = OnnxRuntimeEngine.load(bundles["ort"], threads=1, exact=True)
    engine = TensorRtEngine.open(bundle)
    assert engine.context_length == cpu.context_length == CONTEXT
    random = np.random.default_rng(3)
    for i, (count, options) in enumerate(WALK):
        if count > 0:
            tokens = random.integers(0, engine.vocab_size, count).tolist()
            logits = [one.append(tokens, **options) for one in (engine, cpu)]
            assert error(*logits) < HALF_LIMIT, (i, count)
        else:
            for one in (engine, cpu):
                one.rollback(-count)
                one.mark()
        assert engine.length == cpu.length
    assert gpu.launches == 7 - 1  # every step of one token was a graph, but not the last piece
    engine.close()


def test_selftest_and_info(bundle: Bundle, gpu: Gpu) -> None:
    engine = TensorRtEngine.open(bundle)
    assert (engine.info.runtime, engine.info.provider) == ("TensorRT 10.16.1.11", "Orin (SM87)")
    report = self_test(engine, bundle)
    assert report.passed
    assert report.relative_error < HALF_LIMIT
    engine.close()


def test_close_gives_everything_back(bundle: Bundle, gpu: Gpu) -> None:
    engine = TensorRtEngine.open(bundle)
    logits = engine.append([1, 2, 3])
    before = logits.copy()
    assert gpu.held > 0
    engine.close()
    engine.close()
    assert gpu.held == 0
    assert (logits == before).all()  # what was returned stays
    for call in (lambda: engine.append([1]), lambda: engine.rollback(0), engine.mark):
        with pytest.raises(EngineError, match="closed; load the bundle again"):
            call()


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        ([], {}, "last is 1"),
        ([1], {"last": 2}, "last is 2"),
        ([1, 2], {"at": [1, 0]}, "ascending"),
        ([-1], {}, "vocabulary"),
        ([10**6], {}, "vocabulary"),
    ],
)
def test_wrong_requests(
    bundle: Bundle, tokens: list[int], options: dict[str, object], message: str
) -> None:
    engine = TensorRtEngine.open(bundle)
    with pytest.raises(ValueError, match=message):
        engine.append(tokens, **options)
    with pytest.raises(ValueError, match="cannot roll back to 1"):
        engine.rollback(1)
    engine.append([1] * CONTEXT)
    with pytest.raises(ContextOverflowError, match=r"64 \+ 1 tokens exceed the context of 64"):
        engine.append([1])
    assert engine.length == CONTEXT
    engine.close()


# --- Failures while it runs ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "status", "tokens"),
    [
        ("execute", NO_MEMORY, 4),
        ("work", LOST, 4),
        ("cudaMemcpyAsync", LOST, 4),
        ("cudaGraphLaunch", NO_MEMORY, 1),
        ("work", LOST, 1),
        ("work", LOST, 30),  # in the middle of several passes
    ],
)
def test_a_failed_pass_changes_nothing(
    bundle: Bundle, gpu: Gpu, what: str, status: cudaError_t, tokens: int
) -> None:
    engine = TensorRtEngine.open(bundle)
    engine.append([5, 6, 7])
    expected = engine.append([8, 9], last=2)
    engine.rollback(3)
    gpu.fail(what, status, after=4 if tokens > 12 else 0)
    with pytest.raises(EngineError, match=r"GPU failed on .* tokens.*the cache is unchanged"):
        engine.append([9] * tokens)
    assert engine.length == 3
    assert error(engine.append([8, 9], last=2), expected) < 1e-3
    engine.close()
    assert gpu.held == 0


def test_a_gpu_that_does_not_recover(bundle: Bundle, gpu: Gpu) -> None:
    """After such a failure nothing is computed any more, and closing still works."""
    engine = TensorRtEngine.open(bundle)
    engine.append([5, 6, 7])
    gpu.sticky = True
    gpu.fail("work", LOST, after=1)
    with pytest.raises(EngineError, match=r"cudaErrorIllegalAddress.*must be loaded again"):
        engine.append([8])
    for call in (lambda: engine.append([1]), lambda: engine.rollback(0)):
        with pytest.raises(EngineError, match="does not recover; load the bundle again"):
            call()
    engine.close()
    assert gpu.held == 0


def test_numbers_that_are_too_large(bundle: Bundle, gpu: Gpu) -> None:
    """Logits that are not finite are refused, and the rows that they left do no harm."""
    engine = TensorRtEngine.open(bundle)
    engine.append([5, 6, 7])
    expected = engine.append([8])
    engine.rollback(3)
    # A value that is not a number, in a row that no token sees any more.
    name, address = next(iter(engine._cache.addresses()))
    assert name == "past_key_0"
    heads, dim = bundle.model.key_value_heads, bundle.model.head_dim
    gpu.view(address, (heads, CONTEXT, dim), np.float16)[:, 5] = np.nan
    with pytest.raises(EngineError, match=r"not finite.*the cache is unchanged"):
        engine.append([8])
    assert error(engine.append([8]), expected) < 1e-3
    engine.close()


def test_without_graphs(bundle: Bundle, gpu: Gpu) -> None:
    """Where a pass cannot be recorded, it is given to the GPU anew every time."""
    gpu.fail("cudaStreamEndCapture", cudaError_t.cudaErrorStreamCaptureInvalidated, times=9)
    engine = TensorRtEngine.open(bundle)
    assert np.isfinite(engine.append([1])).all()
    assert gpu.launches == 0
    engine.close()
    assert gpu.held == 0


# --- Failures while it is loaded -----------------------------------------------------------------


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


BUILD = "quant_llm build-engine"
CPU = "without a GPU, serve a bundle of target ort"


@pytest.mark.parametrize(
    ("fault", "kind", "message", "remedy"),
    [
        (another_sm, EngineFileError, "GPU SM87, here SM110", BUILD),
        (another_tensorrt, EngineFileError, "TensorRT 10.16.1.11, here 10.16.2.0", BUILD),
        (another_model, EngineFileError, "model aaaaaaaaaaaa, here", BUILD),
        (damaged, EngineFileError, "engine.plan is damaged", BUILD),
        (cut_short, EngineFileError, "engine.plan is damaged", BUILD),
        (plan_gone, EngineFileError, "engine.plan: No such file", BUILD),
        (record_damaged, EngineFileError, "engine.yaml cannot be read", BUILD),
        (no_engine, EngineFileError, "has no engine for this computer", BUILD),
        (no_gpu, DeviceError, "this computer has no NVIDIA GPU", CPU),
        (old_driver, DeviceError, "driver is for CUDA 12.2, too old .* 13.0", CPU),
        (no_driver, DeviceError, "no NVIDIA driver", CPU),
        (no_cuda_python, DeviceError, "pip install cuda-python", CPU),
        (no_tensorrt, DeviceError, "TensorRT cannot be imported", CPU),
        (little_memory, DeviceMemoryError, "left for the .* MiB are free", CPU),
        (no_room_for_the_plan, EngineFileError, "out of memory.*end other programs", CPU),
        (no_room_for_a_context, DeviceError, "execution context: .*out of memory", ""),
        (first_pass_fails, EngineError, "could not start the pass: .*out of memory", ""),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_cannot_be_loaded(
    bundle: Bundle, gpu: Gpu, fault, kind: type[EngineError], message: str, remedy: str
) -> None:
    fault(gpu, bundle)
    with pytest.raises(kind, match=message) as raised:
        TensorRtEngine.open(bundle)
    assert remedy in str(raised.value)
    assert gpu.held == 0  # nothing is left on the GPU


def test_another_runtime(bundles: dict[str, Bundle], gpu: Gpu) -> None:
    with pytest.raises(EngineError, match="built for ort; TensorRT needs target tensorrt or"):
        TensorRtEngine.open(bundles["ort"])
    sys.modules["tensorrt"] = fake_module(gpu, "10.3.0")
    with pytest.raises(EngineError, match=r"10\.15 or newer, installed is 10\.3\.0; .*jp6\.yaml"):
        TensorRtEngine.open(bundles["tensorrt"])
    with pytest.raises(DeviceError, match="there is no TensorRT 'cudnn'"):
        TensorRtEngine.open(bundles["tensorrt"], runtime="cudnn")


def test_an_engine_of_something_else(bundle: Bundle, gpu: Gpu) -> None:
    """An engine whose tensors are not those of the bundle's model."""
    model = dataclasses.replace(bundle.model, layers=3)
    with pytest.raises(EngineFileError, match="other inputs or outputs"):
        TensorRtEngine.open(dataclasses.replace(bundle, model=model))
    assert gpu.held == 0
