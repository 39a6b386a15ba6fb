"""Bundles to measure growth with: a longer context, or another shape with random weights.

They are made of a finished bundle, whose tokenizer and skills they have, and are no models to
serve: nothing checks what they compute.
"""

from __future__ import annotations

from collections.abc import Mapping
import math
from pathlib import Path
import shutil
from typing import Any

import numpy as np
from numpy.typing import NDArray
import onnx
from onnx import numpy_helper
import torch
import yaml

from quant_llm_ros.engine.bundle import Bundle, DESCRIPTION, file_sha256, MODEL
from quant_llm_ros.errors import BundleError
from quant_llm_ros.quantize.decoder import DecoderConfig, rotary_table
from quant_llm_ros.quantize.graph_targets import export
from quant_llm_ros.quantize.staging import staged_folder
from quant_llm_ros.quantize.tensors import QuantizedTensor

_BLOCK = 32

SHAPES: Mapping[str, DecoderConfig] = {
    name: DecoderConfig(
        architecture="llama",
        layers=layers,
        hidden_size=hidden,
        intermediate_size=intermediate,
        attention_heads=heads,
        key_value_heads=kv,
        head_dim=64,
        vocab_size=0,  # the tokenizer's
        context_length=2048,
        rope_theta=1e5,
        norm_epsilon=1e-5,
        tied_embedding=True,
    )
    for name, layers, hidden, intermediate, heads, kv in (
        ("135M", 30, 576, 1536, 9, 3),  # SmolLM2-135M
        ("360M", 32, 960, 2560, 15, 5),  # SmolLM2-360M
        ("1B", 16, 2048, 8192, 32, 8),  # Llama-3.2-1B, but for its vocabulary
    )
}
"""Shapes of known models."""


def with_context(bundle: Bundle, output: Path, context_length: int) -> Bundle:
    """Make a bundle of the same weights whose rotary table has more rows.

    Args:
        bundle: Of target ``ort``.
        output: Folder of the new bundle.
        context_length: Most tokens in its cache; the model may have been trained for fewer.

    Raises:
        BundleError: The bundle's graph is another one than expected, or the folder cannot be
            written.
    """
    model = onnx.load(str(bundle.file(MODEL)), load_external_data=False)
    tables = {t.name: t for t in model.graph.initializer if t.name.startswith("rotary_")}
    if bundle.target != "ort" or set(tables) != {"rotary_cosines", "rotary_sines"}:
        raise BundleError(f"{bundle.path} has no rotary tables to lengthen; use target ort")
    old = {name: _float32(table, bundle.path) for name, table in tables.items()}
    config = DecoderConfig(
        architecture=bundle.model.architecture,
        layers=bundle.model.layers,
        hidden_size=bundle.model.hidden_size,
        intermediate_size=0,
        attention_heads=bundle.model.attention_heads,
        key_value_heads=bundle.model.key_value_heads,
        head_dim=bundle.model.head_dim,
        vocab_size=bundle.model.vocab_size,
        context_length=context_length,
        rope_theta=bundle.model.rope_thetas[0],
        norm_epsilon=0.0,
        tied_embedding=True,
    )
    cosines, sines = rotary_table(config, context_length)
    for name, table in (("rotary_cosines", cosines.numpy()), ("rotary_sines", sines.numpy())):
        if not np.allclose(table[: len(old[name])], old[name], atol=1e-6):
            raise BundleError(f"{bundle.path}: {name} is no plain rotary table")
        tables[name].CopyFrom(numpy_helper.from_array(table, name))
    with staged_folder(output) as folder:
        onnx.save(model, str(folder / MODEL))
        for name in bundle.files:
            if name != MODEL:
                _copy(bundle, name, folder)
        _describe(bundle, folder, [MODEL], {"context_length": context_length})
    return Bundle.load(output)


def of_shape(bundle: Bundle, output: Path, shape: DecoderConfig) -> Bundle:
    """Make a bundle of random INT4 weights in blocks of 32.

    Args:
        bundle: Gives tokenizer and skills.
        output: Folder of the new bundle.
        shape: Of the model; one of ``SHAPES``.

    Raises:
        BundleError: The folder cannot be written.
    """
    sizes: dict[str, Any] = {
        "layers": shape.layers,
        "hidden_size": shape.hidden_size,
        "attention_heads": shape.attention_heads,
        "key_value_heads": shape.key_value_heads,
        "head_dim": shape.head_dim,
        "rope_thetas": shape.rope_thetas(),
        "context_length": shape.context_length,
    }
    config = DecoderConfig(**{**vars(shape), "vocab_size": bundle.model.vocab_size})
    data = f"{MODEL}.data"
    with staged_folder(output) as folder:
        export(
            config,
            _RandomWeights(config),
            folder / MODEL,
            context_length=config.context_length,
            progress=lambda part: None,
        )
        for name in bundle.files:
            if name not in (MODEL, data):
                _copy(bundle, name, folder)
        _describe(bundle, folder, [MODEL, data], sizes)
    return Bundle.load(output)


def _float32(tensor: onnx.TensorProto, folder: Path) -> NDArray[np.float32]:
    """Read a tensor of a graph; onnx itself refuses files with several hard links."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return numpy_helper.to_array(tensor)
    where = {entry.key: entry.value for entry in tensor.external_data}
    values = np.fromfile(
        folder / where["location"],
        np.float32,
        count=math.prod(tensor.dims),
        offset=int(where.get("offset", 0)),
    )
    return values.reshape(tuple(tensor.dims))


class _RandomWeights:
    """Gives each weight of a decoder: random codes, all norms one."""

    def __init__(self, config: DecoderConfig) -> None:
        hidden, middle = config.hidden_size, config.intermediate_size
        queries = config.attention_heads * config.head_dim
        keys = config.key_value_heads * config.head_dim
        self._hidden = hidden
        self._shapes = {
            "embed_tokens": (config.vocab_size, hidden),
            "q_proj": (queries, hidden),
            "k_proj": (keys, hidden),
            "v_proj": (keys, hidden),
            "o_proj": (hidden, queries),
            "gate_proj": (middle, hidden),
            "up_proj": (middle, hidden),
            "down_proj": (hidden, middle),
        }
        self._random = torch.Generator().manual_seed(1)

    def __call__(self, name: str) -> QuantizedTensor | torch.Tensor:
        shape = self._shapes.get(name.split(".")[-2])
        if shape is None:
            return torch.ones(self._hidden)
        codes = torch.randint(-8, 8, shape, dtype=torch.int8, generator=self._random)
        # About the spread that a trained layer's output has.
        scales = torch.full((shape[0], shape[1] // _BLOCK), 0.2 / shape[1] ** 0.5)
        return QuantizedTensor(codes, scales, bits=4, block=_BLOCK)


def _describe(bundle: Bundle, folder: Path, new: list[str], sizes: Mapping[str, Any]) -> None:
    """Write the description of a variant."""
    fields: dict[str, Any] = yaml.safe_load((bundle.path / DESCRIPTION).read_bytes())
    fields["model"] |= sizes
    for name in new:
        path = folder / name
        fields["files"][name] = {"sha256": file_sha256(path), "bytes": path.stat().st_size}
    text = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)
    (folder / DESCRIPTION).write_text(text, encoding="utf-8")


def _copy(bundle: Bundle, name: str, folder: Path) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(bundle.file(name), folder / name)
