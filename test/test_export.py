"""The exported graph: standard, fused by ONNX Runtime, and computing what the decoder does."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
from tiny_models import build_tiny, GEMMA3, make_folder

from quant_llm_ros.engine.bundle import Bundle
from quant_llm_ros.engine.onnxruntime_engine import session_options

INT8: dict[str, Any] = {"method": "uniform", "bits": 8, "block": 32}
MIXED: dict[str, Any] = {
    "method": "uniform",
    "bits": 4,
    "block": 16,
    "range": "mse",
    "layers": {
        "*.down_proj.weight": {"bits": 8, "block": 32},
        "model.embed_tokens.weight": {"method": "none"},
        "model.layers.1.*": {"method": "none"},
    },
}


def fused_operators(path: Path, folder: Path) -> Counter[str]:
    """Count the operators that ONNX Runtime really runs."""
    options = session_options(1, exact=False)
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(folder / "optimized.onnx", load_external_data=False)
    return Counter(node.op_type for node in optimized.graph.node)


@pytest.mark.parametrize(
    ("architecture", "model", "recipe", "products"),
    [
        ("llama", {}, {}, 15),
        ("llama", {}, {"quantize": INT8}, 15),
        ("llama", {}, {"quantize": MIXED}, 8),
        ("llama", {}, {"quantize": {"method": "none"}}, 0),
        ("llama", {"vocab_size": 333}, {}, 15),
        ("llama", {"vocab_size": 333}, {"quantize": INT8}, 15),
        ("llama", {"tie_word_embeddings": False, "vocab_size": 333}, {}, 15),
        ("llama", {"tie_word_embeddings": False}, {"quantize": INT8}, 15),
        ("llama", {"tie_word_embeddings": False}, {"quantize": {"method": "none"}}, 0),
        ("qwen2", {}, {}, 15),
        ("qwen3", {"head_dim": 32}, {}, 15),
        ("gemma3", GEMMA3, {}, 15),
        ("gemma3", GEMMA3, {"quantize": {"method": "none"}}, 0),
    ],
)
def test_graph(
    tmp_path: Path,
    architecture: str,
    model: dict[str, Any],
    recipe: dict[str, Any],
    products: int,
) -> None:
    checkpoint = make_folder(tmp_path / "model", architecture, **model)
    # The build itself compares the engine with the decoder, and fails above 1e-4.
    bundle = build_tiny(tmp_path, checkpoint, **recipe)
    assert bundle.figures["export_relative_error"] < 2e-5
    path = bundle.file("model.onnx")
    onnx.checker.check_model(path, full_check=True)
    graph = onnx.load(path, load_external_data=False)
    assert {node.domain for node in graph.graph.node} == {""}
    assert [(opset.domain, opset.version) for opset in graph.opset_import] == [("", 23)]
    operators = fused_operators(path, tmp_path)
    assert operators["MatMulNBits"] == products
    assert operators["DequantizeLinear"] == 0
    assert operators["Attention"] == 2


@pytest.mark.parametrize(("bits", "bytes_per_token"), [(4, 64 // 2), (8, 64)])
def test_a_tied_embedding_adds_no_bytes(tmp_path: Path, bits: int, bytes_per_token: int) -> None:
    recipe = {"quantize": {"method": "uniform", "bits": bits, "block": 32}}
    sizes = {}
    for tied in (True, False):
        folder = make_folder(tmp_path / f"model_{tied}", tie_word_embeddings=tied)
        bundle = build_tiny(tmp_path, folder, f"bundle_{tied}", **recipe)
        sizes[tied] = bundle.files["model.onnx.data"].bytes
    scales = 64 // 32 * 4
    assert sizes[False] - sizes[True] == 320 * (bytes_per_token + scales)


@pytest.mark.bundle
def test_all_products_of_the_default_bundle_are_fused(bundle_path: Path, tmp_path: Path) -> None:
    bundle = Bundle.load(bundle_path, verify=False)
    operators = fused_operators(bundle.file("model.onnx"), tmp_path)
    assert operators["MatMulNBits"] == 7 * bundle.model.layers + 1
    assert operators["DequantizeLinear"] == operators["MatMul"] == 0
