"""The TensorRT engine on a pretended GPU: what it computes, and how it fails."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
from pathlib import Path
import sys

from fake_cuda import cudaError_t, Gpu
from fake_tensorrt import fake_module, installed
import numpy as np
from numpy.typing import NDArray
import pytest
from target_graphs import INT4, WIDE
from tensorrt_faults import compiled, CPU, Fault, FAULTS, LOST, NO_MEMORY
from tiny_models import build_tiny, make_folder

from quant_llm_ros.engine.bundle import Bundle
from quant_llm_ros.engine.onnxruntime_engine import OnnxRuntimeEngine
from quant_llm_ros.engine.selftest import self_test
from quant_llm_ros.engine.tensorrt_engine import TensorRtEngine
from quant_llm_ros.errors import (
    ContextOverflowError,
    DeviceError,
    EngineError,
    EngineFileError,
)
from quant_llm_ros.quantize.graph_run import HALF_LIMIT

CONTEXT = 64


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


@pytest.mark.parametrize(
    ("fault", "kind", "message"), FAULTS, ids=lambda value: getattr(value, "__name__", None)
)
def test_what_cannot_be_loaded(
    bundle: Bundle, gpu: Gpu, fault: Fault, kind: type[EngineError], message: str
) -> None:
    fault(gpu, bundle)
    with pytest.raises(kind, match=message) as raised:
        TensorRtEngine.open(bundle)
    assert CPU in str(raised.value)
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
