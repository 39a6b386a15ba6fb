"""A recipe's model for llama.cpp: read back, it is the model that the recipe makes."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import make_folder, recipe_text
import torch

from quant_llm_ros.errors import RecipeError
from quant_llm_ros.quantize import gguf_checkpoint
from quant_llm_ros.quantize.gguf_export import write_gguf
from quant_llm_ros.quantize.recipe import Recipe


def recipe(folder: Path, model: Path, **quantize: object) -> Recipe:
    path = folder / "recipe.yaml"
    settings = {"method": "uniform", "bits": 4, "block": 32, **quantize}
    path.write_text(recipe_text(model, quantize=settings))
    return Recipe.load(path)


@pytest.mark.parametrize(
    ("architecture", "bits"), [("llama", 4), ("llama", 8), ("qwen2", 4), ("qwen3", 8)]
)
def test_it_reads_back_as_the_same_model(tmp_path: Path, architecture: str, bits: int) -> None:
    made = recipe(tmp_path, make_folder(tmp_path / "model", architecture), bits=bits)
    write_gguf(made, tmp_path / "out" / "model.gguf")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.gguf"]
    back = gguf_checkpoint.read(tmp_path / "out" / "model.gguf")
    checkpoint = made.checkpoint.open()
    assert back.config.layers == checkpoint.config.layers
    assert back.config.head_dim == checkpoint.config.head_dim
    assert back.config.rope_theta == pytest.approx(checkpoint.config.rope_theta)
    assert back.eos_token_id == checkpoint.eos_token_id
    decoder, expected = back.decoder(), checkpoint.decoder()
    for name in expected.matrix_names():
        quantizer = made.quantizer(name)
        assert quantizer is not None
        weight = quantizer(expected.get_parameter(name).data).dequantize()
        # Only the scales are rounded, to FP16.
        torch.testing.assert_close(decoder.get_parameter(name).data, weight, rtol=2e-3, atol=1e-7)
        expected.set_weight(name, weight)
    tokens = torch.tensor([5, 40, 7, 100, 12])
    with torch.inference_mode():
        logits, wanted = decoder(tokens)[0], expected(tokens)[0]
    assert float((logits - wanted).abs().max() / wanted.abs().max()) < 0.01


def test_other_blocks_are_refused(tmp_path: Path) -> None:
    made = recipe(tmp_path, make_folder(tmp_path / "model"), block=16)
    with pytest.raises(RecipeError, match=r"has blocks of 16; llama.cpp takes blocks of 32"):
        write_gguf(made, tmp_path / "model.gguf")
