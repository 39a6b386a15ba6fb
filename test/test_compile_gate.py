"""The graphs compile for NVIDIA GPUs, and what the rules forbid does not."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
import re

import graph_cases as cases
import ml_dtypes
import numpy as np
import onnx
import pytest
from target_graphs import export_by, exported

from quant_llm_ros.cli import main
from quant_llm_ros.engine.tensorrt_build import decoder_profiles
from quant_llm_ros.errors import EngineError
from quant_llm_ros.quantize import compile_gate
from quant_llm_ros.quantize.compile_gate import (
    CAPABILITIES,
    compile_graph,
    is_available,
)
from quant_llm_ros.quantize.graph_lint import lint
from quant_llm_ros.quantize.recipe import Recipe

needs_compiler = pytest.mark.skipif(
    not is_available(),
    reason="TensorRT for RTX is not installed: pip install -r requirements/tensorrt.txt",
)
DECODER = decoder_profiles(prompt=48, drafts=8)
CASE = {"n": (1, 4, 8), "p": (1, 4, 8)}
FP8 = cases.whole_scale_product(ml_dtypes.float8_e4m3fn)
FP4 = cases.product(ml_dtypes.float4_e2m1fn, block=16, opset=23)


def test_without_the_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_gate, "MODULE", "a_module_that_nobody_has")
    assert not is_available()
    with pytest.raises(EngineError, match=r"pip install -r requirements/tensorrt\.txt"):
        compile_graph(tmp_path / "model.onnx")


@needs_compiler
def test_wrong_requests(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"model\.onnx does not exist"):
        compile_graph(tmp_path / "model.onnx")
    path = cases.save(cases.attention(), tmp_path)
    with pytest.raises(EngineError, match=r"does not know SM87; known: .*SM86"):
        compile_graph(path, ["SM87"])
    (result,) = compile_graph(path, ["SM86"], [{"k": (1, 1, 1)}])
    assert result.errors[0].startswith("the graph's input q has a size 'n' that changes; only k")


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-jp6"])
@pytest.mark.parametrize(
    ("model", "capabilities"),
    [
        ("llama-int4", CAPABILITIES),
        ("llama-int8", ("SM86",)),
        ("llama-untied", ("SM86",)),
        ("qwen2-int4", ("SM86",)),
        ("qwen3-int4", ("SM86",)),
    ],
)
def test_graphs_compile(
    tmp_path: Path, model: str, capabilities: tuple[str, ...], target: str
) -> None:
    path, _ = exported(tmp_path, model, target)
    for result in compile_graph(path, capabilities, DECODER):
        assert result.passed, (result.capability, result.errors)
        assert result.errors == ()


def lint_graph(*arguments: object) -> int:
    """Run ``quant_llm lint-graph``."""
    return main(["lint-graph", *map(str, arguments)])


def test_command_for_another_runtime(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = cases.save(cases.attention(), tmp_path)
    assert lint_graph(path, "--target", "ort", "--compile", "SM86") == 1
    assert "--compile is for TensorRT" in capsys.readouterr().err
    monkeypatch.setattr(compile_gate, "MODULE", "a_module_that_nobody_has")
    assert lint_graph(path, "--target", "tensorrt", "--compile", "SM86") == 1
    assert "pip install -r requirements/tensorrt.txt" in capsys.readouterr().err


@needs_compiler
@pytest.mark.slow
def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = exported(tmp_path, "llama-int4", "tensorrt")
    assert lint_graph(path, "--target", "tensorrt", "--compile", "SM86") == 0
    assert re.search(r"^SM86: \d+\.\d MB, \d+ s$", capsys.readouterr().out, re.MULTILINE)
    assert lint_graph(path, "--target", "tensorrt", "--compile", "SM87") == 1
    assert "does not know SM87; known: " in capsys.readouterr().err
    other = cases.cache(length="c")  # a cache that grows
    path = cases.save(other, tmp_path)
    assert lint_graph(path, "--target", "tensorrt", "--compile", "SM86", "--json") == 1
    finding = json.loads(capsys.readouterr().out)[-1]
    assert finding["rule"] == "compiles"
    assert "does not compile for SM86: " in finding["message"]


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "method", "target", "passing"),
    [
        ("SmolLM2-135M", "int8", "tensorrt", CAPABILITIES),
        ("SmolLM2-135M", "int8", "tensorrt-jp6", CAPABILITIES),
        ("SmolLM2-135M", "fp8", "tensorrt", ("SM89", "SM120")),
        ("Qwen3-0.6B", "int4", "tensorrt", CAPABILITIES),
        ("Qwen3-0.6B", "int4", "tensorrt-jp6", CAPABILITIES),
        ("Llama-3.2-1B", "int4", "tensorrt", CAPABILITIES),
        ("Llama-3.2-1B", "int4", "tensorrt-jp6", CAPABILITIES),
    ],
)
@pytest.mark.timeout(900)
def test_other_models_compile(
    tmp_path: Path,
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    shape: str,
    method: str,
    target: str,
    passing: tuple[str, ...],
) -> None:
    """A layer of their own widths and vocabulary; docs/jetson.md has the whole models."""
    monkeypatch.syspath_prepend(str(repository / "tools"))
    table = importlib.import_module("compile_table")
    config = dataclasses.replace(table.SHAPES[shape], layers=1)
    path = table.export_random(config, target, tmp_path, getattr(table, method))
    # Every chip where chips differ; else the one that is nearest to Orin's.
    chips = CAPABILITIES if method == "fp8" else ("SM86",)
    for result in compile_gate.compile_decoder(path, chips):
        findings = lint(path, target, chip=int(result.capability[2:]))
        assert result.passed == (result.capability in passing) == (not findings), result


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-jp6"])
@pytest.mark.timeout(1200)  # three engines of half a minute each, on a quiet machine
def test_the_default_model_compiles(tmp_path: Path, repository: Path, target: str) -> None:
    recipe = Recipe.load(repository / "config" / "recipes" / f"{target}.yaml")
    path, _ = export_by(recipe, tmp_path)
    for result in compile_graph(path, CAPABILITIES, decoder_profiles(prompt=512, drafts=8)):
        assert result.passed, (result.capability, result.errors)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "capabilities"),
    [
        (cases.product(), {"SM86", "SM89", "SM120"}),
        (cases.product(np.int8), {"SM86", "SM89", "SM120"}),
        (FP8, {"SM89", "SM120"}),
        (FP4, {"SM120"}),
    ],
    ids=["int4", "int8", "fp8", "fp4"],
)
def test_weight_types(tmp_path: Path, model: onnx.ModelProto, capabilities: set[str]) -> None:
    path = cases.save(model, tmp_path)
    results = compile_graph(path)
    assert {result.capability for result in results if result.passed} == capabilities
    for result in results:
        findings = lint(path, "tensorrt", chip=int(result.capability[2:]))
        assert (findings == []) == result.passed, (result, findings)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "model", "message"),
    [
        ("operator", cases.simple("Det"), "Det_0 (Det)"),
        ("attention-cache", cases.attention(past=True), "Attention_0 (Attention)"),
        ("attention-outputs", cases.attention(past=True, present=True), "one output"),
        ("attention-type", cases.attention(kind=cases.FP32, mask=None), ""),
        ("attention-attributes", cases.attention(softcap=30.0), "softcap"),
        ("cache-rank", cases.cache(rank=3), "4D"),
        ("cache-axis", cases.cache(axis=-1), "must be -2"),
        ("cache-mode", cases.cache(mode="circular"), "linear"),
        ("cache-ends", cases.cache(ends=False), "must be a network input"),
        ("weight-type", cases.product(ml_dtypes.uint4), ""),
        ("zero-point", cases.product(zero_point=3), "zero point"),
        ("gather-type", cases.look_up(np.ones((8, 8), dtype=np.int8)), "table"),
    ],
)
def test_the_rules_agree_with_the_compiler(
    tmp_path: Path, rule: str, model: onnx.ModelProto, message: str
) -> None:
    path = cases.save(model, tmp_path)
    assert rule in {finding.rule for finding in lint(path, "tensorrt")}
    result = compile_graph(path, ["SM86"], [CASE])[0]
    assert not result.passed
    assert message in " ".join(result.errors)
