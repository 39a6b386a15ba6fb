"""How much memory quantizing takes: a layer and the embedding, not the model."""

from __future__ import annotations

from collections.abc import Callable
import json
import os
from pathlib import Path
import resource
import subprocess
import sys
from typing import Any

import pytest
from safetensors.torch import save_file
from tiny_models import make_folder, make_tokenizer, recipe_text, SKILLS
import torch
import transformers

from quant_llm_ros.quantize import reference
from quant_llm_ros.quantize.calibration import Passages
from quant_llm_ros.quantize.checkpoint import open_checkpoint
from quant_llm_ros.quantize.decoder import Decoder
from quant_llm_ros.quantize.graph_targets import export
from quant_llm_ros.quantize.layerwise import QuantizingSource
from quant_llm_ros.quantize.recipe import Recipe

TEXTS = Passages([5, 6, 7], [[8, 9, 10, 11], [12, 13]])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("method", ["none", "uniform", "awq"])
def test_one_layer_at_a_time(tmp_path: Path, method: str, tied: bool) -> None:
    """Weights are loaded when they are needed and forgotten; the logits are the whole model's."""
    folder = make_folder(tmp_path / "model", num_hidden_layers=3, tie_word_embeddings=tied)
    checkpoint = open_checkpoint(folder)
    path = tmp_path / "recipe.yaml"
    quantize = {"method": method} if method == "none" else {"method": method, "bits": 4}
    path.write_text(recipe_text(folder, quantize=quantize))
    recipe = Recipe.load(path)
    decoder = Decoder(checkpoint.config).eval()
    held: list[set[str]] = []

    def load(into: Decoder, name: str) -> None:
        checkpoint.load(into, name)
        real = {n for n, p in into.named_parameters(remove_duplicate=False) if not p.is_meta}
        held.append({n.split(".")[2] for n in real if n.startswith("model.layers.")})

    def quantized(source: QuantizingSource) -> None:
        export(
            checkpoint.config,
            source,
            tmp_path / "model.onnx",
            context_length=64,
            progress=lambda part: None,
        )

    text = [TEXTS] if recipe.needs_calibration else []
    source = QuantizingSource(decoder, recipe, text, load=load, reference=TEXTS)
    quantized(source)
    before, after = source.logits()
    assert max(map(len, held)) == 1
    assert all(parameter.is_meta for parameter in decoder.parameters())

    whole = checkpoint.decoder()
    for got, expected in zip(before, reference.passages_logits(whole, TEXTS), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    quantized(QuantizingSource(whole, recipe, text))  # in place: the decoder has it afterwards
    for got, expected in zip(after, reference.passages_logits(whole, TEXTS), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def build(recipe: Path, bundle: Path, limit_bytes: int | None = None) -> dict[str, Any]:
    """Build a bundle in a process of its own, and give its figures."""

    def limit() -> None:
        if limit_bytes is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))

    prepare: Callable[[], None] = limit
    job = {
        "step": "build",
        "recipe": str(recipe),
        "bundle": str(bundle),
        "skills": str(SKILLS),
        "log": str(bundle.with_suffix(".log")),
    }
    done = subprocess.run(
        [sys.executable, "-m", "quant_llm_ros.cli.sweep_step"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=prepare,
    )
    last = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {"error": done.stderr}
    assert "result" in last, (last, done.stderr[-2000:])
    result: dict[str, Any] = last["result"]
    return result


@pytest.mark.slow
def test_the_default_model_takes_at_most_two_and_a_half_times_its_weights(
    tmp_path: Path, repository: Path
) -> None:
    figures = build(repository / "config" / "recipes" / "default.yaml", tmp_path / "bundle")
    weights_mb = figures["parameters"] * 4 / 1e6
    print(f"peak {figures['peak_memory_mb']:.0f} MB, weights in FP32 {weights_mb:.0f} MB")
    assert figures["peak_memory_mb"] < 2.5 * weights_mb


# The shape of TinyLlama 1.1B: 4.4 GB in FP32.
LARGE: dict[str, Any] = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": 2,
}
_GIB = 2**30


def make_large(folder: Path) -> Path:
    """Write a random model of 1.1 billion weights, file by file, in bfloat16."""
    folder.mkdir()
    transformers.LlamaConfig(**LARGE).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text("{}")
    make_tokenizer(300).save(str(folder / "tokenizer.json"))
    (folder / "model.safetensors").write_bytes(b"")  # so that it can be opened for its shape
    save_file({}, folder / "model.safetensors")
    shapes = open_checkpoint(folder).config
    (folder / "model.safetensors").unlink()
    files: dict[str, list[str]] = {}
    for name in Decoder(shapes).parameter_names():
        layer = name.split(".")[2] if name.startswith("model.layers.") else "rest"
        files.setdefault(f"model-{layer}.safetensors", []).append(name)
    empty, generator = Decoder(shapes), torch.Generator().manual_seed(1)
    for file, names in files.items():
        tensors = {}
        for name in names:
            shape = empty.get_parameter(name).shape
            scale = 0.02 if len(shape) == 2 else 0.1
            values = torch.randn(shape, generator=generator, dtype=torch.bfloat16) * scale
            tensors[name] = values + (0.0 if len(shape) == 2 else 1.0)
        save_file(tensors, folder / file, metadata={"format": "pt"})
    index = {name: file for file, names in files.items() for name in names}
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": index})
    )
    return folder


@pytest.mark.slow
@pytest.mark.skipif(
    "QUANT_LLM_LARGE" not in os.environ, reason="writes 3 GB; set QUANT_LLM_LARGE to run it"
)
def test_a_model_larger_than_the_memory_that_it_may_take(tmp_path: Path) -> None:
    """4.4 GB of weights in FP32 are quantized with 3 GB of memory."""
    folder = make_large(tmp_path / "model")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe_text(folder, context_length=2048))
    figures = build(recipe, tmp_path / "bundle", 3 * _GIB)
    weights_gb = figures["parameters"] * 4 / 1e9
    print(f"peak {figures['peak_memory_mb']:.0f} MB, weights in FP32 {weights_gb:.2f} GB")
    assert figures["parameters"] > 1e9
    assert figures["export_relative_error"] < 1e-4
