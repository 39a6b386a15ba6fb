"""Compile graphs for GPUs that are not there, and print the table of docs/jetson.md.

    pip install -r requirements/tensorrt.txt
    python tools/compile_table.py bundles/tensorrt bundles/tensorrt-jp6

takes the graphs of bundles, then models of other shapes with random weights. Sizes and errors are
those of real weights; nothing is known about speed, and what such a model answers means nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
import dataclasses
from pathlib import Path
import sys
import tempfile

import torch

from quant_llm_ros.engine.bundle import Bundle, MODEL
from quant_llm_ros.quantize.compile_gate import CAPABILITIES, compile_decoder
from quant_llm_ros.quantize.decoder import Decoder, DecoderConfig
from quant_llm_ros.quantize.graph_lint import lint
from quant_llm_ros.quantize.graph_targets import export
from quant_llm_ros.quantize.methods.uniform import UniformQuantizer
from quant_llm_ros.quantize.tensors import QuantizedTensor

TARGETS = ("tensorrt", "tensorrt-jp6")
CONTEXT = 1536
# From the config.json of each model's repository on Hugging Face.
SHAPES: Mapping[str, DecoderConfig] = {
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


def export_random(config: DecoderConfig, target: str, folder: Path) -> Path:
    """Write the graph of a model with random weights, INT4 in blocks of 64.

    Returns:
        The ``.onnx`` file.
    """
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in Decoder(config).named_parameters()}
    quantizer = UniformQuantizer(bits=4, block=64, range="minmax", symmetric=True)
    generator = torch.Generator().manual_seed(1)

    def weights(name: str) -> QuantizedTensor | torch.Tensor:
        shape = shapes[name]
        if len(shape) == 1:
            return torch.ones(shape)
        return quantizer(0.02 * torch.randn(shape, generator=generator))

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
    for name, config in SHAPES.items():
        changed = config if layers is None else dataclasses.replace(config, layers=layers)
        for target in TARGETS:
            with tempfile.TemporaryDirectory() as folder:
                yield name, target, export_random(changed, target, Path(folder))


def main() -> int:
    """Compile everything.

    Returns:
        Exit status: 1 where a graph broke a rule or was refused.
    """
    parser = argparse.ArgumentParser(description="Compile graphs for GPUs that are not there.")
    parser.add_argument("bundle", nargs="*", type=Path, help="bundles for TensorRT")
    parser.add_argument("--layers", type=int, help="of the random models (default: their own)")
    arguments = parser.parse_args()
    print(f"| model | target | weights | {' | '.join(CAPABILITIES)} |")
    print("| --- " * (len(CAPABILITIES) + 3) + "|", flush=True)
    status = 0
    for name, target, path in rows(arguments.bundle, arguments.layers):
        findings = lint(path, target)
        for finding in findings:
            print(f"{name}, {target}: {finding}", file=sys.stderr)
        results = compile_decoder(path)
        weights = path.with_name(f"{path.name}.data").stat().st_size
        print(
            f"| {name} | `{target}` | {weights / 1e6:.1f} MB | {' | '.join(map(str, results))} |",
            flush=True,
        )
        if findings or not all(result.passed for result in results):
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
