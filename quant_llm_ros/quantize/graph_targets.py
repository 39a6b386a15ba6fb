"""The graph of each target, and the export to a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import onnx_ir as ir

from quant_llm_ros.quantize.decoder import DecoderConfig
from quant_llm_ros.quantize.graph import DecoderGraph, WeightSource
from quant_llm_ros.quantize.graph_jp6 import JetPack6Graph
from quant_llm_ros.quantize.graph_tensorrt import TensorRtGraph

GRAPHS: Mapping[str, type[DecoderGraph]] = {
    "ort": DecoderGraph,
    "tensorrt": TensorRtGraph,
    "tensorrt-jp6": JetPack6Graph,
}


def export(
    config: DecoderConfig,
    weights: WeightSource,
    path: Path,
    *,
    context_length: int,
    progress: Callable[[float], None],
    target: str = "ort",
) -> int:
    """Write a decoder as ``model.onnx`` with its weights in ``model.onnx.data``.

    The same weights give the same bytes.

    Args:
        config: Shape of the decoder.
        weights: Asked once for each weight, layer after layer.
        path: The ``.onnx`` file; the weights go to the same name with ``.data`` behind it.
        context_length: Rows of the rotary table: most tokens that the graph can take.
        progress: Called with the fraction done.
        target: Kind of graph, a key of :data:`GRAPHS`.

    Returns:
        Number of quantized weights that the target's runtime has no kernel for and computes with
        as floating-point numbers.

    Raises:
        CheckpointError: A weight is too large for the number format of the target.
    """
    kind = GRAPHS[target]
    with kind.weight_file(path.with_name(path.name + ".data")) as file:
        graph = kind(config, weights, file, context_length)
        model = graph.build(progress)
    ir.save(model, path)
    return graph.without_kernel
