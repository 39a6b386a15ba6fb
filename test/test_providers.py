"""Execution providers of ONNX Runtime: what is asked for, what runs, and no silent fall-back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
import subprocess
import sys
import types
from typing import Any

import onnxruntime
import pytest
from tiny_models import build_tiny, make_folder

from quant_llm_ros.engine.bundle import Bundle, MODEL
from quant_llm_ros.engine.onnxruntime_engine import OnnxRuntimeEngine
from quant_llm_ros.engine.open import open_engine
from quant_llm_ros.engine.providers import (
    check_in_use,
    RECORD_PLACEMENT,
    resolve,
    session_providers,
)
from quant_llm_ros.errors import EngineError

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundle")
    return build_tiny(folder, make_folder(folder / "model"))


def built_with(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let ONNX Runtime say that its wheel was built with these providers."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(names))


@pytest.mark.parametrize(
    ("provider", "built", "resolved"),
    [
        ("auto", (CPU,), "cpu"),
        ("auto", ("AzureExecutionProvider", CPU), "cpu"),
        ("auto", (TENSORRT, CUDA, CPU), "cuda"),
        ("cpu", (TENSORRT, CUDA, CPU), "cpu"),
        ("cuda", (TENSORRT, CUDA, CPU), "cuda"),
        ("tensorrt", (TENSORRT, CUDA, CPU), "tensorrt"),
    ],
)
def test_what_is_meant(
    monkeypatch: pytest.MonkeyPatch, provider: str, built: tuple[str, ...], resolved: str
) -> None:
    built_with(monkeypatch, *built)
    assert resolve(provider) == resolved


@pytest.mark.parametrize(
    ("provider", "message"),
    [
        ("gpu", r"provider is 'gpu'; expected one of auto, cpu, cuda, tensorrt"),
        ("CUDA", r"provider is 'CUDA'; expected one of"),
        ("cuda", rf"built without {CUDA}; replace it, .*pip install onnxruntime-gpu.* set "),
        ("tensorrt", rf"built without {TENSORRT}; .*docs/jetson.md.*provider to cpu"),
    ],
)
def test_wheels_that_lack_it(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundle, provider: str, message: str
) -> None:
    built_with(monkeypatch, CPU)
    with pytest.raises(EngineError, match=message):
        resolve(provider)
    with pytest.raises(EngineError, match=message):
        open_engine(bundle, provider=provider)


def test_what_a_session_tries(tmp_path: Path) -> None:
    cache = tmp_path / "engines" / "onnxruntime-tensorrt"
    assert session_providers("cpu", cache) == [(CPU, {})]
    assert [name for name, _ in session_providers("cuda", cache)] == [CUDA, CPU]
    assert not cache.exists()
    listed = session_providers("tensorrt", cache)
    assert [name for name, _ in listed] == [TENSORRT, CUDA, CPU]
    assert listed[0][1]["trt_engine_cache_path"] == str(cache)
    assert cache.is_dir()
    with pytest.raises(EngineError, match="cannot be made for TensorRT's engines"):
        (tmp_path / "file").write_text("")
        session_providers("tensorrt", tmp_path / "file" / "cache")


def session(providers: list[str], placed: dict[str, list[str]] | None) -> Any:
    """Stand in for a session on a GPU: which providers it has, and what it put where."""
    fake = types.SimpleNamespace(get_providers=lambda: providers)
    if placed is not None:
        fake.get_provider_graph_assignment_info = lambda: [
            types.SimpleNamespace(
                ep_name=name,
                get_nodes=lambda kinds=kinds: [types.SimpleNamespace(op_type=k) for k in kinds],
            )
            for name, kinds in placed.items()
        ]
    return fake


GOOD = {CUDA: ["MatMulNBits", "Attention"], CPU: ["Shape", "Gather"]}
PARTLY = {CUDA: ["MatMulNBits"], CPU: ["Attention", "Attention", "Shape"]}


@pytest.mark.parametrize(
    ("provider", "providers", "placed", "message"),
    [
        ("cpu", [CPU], None, None),
        ("cuda", [CUDA, CPU], GOOD, None),
        ("cuda", [CUDA, CPU], None, None),  # before ONNX Runtime 1.24 placement is not told
        ("tensorrt", [TENSORRT, CUDA, CPU], GOOD, None),
        ("cuda", [CPU], GOOD, rf"{CUDA} did not start, .* fell back to {CPU}.*allow_fallback"),
        ("tensorrt", [CUDA, CPU], GOOD, rf"{TENSORRT} did not start, .* fell back to {CUDA}"),
        ("cuda", [CUDA, CPU], PARTLY, r"runs 2 Attention on the CPU, .*allow_fallback"),
    ],
)
def test_what_really_runs(
    provider: str, providers: list[str], placed: dict[str, list[str]] | None, message: str | None
) -> None:
    used = session(providers, placed)
    assert check_in_use(used, provider, allow_fallback=True) == providers[0]
    if message is None:
        assert check_in_use(used, provider, allow_fallback=False) == providers[0]
        return
    with pytest.raises(EngineError, match=message):
        check_in_use(used, provider, allow_fallback=False)


def test_placement_is_read_from_a_real_session(bundle: Bundle) -> None:
    """Everything is on the CPU here, which for a GPU provider is what must be refused."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(RECORD_PLACEMENT, "1")
    real = onnxruntime.InferenceSession(
        str(bundle.file(MODEL)), options, providers=[CPU], enable_fallback=0
    )
    if not hasattr(real, "get_provider_graph_assignment_info"):
        assert check_in_use(real, "cpu", allow_fallback=False) == CPU
        return
    real_placement = types.SimpleNamespace(
        get_providers=lambda: [CUDA, CPU],
        get_provider_graph_assignment_info=real.get_provider_graph_assignment_info,
    )
    with pytest.raises(EngineError, match=r"runs \d+ MatMul, 2 Attention on the CPU"):
        check_in_use(real_placement, "cuda", allow_fallback=False)


def test_a_provider_that_does_not_start(bundle: Bundle) -> None:
    """With the GPU wheel on a machine without a GPU, ONNX Runtime itself says nothing."""
    if CUDA not in onnxruntime.get_available_providers():
        with pytest.raises(EngineError, match="was built without"):
            OnnxRuntimeEngine.load(bundle, provider="cuda")
        return
    try:
        engine = OnnxRuntimeEngine.load(bundle, provider="cuda")
    except EngineError as error:
        assert "did not start" in str(error)
        engine = OnnxRuntimeEngine.load(bundle, provider="cuda", allow_fallback=True)
        assert engine.info.provider == CPU
    else:
        assert engine.info.provider == CUDA
    assert engine.append([1, 2, 3]).shape == (1, bundle.model.vocab_size)
    engine.close()


@pytest.mark.parametrize(
    ("target", "provider", "message"),
    [
        ("tensorrt", "cpu", r"target tensorrt, which provider cpu cannot run; set provider to au"),
        ("tensorrt-jp6", "cuda", r"or serve a bundle of target ort"),
        ("openvino", "auto", r"target 'openvino'; this program runs ort, tensorrt, tensorrt-jp6"),
    ],
)
def test_bundles_for_other_runtimes(
    bundle: Bundle, target: str, provider: str, message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        open_engine(dataclasses.replace(bundle, target=target), provider=provider)


def test_a_robot_without_onnxruntime(bundle: Bundle) -> None:
    """One with TensorRT need not have it: nothing but serving a bundle of target ort asks for it.

    Neither need it have what makes bundles.
    """
    program = """
import sys
for name in ("onnxruntime", "onnx", "torch", "transformers"):
    sys.modules[name] = None
import quant_llm_ros.nodes.understanding_node
from quant_llm_ros.cli import main
sys.exit(main(["selftest", sys.argv[1]]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, bundle.path], capture_output=True, text=True, check=False
    )
    assert done.stderr.startswith("quant_llm: ONNX Runtime cannot be imported"), done.stderr
    assert "pip install onnxruntime" in done.stderr
    assert done.returncode == 1


def test_the_engine_of_a_bundle_runs(bundle: Bundle) -> None:
    engine = open_engine(bundle, provider="cpu", threads=1)
    assert engine.info.provider == CPU
    assert engine.append([1, 2, 3]).shape == (1, bundle.model.vocab_size)
    engine.close()
