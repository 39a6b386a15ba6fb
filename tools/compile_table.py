"""Compile graphs for GPUs that are not there, and print the table of docs/jetson.md.

    pip install -r requirements/tensorrt.txt
    python tools/compile_table.py bundles/tensorrt bundles/tensorrt-jp6

takes the graphs of bundles, then models of other shapes with random weights. Sizes and errors are
those of real weights; nothing is known about speed, and what such a model answers means nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
import dataclasses
from pathlib import Path
import sys
import tempfile
from typing import TypeAlias

import torch

from quant_llm_ros.engine.bundle import Bundle, MODEL
from quant_llm_ros.quantize.compile_gate import CAPABILITIES, compile_decoder
from quant_llm_ros.quantize.decoder import Decoder, DecoderConfig
from quant_llm_ros.quantize.graph_lint import lint
from quant_llm_ros.quantize.graph_targets import export
from quant_llm_ros.quantize.methods.floating import FloatingQuantizer
from quant_llm_ros.quantize.methods.uniform import UniformQuantizer
from quant_llm_ros.quantize.tensors import InputQuantizer, QuantizedTensor

CONTEXT = 1536
Quantizer: TypeAlias = Callable[[torch.Tensor], QuantizedTensor]


def int4(weight: torch.Tensor) -> QuantizedTensor:
    """As ``config/recipes/tensorrt.yaml``."""
    return UniformQuantizer(bits=4, block=64, range="minmax", symmetric=True)(weight)


def int8(weight: torch.Tensor) -> QuantizedTensor:
    """INT8 weights."""
    return UniformQuantizer(bits=8, block=64, range="minmax", symmetric=True)(weight)


def fp8(weight: torch.Tensor) -> QuantizedTensor:
    """As ``config/recipes/fp8_jetson_thor.yaml``: inputs in FP8 too, with a scale from before."""
    codes = FloatingQuantizer(type="fp8_e4m3", block="channel")(weight)
    return dataclasses.replace(codes, inputs=InputQuantizer(8, 0.05, floating=True))


BOTH = ("tensorrt", "tensorrt-jp6")
# From the config.json of each model's repository on Hugging Face.
SHAPES: Mapping[str, DecoderConfig] = {
    "SmolLM2-135M": DecoderConfig(
        architecture="llama",
        layers=30,
        hidden_size=576,
        intermediate_size=1536,
        attention_heads=9,
        key_value_heads=3,
        head_dim=64,
        vocab_size=49152,
        context_length=8192,
        rope_theta=1e5,
        norm_epsilon=1e-5,
        tied_embedding=True,
    ),
    "Qwen3-0.6B": DecoderConfig(
        architecture="qwen3",
        layers=28,
        hidden_size=1024,
        intermediate_size=3072,
        attention_heads=16,
        key_value_heads=8,
        head_dim=128,
        vocab_size=151936,
        context_length=40960,
        rope_theta=1e6,
        norm_epsilon=1e-6,
        tied_embedding=True,
        head_norm=True,
    ),
    "Llama-3.2-1B": DecoderConfig(
        architecture="llama",
        layers=16,
        hidden_size=2048,
        intermediate_size=8192,
        attention_heads=32,
        key_value_heads=8,
        head_dim=64,
        vocab_size=128256,
        context_length=131072,
        rope_theta=5e5,
        norm_epsilon=1e-5,
        tied_embedding=True,
    ),
}


# Name, shape, how its weights are quantized, targets. The default model in INT4 is in its bundles.
RANDOM: tuple[tuple[str, str, Quantizer, tuple[str, ...]], ...] = (
    ("SmolLM2-135M, INT8", "SmolLM2-135M", int8, BOTH),
    ("SmolLM2-135M, FP8", "SmolLM2-135M", fp8, ("tensorrt",)),
    ("Qwen3-0.6B, INT4", "Qwen3-0.6B", int4, BOTH),
    ("Llama-3.2-1B, INT4", "Llama-3.2-1B", int4, BOTH),
)


def export_random(
    config: DecoderConfig, target: str, folder: Path, quantizer: Quantizer = int4
) -> Path:
    """Write the graph of a model with random weights.

    Args:
        config: Its shape.
        target: ``tensorrt`` or ``tensorrt-jp6``.
        folder: Where.
        quantizer: Of all matrices; FP8 leaves the token embedding, and so the head, as it is.

    Returns:
        The ``.onnx`` file.
    """
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in Decoder(config).named_parameters()}
    generator = torch.Generator().manual_seed(1)

    def weights(name: str) -> QuantizedTensor | torch.Tensor:
        shape = shapes[name]
        if len(shape) == 1:
            return torch.ones(shape)
        weight = 0.02 * torch.randn(shape, generator=generator)
        return weight if quantizer is fp8 and "embed" in name else quantizer(weight)

    path = folder / MODEL
    export(
        config,
        weights,
        path,
        context_length=CONTEXT,
        progress=lambda part: None,
        target=target,
    )
    return path


def rows(bundles: list[Path], layers: int | None) -> Iterator[tuple[str, str, Path]]:
    """Give the name, the target and the graph of everything that is compiled."""
    for path in bundles:
        bundle = Bundle.load(path)
        yield bundle.name, bundle.target, bundle.file(MODEL)
    for name, shape, quantizer, targets in RANDOM:
        config = dataclasses.replace(SHAPES[shape], layers=layers or SHAPES[shape].layers)
        for target in targets:
            with tempfile.TemporaryDirectory() as folder:
                yield name, target, export_random(config, target, Path(folder), quantizer)


def main() -> int:
    """Compile everything.

    Returns:
        Exit status: 1 where the compiler and the rules of the target disagree.
    """
    parser = argparse.ArgumentParser(description="Compile graphs for GPUs that are not there.")
    parser.add_argument("bundle", nargs="*", type=Path, help="bundles for TensorRT")
    parser.add_argument("--layers", type=int, help="of the random models (default: their own)")
    arguments = parser.parse_args()
    print(f"| model | target | weights | {' | '.join(CAPABILITIES)} |")
    print("| --- " * (len(CAPABILITIES) + 3) + "|", flush=True)
    status = 0
    for name, target, path in rows(arguments.bundle, arguments.layers):
        weights = path.with_name(f"{path.name}.data").stat().st_size
        cells = []
        for result in compile_decoder(path):
            findings = lint(path, target, chip=int(result.capability[2:]))
            rules = ", ".join(sorted({finding.rule for finding in findings}))
            cells.append(f"no: rule {rules}" if findings and not result.passed else str(result))
            status |= result.passed == bool(findings)
        print(
            f"| {name} | `{target}` | {weights / 1e6:.1f} MB | {' | '.join(cells)} |", flush=True
        )
    return status


if __name__ == "__main__":
    sys.exit(main())
