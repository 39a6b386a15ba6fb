"""A recipe's model as GGUF, for llama.cpp: the same weights, in its own format.

GGUF's Q4_0 and Q8_0 are symmetric codes in blocks of 32 with a scale each, as our uniform weights
are: only the scale is rounded, to FP16 (llama.cpp, ``ggml-quants``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
import torch

from quant_llm_ros.errors import RecipeError
from quant_llm_ros.quantize.adapter import Adapter
from quant_llm_ros.quantize.checkpoint import Checkpoint
from quant_llm_ros.quantize.decoder import DecoderConfig
from quant_llm_ros.quantize.graph_weights import as_blocks
from quant_llm_ros.quantize.recipe import Recipe
from quant_llm_ros.quantize.tensors import QuantizedTensor

_BLOCK = 32
_CONTROL, _NORMAL = 3, 1


def write_gguf(recipe: Recipe, path: Path) -> None:
    """Write the model that a recipe makes, adapter merged and quantized.

    Args:
        recipe: With weights in blocks of 32, or unquantized ones.
        path: The file; written as a whole or not at all.

    Raises:
        RecipeError: GGUF has no such blocks, or the adapter does not fit.
        CheckpointError: The checkpoint or the adapter is damaged.
    """
    checkpoint = recipe.checkpoint.open()
    if checkpoint.config.architecture == "gemma3":
        raise RecipeError(
            f"{recipe.file}: Gemma 3 cannot be written as GGUF here; convert its checkpoint with "
            "llama.cpp"
        )
    decoder = checkpoint.decoder()
    adapter = Adapter.load_all(recipe.adapters)
    if adapter:
        adapter.apply(decoder)
    config = checkpoint.config
    staged = path.with_suffix(".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(staged, config.architecture)
    _describe(writer, config)
    _describe_tokenizer(writer, checkpoint)
    architecture = getattr(gguf.MODEL_ARCH, config.architecture.upper())
    names = gguf.get_tensor_name_map(architecture, config.layers)
    for name in decoder.parameter_names():
        target = names.get_name(name, (".weight", ".bias"))
        suffix = name.rpartition(".")[2]
        target = target if target.endswith(suffix) else f"{target}.{suffix}"
        weight = decoder.get_parameter(name).data
        quantizer = recipe.quantizer(name) if weight.ndim == 2 else None
        if quantizer is None:
            rows = _permuted(config, name, weight.float().numpy())
            writer.add_tensor(target, np.ascontiguousarray(rows))
            continue
        quantized = quantizer(weight)
        if not quantized.is_integer or quantized.zero_points is not None:
            raise RecipeError(
                f"{recipe.file}: {name} is not on a symmetric even grid; llama.cpp takes the "
                "weights of methods such as uniform"
            )
        quantized = as_blocks(quantized) or quantized
        if quantized.block != _BLOCK:
            raise RecipeError(
                f"{recipe.file}: {name} has blocks of {quantized.block}; llama.cpp takes blocks "
                f"of {_BLOCK}"
            )
        packed = _permuted(config, name, _packed(quantized))
        kind = (
            gguf.GGMLQuantizationType.Q4_0
            if quantized.bits == 4
            else gguf.GGMLQuantizationType.Q8_0
        )
        writer.add_tensor(target, np.ascontiguousarray(packed), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    staged.replace(path)


def _packed(quantized: QuantizedTensor) -> NDArray[np.uint8]:
    """Pack a weight as Q4_0 or Q8_0, ``[out, bytes of a row]``.

    A block is its FP16 scale and then, in Q4_0, 16 bytes that hold the first half of the codes in
    their low bits and the second half in their high bits, each code plus 8.
    """
    out, inputs = quantized.shape
    blocks = inputs // _BLOCK
    assert quantized.scales is not None
    scales = quantized.scales.to(torch.float16).numpy().reshape(out, blocks, 1).view(np.uint8)
    codes = quantized.codes.numpy().reshape(out, blocks, _BLOCK)
    if quantized.bits == 4:
        shifted = (codes + 8).astype(np.uint8)
        body = shifted[..., : _BLOCK // 2] | (shifted[..., _BLOCK // 2 :] << 4)
    else:
        body = codes.view(np.uint8)
    return np.concatenate([scales, body], axis=2).reshape(out, -1)


def _permuted(config: DecoderConfig, name: str, rows: NDArray[Any]) -> NDArray[Any]:
    """Put the rows of a query or key weight into llama.cpp's order of the rotary pairs."""
    heads = {"q_proj": config.attention_heads, "k_proj": config.key_value_heads}
    part = next((part for part in heads if f".{part}." in name), None)
    if config.architecture != "llama" or part is None:
        return rows
    halves = rows.reshape(heads[part], 2, -1, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def _describe(writer: Any, config: DecoderConfig) -> None:
    writer.add_block_count(config.layers)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.attention_heads)
    writer.add_head_count_kv(config.key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)
    writer.add_vocab_size(config.vocab_size)


def _describe_tokenizer(writer: Any, checkpoint: Checkpoint) -> None:
    description = json.loads(checkpoint.tokenizer_json)
    numbers: dict[str, int] = dict(description["model"]["vocab"])
    special = {token["content"] for token in description.get("added_tokens", ())}
    numbers |= {token["content"]: token["id"] for token in description.get("added_tokens", ())}
    tokens = sorted(numbers, key=numbers.__getitem__)
    # A model may have more rows than its tokenizer has tokens.
    padding = [f"<unused{i}>" for i in range(len(tokens), checkpoint.config.vocab_size)]
    merges = description["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(checkpoint.config.architecture, description))
    writer.add_token_list([*tokens, *padding])
    writer.add_token_types(
        [_CONTROL if token in special else _NORMAL for token in tokens] + [_CONTROL] * len(padding)
    )
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_eos_token_id(checkpoint.eos_token_id)
    writer.add_add_bos_token(checkpoint.bos_token_id is not None)
    if checkpoint.bos_token_id is not None:
        writer.add_bos_token_id(checkpoint.bos_token_id)


def _pre_tokenizer(architecture: str, description: dict[str, Any]) -> str:
    """Name the split into words by which llama.cpp knows it."""
    if architecture != "llama":
        return "qwen2"
    return "smollm" if '"Digits"' in json.dumps(description["pre_tokenizer"]) else "gpt-2"
