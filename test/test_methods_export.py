"""The exporter: any method becomes a graph that computes what the codes stand for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml

from quant_llm_ros.errors import RecipeError
from quant_llm_ros.quantize.adapter import Adapter
from quant_llm_ros.quantize.build import ROUNDED_INPUTS_LIMIT
from quant_llm_ros.quantize.calibration import HiddenStates, Passages
from quant_llm_ros.quantize.decoder import Decoder, DecoderConfig
from quant_llm_ros.quantize.graph_lint import lint
from quant_llm_ros.quantize.graph_run import FixedCacheRunner, HALF_LIMIT
from quant_llm_ros.quantize.graph_targets import export
from quant_llm_ros.quantize.layerwise import QuantizingSource
from quant_llm_ros.quantize.recipe import Recipe
from quant_llm_ros.quantize.reference import decoder_logits, relative_error

CONFIG = DecoderConfig(
    architecture="llama",
    layers=2,
    hidden_size=64,
    intermediate_size=128,
    attention_heads=4,
    key_value_heads=2,
    head_dim=16,
    vocab_size=100,
    context_length=64,
    rope_theta=10000.0,
    norm_epsilon=1e-5,
    tied_embedding=True,
)
TOKENS = torch.randint(0, 100, (40,), generator=torch.Generator().manual_seed(5)).tolist()
PASSAGES = [
    Passages(TOKENS[:10], [TOKENS[10:20], TOKENS[20:25]]),
    Passages((), [TOKENS[::-1]]),
]


def random_decoder(**changes: Any) -> Decoder:
    config = dataclasses.replace(CONFIG, **changes)
    decoder = Decoder(config)
    generator = torch.Generator().manual_seed(1)
    for name in decoder.parameter_names():
        shape = decoder.get_parameter(name).shape
        weight = torch.randn(shape, generator=generator) * 0.2
        decoder.set_weight(name, weight + 1 if len(shape) == 1 else weight)
    return decoder.eval()


def recipe(folder: Path, quantize: dict[str, Any], **more: Any) -> Recipe:
    settings = {
        "name": "t",
        "checkpoint": {"path": "none.gguf"},
        "quantize": quantize,
        "context_length": 64,
        **more,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return Recipe.load(path)


def export_tiny(
    folder: Path, quantize: dict[str, Any], target: str = "ort", **changes: Any
) -> tuple[Path, Decoder, QuantizingSource, int]:
    """Quantize and export; give the graph, the decoder with its weights, source, no kernels."""
    decoder = random_decoder(**changes)
    chosen = recipe(folder, quantize)
    passages = PASSAGES if chosen.needs_calibration else ()
    source = QuantizingSource(decoder, chosen, passages)
    path = folder / "model.onnx"
    left = export(
        decoder.config,
        source,
        path,
        context_length=64,
        progress=lambda part: None,
        target=target,
    )
    return path, decoder, source, left


def run(path: Path, decoder: Decoder, tokens: list[int]) -> tuple[torch.Tensor, Counter[str]]:
    """Run a graph of target ort; give all logits and the operators that really ran."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path.with_name("optimized.onnx"))
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    empty = np.zeros((1, decoder.config.key_value_heads, 0, decoder.config.head_dim), np.float32)
    feeds = {i.name: empty for i in session.get_inputs() if i.name.startswith("past")}
    feeds |= {"input_ids": np.array([tokens]), "logit_positions": np.arange(len(tokens))}
    logits = torch.from_numpy(session.run(["logits"], feeds)[0])
    optimized = onnx.load(options.optimized_model_filepath, load_external_data=False)
    return logits, Counter(node.op_type for node in optimized.graph.node)


# Settings, operator that multiplies with the codes and how often, largest bytes of the weight file
# per weight, and the error that is allowed.
EXACT = 2e-5
PER_LAYER = 7
ORT: dict[str, tuple[dict[str, Any], str, int, float, float]] = {
    "int2": ({"method": "uniform", "bits": 2, "block": 32}, "MatMulNBits", 15, 0.9, EXACT),
    "int3": ({"method": "uniform", "bits": 3, "block": "channel"}, "MatMulNBits", 15, 0.9, EXACT),
    "asymmetric": (
        {"method": "uniform", "bits": 4, "block": 32, "symmetric": False},
        "MatMulNBits",
        15,
        1.1,
        EXACT,
    ),
    "tensor": ({"method": "uniform", "bits": 8, "block": "tensor"}, "MatMulNBits", 15, 1.3, EXACT),
    "fixed": ({"method": "fixed_point", "bits": 8, "block": 32}, "MatMulNBits", 15, 1.3, EXACT),
    "fp16": ({"method": "floating", "type": "fp16"}, "MatMul", 15, 2.8, EXACT),
    "bf16": ({"method": "floating", "type": "bf16"}, "MatMul", 15, 2.8, EXACT),
    "fp8": ({"method": "floating", "type": "fp8_e4m3"}, "MatMul", 15, 1.3, EXACT),
    "fp8 blocks": (
        {"method": "floating", "type": "fp8_e5m2", "block": 32},
        "MatMul",
        15,
        1.4,
        EXACT,
    ),
    "nvfp4": ({"method": "floating", "type": "nvfp4"}, "MatMul", 15, 1.1, EXACT),
    "binary": ({"method": "binary", "planes": 2, "block": 32}, "MatMul", 15, 0.8, EXACT),
    "cluster": ({"method": "cluster", "bits": 3}, "MatMul", 15, 0.7, EXACT),
    "cluster rows": ({"method": "cluster", "bits": 2, "rows": 4}, "MatMul", 15, 1.0, EXACT),
    "gptq": ({"method": "gptq", "bits": 4, "block": 32}, "MatMulNBits", 15, 0.9, EXACT),
    "awq": ({"method": "awq", "bits": 4, "block": 32}, "MatMulNBits", 15, 0.9, EXACT),
    # Where inputs are rounded too, a sum in another order may end on another code.
    "smoothquant": (
        {"method": "smoothquant", "activations": {"method": "static"}},
        "MatMulInteger",
        14,
        1.3,
        0.05,
    ),
    "dynamic int8": (
        {
            "method": "uniform",
            "bits": 8,
            "block": "channel",
            "activations": {"method": "dynamic"},
        },
        "MatMulInteger",
        14,
        1.3,
        0.05,
    ),
    "dynamic int4": (
        {"method": "uniform", "bits": 4, "block": 32, "activations": {"method": "dynamic"}},
        "MatMulNBits",
        15,
        0.9,
        0.05,
    ),
    "static 6 bits": (
        {
            "method": "uniform",
            "bits": 4,
            "block": 32,
            "activations": {"method": "static", "bits": 6, "percentile": 95},
        },
        "MatMulNBits",
        15,
        0.9,
        0.05,
    ),
}


@pytest.mark.parametrize("name", ORT)
def test_ort(tmp_path: Path, name: str) -> None:
    quantize, operator, times, most_bytes, limit = ORT[name]
    path, decoder, source, left = export_tiny(tmp_path, quantize)
    assert lint(path, "ort") == []
    logits, operators = run(path, decoder, TOKENS)
    assert relative_error(logits, decoder_logits(decoder, TOKENS)) < limit
    # Runtimes may fuse an integer product with what scales it.
    found = operators[operator] + operators["MatMulIntegerToFloat"] * (operator[6:] == "Integer")
    assert found == times, operators
    assert left == (15 if operator == "MatMul" else 0)
    if operator == "MatMul":  # what is packed was unpacked when the model was loaded
        assert operators["BitShift"] == operators["Cast"] == operators["DequantizeLinear"] == 0
    # Packed: no wider than the codes, but for scales, norms and the rotary table.
    weights = path.with_name("model.onnx.data").stat().st_size - 64 * 16 * 4
    assert weights / source.parameters < most_bytes


STATIC = {"method": "static"}
TENSORRT: dict[str, tuple[dict[str, Any], str, int]] = {
    "fp8": ({"method": "floating", "type": "fp8_e4m3"}, "FLOAT8E4M3FN", 0),
    "cluster": ({"method": "cluster", "bits": 3}, "FLOAT16", 15),
    "int2": ({"method": "uniform", "bits": 2, "block": 64}, "INT4", 0),
    "gptq": ({"method": "gptq", "bits": 4, "block": 64}, "INT4", 0),
    "asymmetric": ({"method": "uniform", "bits": 4, "symmetric": False}, "FLOAT16", 15),
    "smoothquant inputs": ({"method": "smoothquant", "activations": STATIC}, "INT8", 0),
    "fp8 inputs": (
        {
            "method": "floating",
            "type": "fp8_e4m3",
            "activations": {"method": "static", "type": "fp8"},
        },
        "FLOAT8E4M3FN",
        0,
    ),
}


@pytest.mark.parametrize("name", TENSORRT)
def test_tensorrt(tmp_path: Path, name: str) -> None:
    quantize, kind, without_kernel = TENSORRT[name]
    path, decoder, _, left = export_tiny(tmp_path, quantize, "tensorrt")
    assert lint(path, "tensorrt") == []
    assert left == without_kernel
    graph = onnx.load(path, load_external_data=False).graph
    types = {i.name: onnx.TensorProto.DataType.Name(i.data_type) for i in graph.initializer}
    assert types["model.layers.0.mlp.down_proj.weight"] == kind
    logits = torch.from_numpy(FixedCacheRunner(path).append(TOKENS, last=len(TOKENS)))
    limit = ROUNDED_INPUTS_LIMIT if "inputs" in name else HALF_LIMIT
    assert relative_error(logits, decoder_logits(decoder, TOKENS)) < limit


def test_nvfp4_for_tensorrt(tmp_path: Path) -> None:
    """ONNX Runtime cannot run it: the stored numbers are checked with onnx's own reader."""
    path, decoder, _, left = export_tiny(
        tmp_path, {"method": "floating", "type": "nvfp4"}, "tensorrt"
    )
    assert left == 0
    assert lint(path, "tensorrt") == []
    onnx.checker.check_model(path, full_check=True)
    graph = onnx.load(path).graph
    arrays = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    name = "model.layers.1.mlp.up_proj.weight"
    codes, scales = arrays[name].astype(np.float32), arrays[f"{name}.scales"].astype(np.float32)
    (node,) = (n for n in graph.node if f"{name}.scales" in n.input)
    unit = float(arrays[node.input[1]])
    values = codes * np.repeat(scales * unit, 16, axis=0)
    expected = decoder.get_parameter(name).T.numpy()
    np.testing.assert_allclose(values, expected, atol=2e-3 * np.abs(expected).max())


def test_jetpack6_gets_int4_and_fp16(tmp_path: Path) -> None:
    settings = {
        "method": "gptq",
        "bits": 3,
        "block": 64,
        "layers": {"*.v_proj.weight": {"bits": 8}},
    }
    path, decoder, _, left = export_tiny(tmp_path, settings, "tensorrt-jp6")
    assert (lint(path, "tensorrt-jp6"), left) == ([], 2)
    logits = torch.from_numpy(FixedCacheRunner(path).append(TOKENS, last=len(TOKENS)))
    assert relative_error(logits, decoder_logits(decoder, TOKENS)) < HALF_LIMIT


@pytest.mark.parametrize("method", ["awq", "smoothquant"])
def test_factors_do_not_change_the_model(tmp_path: Path, method: str) -> None:
    """At 8 bits little is left of the rounding; wrong factors would change everything."""
    settings = {"method": method, "bits": 8}
    expected = decoder_logits(random_decoder(attention_bias=True), TOKENS)
    _, decoder, _, _ = export_tiny(tmp_path, settings, attention_bias=True)
    assert relative_error(decoder_logits(decoder, TOKENS), expected) < 0.05


def test_calibrated_methods_keep_more_of_the_model(tmp_path: Path) -> None:
    """On the text that they were calibrated with, which is what can be told of a random model."""
    expected = decoder_logits(random_decoder(), PASSAGES[1].texts[0])

    def change(method: str) -> float:
        settings = {"method": method, "bits": 3, "block": 64}
        settings["layers"] = {"model.embed_tokens.weight": {"method": "none"}}
        _, decoder, _, _ = export_tiny(tmp_path, settings)
        logits = decoder_logits(decoder, PASSAGES[1].texts[0])
        return float((logits - expected).square().mean())

    plain = change("uniform")
    assert change("gptq") < 0.8 * plain
    assert change("awq") < plain


def test_a_correction_stays_beside_the_quantized_weight(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(9)
    name = "model.layers.0.mlp.up_proj.weight"
    down, up = (torch.randn(shape, generator=generator) for shape in ((4, 64), (128, 4)))
    decoder = random_decoder()
    chosen = recipe(tmp_path, {"method": "uniform", "bits": 4, "block": 32})
    quantizer = chosen.quantizer(name)
    assert quantizer is not None
    plain = quantizer(decoder.get_parameter(name).data).dequantize()
    source = QuantizingSource(decoder, chosen, (), Adapter({name: (down, up)}, 0.1, ""))
    path = tmp_path / "model.onnx"
    export(CONFIG, source, path, context_length=64, progress=lambda part: None)
    torch.testing.assert_close(decoder.get_parameter(name).data, plain + 0.1 * up @ down)
    logits, operators = run(path, decoder, TOKENS)
    assert relative_error(logits, decoder_logits(decoder, TOKENS)) < EXACT
    assert (operators["MatMulNBits"], operators["MatMul"]) == (15, 2)


def test_statistics_are_those_of_a_whole_pass() -> None:
    """Layer by layer, with a shared beginning, is the same as the decoder's own pass."""
    decoder = random_decoder()
    seen: list[torch.Tensor] = []
    module = decoder.get_submodule("model.layers.1.mlp.down_proj")
    handle = module.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    prefix, (first, second) = list(PASSAGES[0].prefix), PASSAGES[0].texts
    decoder_logits(decoder, [*prefix, *first])
    decoder_logits(decoder, [*prefix, *second])
    handle.remove()
    x = torch.cat((seen[0], seen[1][len(prefix) :]))
    states = HiddenStates(decoder, PASSAGES[:1])
    states.advance(0)
    found = states.observe(1)["down_proj"]
    torch.testing.assert_close(found.hessian, x.T @ x / len(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.largest, x.abs().amax(0))
    assert len(found.token_largest) == len(x)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda decoder: decoder.mul_(float("nan")), r"q_proj.weight: the weight has values"),
        (None, "there is no calibration text"),
    ],
)
def test_what_cannot_be_quantized(
    tmp_path: Path, spoil: Callable[[torch.Tensor], Any] | None, message: str
) -> None:
    decoder = random_decoder()
    if spoil:
        spoil(decoder.get_parameter("model.layers.1.self_attn.q_proj.weight").data)
    chosen = recipe(tmp_path, {"method": "gptq", "bits": 4, "block": 32})
    source = QuantizingSource(decoder, chosen, PASSAGES if spoil else [Passages((), ())])
    with pytest.raises(RecipeError, match=message):
        source("model.layers.0.self_attn.q_proj.weight")
        source("model.layers.1.self_attn.q_proj.weight")
