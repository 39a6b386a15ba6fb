"""The rules of the targets: what keeps them passes, and each one notices what breaks it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import graph_cases as cases
import ml_dtypes
import numpy as np
import onnx
import pytest

from quant_llm_ros.cli import lint_graph
from quant_llm_ros.errors import EngineError
from quant_llm_ros.quantize.graph_lint import CHECKS, lint, rules, targets
from quant_llm_ros.quantize.graph_targets import GRAPHS
from quant_llm_ros.quantize.recipe import TARGETS

TRT, JP6, ORT = "tensorrt", "tensorrt-jp6", "ort"
MICROSOFT = "com.microsoft"

KEEP: list[tuple[str, onnx.ModelProto]] = [
    (TRT, cases.attention()),
    (TRT, cases.attention(mask=None)),
    (TRT, cases.cache()),
    (TRT, cases.product(block=128)),
    (TRT, cases.product(np.int8)),
    (TRT, cases.product(zero_point=0)),
    (TRT, cases.whole_scale_product(ml_dtypes.float8_e4m3fn)),
    (TRT, cases.look_up(np.ones((8, 8), dtype=np.float16))),
    (JP6, cases.product()),
    (JP6, cases.whole_scale_product(np.int8, opset=20)),
    (JP6, cases.scatter_nd()),
    (JP6, cases.reduce_mean(computed=False)),
    (JP6, cases.look_up(np.ones((8, 8), dtype=np.float16))),
    (ORT, cases.product(ml_dtypes.uint4, zero_point=3)),
    (ORT, cases.simple("Gelu", domain=MICROSOFT)),
    (ORT, cases.whole_scale_product(ml_dtypes.float8_e4m3fn)),
]

TINY = 2.0**-30  # which FP16 rounds to zero
BREAK: list[tuple[str, str, onnx.ModelProto, str, str]] = [
    (TRT, "opset", cases.simple("Abs", opset=25), "graph", "opset 25 is outside of 9 to 24"),
    (TRT, "domain", cases.simple("Gelu", domain=MICROSOFT), "Gelu_0", f"domain {MICROSOFT}"),
    (TRT, "operator", cases.simple("Det"), "Det_0", "no such operator"),
    (TRT, "value-type", cases.simple("Abs", kind=onnx.TensorProto.DOUBLE), "a", "type float64"),
    (TRT, "attention-cache", cases.attention(past=True), "Attention_0", "the input past_key"),
    (
        TRT,
        "attention-outputs",
        cases.attention(past=True, present=True),
        "Attention_0",
        "3 outputs, accepted: 1",
    ),
    (TRT, "attention-type", cases.attention(kind=cases.FP32), "Attention_0", "Q is float32,"),
    (
        TRT,
        "attention-mask",
        cases.attention(mask=onnx.TensorProto.BOOL),
        "Attention_0",
        "attn_mask is bool",
    ),
    (TRT, "attention-rank", cases.attention(flat=True), "Attention_0", "Q has 3 dimensions"),
    (TRT, "attention-attributes", cases.attention(softcap=30.0), "Attention_0", "softcap"),
    (TRT, "cache-rank", cases.cache(rank=3), "TensorScatter_0", "past_cache has 3 dimensions"),
    (TRT, "cache-axis", cases.cache(axis=-1), "TensorScatter_0", "axis is -1, accepted: [-2]"),
    (TRT, "cache-mode", cases.cache(mode="circular"), "TensorScatter_0", "mode is circular"),
    (TRT, "cache-ends", cases.cache(ends=False), "TensorScatter_1", "twice is no graph input"),
    (TRT, "cache-ends", cases.cache(length="p"), "TensorScatter_0", "size that changes"),
    (TRT, "weight-type", cases.product(ml_dtypes.uint4), "DequantizeLinear_0", "x is uint4"),
    (TRT, "zero-point", cases.product(zero_point=3), "DequantizeLinear_0", "zero is not 0"),
    (TRT, "block-size", cases.product(block=32), "DequantizeLinear_0", "accepted: 64, 128"),
    (
        TRT,
        "scale-constant",
        cases.product(computed_scale=True),
        "DequantizeLinear_0",
        "x_scale is computed",
    ),
    (TRT, "scale-positive", cases.product(scale=TINY), "DequantizeLinear_0", "not above 0"),
    (TRT, "even-int4", cases.product(features=65, block=65, out=1), "codes", "odd number"),
    (
        TRT,
        "gather-type",
        cases.look_up(np.ones((8, 8), dtype=np.int8)),
        "Gather_0",
        "data is int8",
    ),
    (
        TRT,
        "chip",
        cases.whole_scale_product(ml_dtypes.float8_e4m3fn),
        "codes",
        "float8e4m3fn, which SM87 lacks; it came with SM89",
    ),
    (JP6, "opset", cases.simple("Abs", opset=21), "graph", "opset 21 is outside of 9 to 20"),
    (JP6, "opset", cases.product(opset=22), "graph", "opset 22 is outside of 9 to 21"),
    (JP6, "domain", cases.simple("Gelu", domain=MICROSOFT), "Gelu_0", f"domain {MICROSOFT}"),
    (JP6, "operator", cases.simple("Gelu"), "Gelu_0", "no such operator"),
    (JP6, "value-type", cases.simple("Abs", kind=onnx.TensorProto.DOUBLE), "a", "type float64"),
    (JP6, "weight-type", cases.product(ml_dtypes.uint4), "DequantizeLinear_0", "x is uint4"),
    (JP6, "zero-point", cases.product(zero_point=3), "DequantizeLinear_0", "zero is not 0"),
    (JP6, "block-size", cases.product(block=32), "DequantizeLinear_0", "accepted: 64, 128"),
    (JP6, "block-size", cases.product(np.int8), "DequantizeLinear_0", "of 64, accepted: none"),
    (
        JP6,
        "scale-constant",
        cases.product(computed_scale=True),
        "DequantizeLinear_0",
        "x_scale is computed",
    ),
    (JP6, "scale-positive", cases.product(scale=TINY), "DequantizeLinear_0", "not above 0"),
    (JP6, "even-int4", cases.product(features=65, block=65, out=1), "codes", "odd number"),
    (JP6, "scatter-reduction", cases.scatter_nd(reduction="none"), "ScatterND_0", "reduction"),
    (JP6, "reduce-axes", cases.reduce_mean(computed=True), "ReduceMean_0", "axes is computed"),
    (
        JP6,
        "gather-type",
        cases.look_up(np.ones((8, 8), dtype=np.int8)),
        "Gather_0",
        "data is int8",
    ),
    (ORT, "opset", cases.simple("Abs", opset=24), "graph", "opset 24 is outside of 9 to 23"),
    (ORT, "domain", cases.simple("Gelu", domain="trt"), "Gelu_0", "domain trt"),
    (
        ORT,
        "weight-type",
        cases.whole_scale_product(ml_dtypes.float4_e2m1fn, opset=23),
        "DequantizeLinear_0",
        "x is float4e2m1",
    ),
    (ORT, "block-size", cases.product(block=8), "DequantizeLinear_0", "int4 in blocks of 8"),
]


@pytest.mark.parametrize(("target", "model"), KEEP)
def test_a_good_graph_passes(tmp_path: Path, target: str, model: onnx.ModelProto) -> None:
    assert lint(cases.save(model, tmp_path), target) == []


@pytest.mark.parametrize(
    ("target", "rule", "model", "node", "message"),
    BREAK,
    ids=[f"{target}-{rule}" for target, rule, *_ in BREAK],
)
def test_a_broken_rule_is_noticed(
    tmp_path: Path, target: str, rule: str, model: onnx.ModelProto, node: str, message: str
) -> None:
    findings = lint(cases.save(model, tmp_path), target, chip=87)
    found = [finding for finding in findings if finding.rule == rule]
    assert found, [str(finding) for finding in findings]
    assert found[0].node == node
    assert message in found[0].message
    assert found[0].remedy in str(found[0])


@pytest.mark.parametrize("target", TARGETS)
def test_every_rule_is_complete_and_tried(target: str) -> None:
    for rule in rules(target):
        assert rule["check"] in CHECKS
        assert rule["remedy"]
        assert rule["source"]
        assert (target, rule["rule"]) in {case[:2] for case in BREAK}


def test_every_target_has_rules_and_a_graph() -> None:
    assert sorted(TARGETS) == sorted(GRAPHS) == targets()


def test_without_a_chip_every_type_passes(tmp_path: Path) -> None:
    path = cases.save(cases.whole_scale_product(ml_dtypes.float8_e4m3fn), tmp_path)
    assert lint(path, TRT) == []
    assert lint(path, TRT, chip=89) == []


def test_unreadable_graphs(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"none\.onnx does not exist"):
        lint(tmp_path / "none.onnx", TRT)
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(EngineError, match=r"text\.onnx cannot be read as ONNX"):
        lint(tmp_path / "text.onnx", TRT)
    with pytest.raises(EngineError, match=r"unknown target 'trt'; known: ort, tensorrt, "):
        lint(cases.save(cases.attention(), tmp_path), "trt")


def test_missing_weights(tmp_path: Path) -> None:
    path = tmp_path / "case.onnx"
    onnx.save(cases.product(), path, save_as_external_data=True, size_threshold=0, location="w")
    (tmp_path / "w").unlink()
    with pytest.raises(EngineError, match="scales: its values cannot be read"):
        lint(path, TRT)


def command(*arguments: Any) -> int:
    """Run the subcommand as the program does."""
    parser = argparse.ArgumentParser()
    lint_graph.add_parser(parser.add_subparsers())
    parsed = parser.parse_args(["lint-graph", *map(str, arguments)])
    return int(parsed.run(parsed))


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = cases.save(cases.attention(), tmp_path)
    assert command(good, "--target", TRT) == 0
    assert "0 rules broken" in capsys.readouterr().out
    bad = cases.save(cases.attention(past=True), tmp_path)
    assert command(bad, "--target", TRT) == 1
    printed = capsys.readouterr().out
    assert "Attention_0 (Attention): has the input past_key [attention-cache]" in printed
    assert "TensorScatter" in printed
    assert command(bad, "--target", TRT, "--json") == 1
    assert json.loads(capsys.readouterr().out)[0]["rule"] == "attention-cache"
    fp8 = cases.save(cases.whole_scale_product(ml_dtypes.float8_e4m3fn), tmp_path)
    assert command(fp8, "--target", TRT, "--sm", 87) == 1
