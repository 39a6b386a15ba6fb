"""The graphs of the targets: each keeps its rules and computes what the torch decoder does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import itertools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
import onnx
import onnxruntime
import pytest
from target_graphs import CONTEXT, export_by, exported, INT4, MODELS, WIDE
from tiny_models import build_tiny, GEMMA3, make_folder
import torch

from quant_llm_ros.engine.onnxruntime_engine import OnnxRuntimeEngine
from quant_llm_ros.errors import CheckpointError, EngineError
from quant_llm_ros.quantize.calibration import Passages
from quant_llm_ros.quantize.decoder import Decoder
from quant_llm_ros.quantize.graph_lint import lint
from quant_llm_ros.quantize.graph_run import check_graph, FixedCacheRunner, HALF_LIMIT
from quant_llm_ros.quantize.graph_targets import GRAPHS
from quant_llm_ros.quantize.recipe import Recipe
from quant_llm_ros.quantize.reference import decoder_logits, prompts, relative_error
from quant_llm_ros.quantize.weight_file import WeightFile

# FP32 against FP32 of the same weights, and FP16 against FP32.
LIMITS = {"ort": 2e-5, "tensorrt": HALF_LIMIT, "tensorrt-jp6": HALF_LIMIT}
HALF_TARGETS = ("tensorrt", "tensorrt-jp6")


class GrowingCacheRunner:
    """Runs a graph of target ``ort``, as :class:`FixedCacheRunner` runs the others."""

    def __init__(self, path: Path, config: Any) -> None:
        """Load a graph."""
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        self.session = onnxruntime.InferenceSession(path, options)
        empty = np.zeros((1, config.key_value_heads, 0, config.head_dim), dtype=np.float32)
        self.names = [i.name for i in self.session.get_inputs() if i.name.startswith("past")]
        self.cache = [empty] * len(self.names)

    def append(self, tokens: Sequence[int], *, last: int = 1) -> NDArray[np.float32]:
        """Run the graph over new tokens."""
        logits, *self.cache = self.session.run(
            None,
            {
                "input_ids": np.array([tokens]),
                "logit_positions": np.arange(len(tokens) - last, len(tokens)),
                **dict(zip(self.names, self.cache, strict=True)),
            },
        )
        result: NDArray[np.float32] = logits
        return result

    def rollback(self, length: int) -> None:
        """Forget every token after the first ``length``."""
        self.cache = [part[:, :, :length] for part in self.cache]


@pytest.fixture(
    scope="module",
    params=itertools.product(MODELS, GRAPHS),
    ids=lambda pair: "-".join(pair),
)
def graph(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Decoder]:
    """Target, graph and decoder of every kind of model for every target."""
    model, target = request.param
    return target, *exported(tmp_path_factory.mktemp("graph"), model, target)


def test_parity_with_torch(graph: tuple[str, Path, Decoder]) -> None:
    target, path, decoder = graph
    runner = (
        GrowingCacheRunner(path, decoder.config) if target == "ort" else FixedCacheRunner(path)
    )
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 320, (CONTEXT,), generator=generator).tolist()
    expected = torch.from_numpy(np.array(decoder_logits(decoder, tokens)))

    def error(first: int, end: int, last: int) -> float:
        logits = runner.append(tokens[first:end], last=last)
        assert logits.shape == (last, decoder.config.vocab_size)
        assert logits.dtype == np.float32
        return relative_error(torch.from_numpy(logits), expected[end - last : end])

    # Prefill in two chunks, decode single tokens, verify a draft of 5.
    passes = [(0, 20, 20), (20, 27, 1), (27, 28, 1), (28, 29, 1), (29, 34, 5)]
    errors = [error(*one) for one in passes]
    runner.append([7, 7, 7, 7])  # a wrong draft
    runner.rollback(30)
    errors += [error(30, 33, 2), error(33, CONTEXT, CONTEXT - 33)]
    assert max(errors) < LIMITS[target]


def test_graphs_keep_the_rules(graph: tuple[str, Path, Decoder]) -> None:
    target, path, _ = graph
    onnx.checker.check_model(path, full_check=True)
    assert [str(finding) for finding in lint(path, target)] == []


@pytest.mark.parametrize(
    ("target", "model", "opset"),
    [
        ("ort", "llama-int4", 23),
        ("tensorrt", "llama-int4", 24),
        ("tensorrt-jp6", "llama-int4", 21),
        ("tensorrt-jp6", "llama-int8", 20),
        ("tensorrt-jp6", "llama-untied", 20),
    ],
)
def test_opset_and_interface(tmp_path: Path, target: str, model: str, opset: int) -> None:
    path, decoder = exported(tmp_path, model, target)
    graph = onnx.load(path, load_external_data=False)
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", opset)]
    inputs = [value.name for value in graph.graph.input]
    caches = [f"{part}_{i}" for i in range(decoder.config.layers) for part in ("key", "value")]
    more = [] if target == "ort" else ["write_index"]
    assert inputs == ["input_ids", "logit_positions", *more, *(f"past_{name}" for name in caches)]
    outputs = [value.name for value in graph.graph.output]
    assert outputs == ["logits", *(f"present_{name}" for name in caches)]


@pytest.mark.parametrize("target", HALF_TARGETS)
def test_the_tolerance_tells_a_wrong_position(tmp_path: Path, target: str) -> None:
    """What the FP16 tolerance lets pass is far below one token at the wrong place."""
    path, decoder = exported(tmp_path, "llama-int4", target)
    runner = FixedCacheRunner(path)
    tokens = list(range(40, 60))
    expected = decoder_logits(decoder, tokens)[-1:]
    runner.append(tokens[:-1])
    runner.length -= 1
    wrong = torch.from_numpy(runner.append(tokens[-1:]))
    assert relative_error(wrong, expected) > 3 * HALF_LIMIT


@pytest.mark.parametrize("target", HALF_TARGETS)
def test_the_same_weights_give_the_same_bytes(tmp_path: Path, target: str) -> None:
    contents = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        path, _ = exported(tmp_path / name, "llama-int4", target)
        contents.append((path.read_bytes(), path.with_name("model.onnx.data").read_bytes()))
    assert contents[0] == contents[1]


@pytest.mark.parametrize("target", HALF_TARGETS)
def test_bundle(tmp_path: Path, target: str) -> None:
    folder = make_folder(tmp_path / "model", **WIDE)
    bundle = build_tiny(tmp_path, folder, target=target, quantize=INT4)
    assert bundle.target == target
    assert 0 < bundle.figures["export_relative_error"] < HALF_LIMIT
    assert "decode_ms_per_token" not in bundle.figures  # it is not measured on this machine
    with pytest.raises(EngineError, match=f"built for {target}; ONNX Runtime needs target ort"):
        OnnxRuntimeEngine.load(bundle)


def test_a_recipe_that_the_target_refuses(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model")
    with pytest.raises(EngineError, match=r"rules of target tensorrt-jp6; .* blocks of 32"):
        build_tiny(tmp_path, folder, target="tensorrt-jp6", quantize={**INT4, "block": 32})


@pytest.mark.parametrize(
    "wrong",
    [
        lambda logits: logits + 0.1 * logits.abs().max(),
        lambda logits: logits * float("nan"),
    ],
)
def test_a_graph_that_computes_something_else(
    tmp_path: Path, wrong: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    path, decoder = exported(tmp_path, "llama-int4", "tensorrt")
    prompt = [5, 6, 7]
    logits = decoder_logits(decoder, prompt)
    error = check_graph(path, "tensorrt", Passages((), [prompt]), [logits])
    assert error is not None
    assert error < HALF_LIMIT
    with pytest.raises(EngineError, match="differs from the torch decoder"):
        check_graph(path, "tensorrt", Passages((), [prompt]), [wrong(logits)])


def test_numbers_that_fp16_lacks(tmp_path: Path) -> None:
    half = GRAPHS["tensorrt"].weight_file
    with half(tmp_path / "weights") as file:
        assert isinstance(file, WeightFile)
        scales = file.add("scales", np.array([2.0**-30, 1.0], dtype=np.float32))
        with pytest.raises(CheckpointError, match=r"norm has a value of 1e\+05"):
            file.add("norm", np.array([1e5], dtype=np.float32))
    assert (scales.numpy() > 0).all()  # TensorRT refuses a scale of zero


@pytest.mark.parametrize("target", HALF_TARGETS)
def test_gemma_is_refused(tmp_path: Path, target: str) -> None:
    folder = make_folder(tmp_path / "model", "gemma3", **GEMMA3)
    with pytest.raises(CheckpointError, match="too small for Gemma 3; use target ort"):
        build_tiny(tmp_path, folder, target=target)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.slow
@pytest.mark.parametrize("target", HALF_TARGETS)
def test_the_default_model(tmp_path: Path, repository: Path, target: str) -> None:
    """30 layers in FP16, on the reference prompts."""
    recipe = Recipe.load(repository / "config" / "recipes" / f"{target}.yaml")
    path, decoder = export_by(recipe, tmp_path)
    texts = prompts(recipe.checkpoint.open())[:3]
    error = check_graph(
        path, target, Passages((), texts), [decoder_logits(decoder, text) for text in texts]
    )
    assert error is not None
    assert error < 0.2 * HALF_LIMIT
