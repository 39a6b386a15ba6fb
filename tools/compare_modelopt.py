"""Compares our GPTQ and AWQ with NVIDIA ModelOpt's AWQ at equal bits and block.

    pip install --target LIBS --no-deps nvidia-modelopt==0.47.0 omegaconf==2.3.0 "pulp<4" scipy \
        nvidia-ml-py antlr4-python3-runtime==4.9.3
    PYTHONPATH=.:LIBS python tools/compare_modelopt.py --text wiki.test.raw --output figures.json

The model is that of a recipe, its adapter merged. Every method sees the same calibration text,
quantizes the same matrices (those of the layers; the embedding keeps FP32), and is measured on the
same other windows of the text. The package needs no ModelOpt: it is compared with, once.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import math
from pathlib import Path
import sys
import time
from typing import Any

import tokenizers
import torch
from torch import Tensor
from torch.nn import functional

from quant_llm_ros.quantize.adapter import Adapter
from quant_llm_ros.quantize.calibration import Passages
from quant_llm_ros.quantize.decoder import Decoder
from quant_llm_ros.quantize.layerwise import EMBEDDING, QuantizingSource
from quant_llm_ros.quantize.methods import make_quantizer
from quant_llm_ros.quantize.recipe import LayerRule, Recipe

WINDOW = 256
OURS: dict[str, dict[str, Any]] = {
    "uniform": {"method": "uniform", "range": "minmax"},
    "gptq": {"method": "gptq", "range": "mse"},
    "awq": {"method": "awq"},
}
MODELOPT = "modelopt awq_lite"


def perplexity(decoder: Decoder, windows: list[Tensor]) -> float:
    """Perplexity over windows of tokens ``[WINDOW]``, the first token of each not scored."""
    total, scored = 0.0, 0
    with torch.inference_mode():
        for window in windows:
            logits = decoder(window[:-1])[0]
            total += float(functional.cross_entropy(logits, window[1:], reduction="sum"))
            scored += len(window) - 1
    return math.exp(total / scored)


def quantize_ours(
    decoder: Decoder, recipe: Recipe, settings: dict[str, Any], text: list[Tensor]
) -> None:
    """Quantize a decoder in place by one of our methods."""
    settings = dict(settings)
    quantizer = make_quantizer(settings.pop("method"), settings, "compared")
    rules = (LayerRule(EMBEDDING, None), LayerRule("lm_head.weight", None))
    changed = dataclasses.replace(recipe, rules=(*rules, LayerRule("*", quantizer)))
    passages = [Passages((), [window.tolist() for window in text])]
    source = QuantizingSource(decoder, changed, passages if changed.needs_calibration else ())
    for name in decoder.parameter_names():
        source(name)


def quantize_modelopt(decoder: Decoder, bits: int, block: int, text: list[Tensor]) -> None:
    """Quantize a decoder in place by ModelOpt's AWQ."""
    import modelopt.torch.quantization as mtq  # type: ignore[import-not-found]

    weights = {"num_bits": bits, "block_sizes": {-1: block}, "enable": True}
    config = {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            {"quantizer_name": "*weight_quantizer", "cfg": weights},
            {"quantizer_name": "*lm_head*", "enable": False},
        ],
        "algorithm": {"method": "awq_lite", "alpha_step": 0.1},
    }

    def run(model: Decoder) -> None:
        with torch.no_grad():
            for window in text:
                model(window)

    mtq.quantize(decoder, config, run)


def load(recipe: Recipe) -> Decoder:
    """Load the model of a recipe, adapter merged."""
    decoder = recipe.checkpoint.open().decoder()
    adapter = Adapter.load_all(recipe.adapters)
    if adapter:
        adapter.apply(decoder)
    return decoder


def main() -> int:
    """Compare, print a line for each method, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="config/recipes/default.yaml")
    parser.add_argument("--text", required=True)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--block", type=int, default=64)
    parser.add_argument("--calibration", type=int, default=16, help="windows to calibrate with")
    parser.add_argument("--windows", type=int, default=40, help="windows to measure on")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--methods", nargs="+", default=["none", *OURS, MODELOPT])
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    recipe = Recipe.load(given.recipe)
    text = Path(given.text).read_text(encoding="utf-8")
    tokenizer = tokenizers.Tokenizer.from_str(recipe.checkpoint.open().tokenizer_json)
    tokens = torch.tensor(tokenizer.encode(text).ids)
    windows = list(tokens[: len(tokens) // WINDOW * WINDOW].split(WINDOW))
    # What is learnt from and what is measured must not be the same.
    learnt = windows[-given.calibration :]
    measured = windows[: min(given.windows, len(windows) - given.calibration)]
    figures: dict[str, Any] = {}
    for method in given.methods:
        started = time.perf_counter()
        decoder = load(recipe)
        if method == MODELOPT:
            quantize_modelopt(decoder, given.bits, given.block, learnt)
        elif method != "none":
            settings = {**OURS[method], "bits": given.bits, "block": given.block}
            quantize_ours(decoder, recipe, settings, learnt)
        figures[method] = round(perplexity(decoder, measured), 4)
        took = time.perf_counter() - started
        print(f"{method}: perplexity {figures[method]:.4f} ({took:.0f} s)", flush=True)
    if given.output:
        try:
            version = importlib.metadata.version("nvidia-modelopt")
        except importlib.metadata.PackageNotFoundError:
            version = "not installed"
        document = {
            "command": " ".join(["tools/compare_modelopt.py", *sys.argv[1:]]),
            "modelopt": version,
            "torch": torch.__version__,
            "bits": given.bits,
            "block": given.block,
            "tokens": len(measured) * (WINDOW - 1),
            "perplexity": figures,
        }
        given.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
