"""Checkpoints in GGUF, the file format of llama.cpp."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
import json
from pathlib import Path
from typing import Any

import gguf
import torch

from quant_llm_ros.engine.bundle import file_sha256
from quant_llm_ros.errors import CheckpointError
from quant_llm_ros.quantize.checkpoint import (
    chat_template_name,
    check_architecture,
    Checkpoint,
    damaged,
    gemma3_windows,
    LazyWeights,
)
from quant_llm_ros.quantize.decoder import DecoderConfig

_READ_ERRORS = (ValueError, IndexError, KeyError, OverflowError, OSError, EOFError)

# GGUF names to Hugging Face names; those of a block follow ``blk.<i>.`` / ``model.layers.<i>.``.
_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GEMMA3_LOCAL_THETA = 10000.0  # llama.cpp takes it where the file does not say (llama-model.cpp)
_LICENSES = {"apache-2.0": "Apache-2.0", "mit": "MIT"}


def read(path: Path) -> Checkpoint:
    """Open a GGUF file.

    Raises:
        CheckpointError: The file is damaged or not of a supported architecture.
    """
    with damaged(path, *_READ_ERRORS):
        reader = gguf.GGUFReader(path)
        fields = {
            name: reader.get_field(name).contents()
            for name in reader.fields
            if not name.startswith("tokenizer.ggml.") or "token_id" in name or "add_" in name
        }
        pre_tokenizer = reader.get_field("tokenizer.ggml.pre")
        fields["pre_tokenizer"] = pre_tokenizer.contents() if pre_tokenizer else None
    architecture = check_architecture(fields.get("general.architecture"), path)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    with damaged(path, *_READ_ERRORS):
        config = _config(architecture, fields, tensors)
        eos_token_id = int(fields["tokenizer.ggml.eos_token_id"])
    if "rope_freqs.weight" in tensors or f"{architecture}.rope.scaling.type" in fields:
        raise CheckpointError(f"{path}: scaled rotary embeddings are not supported")
    readers: dict[str, Callable[[], torch.Tensor]] = {}
    for name, tensor in tensors.items():
        heads = _permuted_heads(config, name)
        readers[_hugging_face_name(name, path, config)] = partial(
            _read_tensor, path, tensor, heads
        )
    license_name = str(fields.get("general.license", "unknown"))
    bos = fields.get("tokenizer.ggml.bos_token_id")
    return Checkpoint(
        source=str(path),
        sha256=file_sha256(path),
        license=_LICENSES.get(license_name, license_name),
        config=config,
        weights=LazyWeights(readers),
        tokenizer_json=_tokenizer_json(path, fields["pre_tokenizer"]),
        chat_template=chat_template_name(fields.get("tokenizer.chat_template")),
        bos_token_id=int(bos)
        if bos is not None and fields.get("tokenizer.ggml.add_bos_token")
        else None,
        eos_token_id=eos_token_id,
        location=path,
    )


def _config(
    architecture: str, fields: Mapping[str, Any], tensors: Mapping[str, Any]
) -> DecoderConfig:
    """Read the shape of the decoder from the file's metadata."""

    def field(name: str) -> Any:
        return fields[f"{architecture}.{name}"]

    heads = int(field("attention.head_count"))
    hidden_size = int(field("embedding_length"))
    head_dim = int(fields.get(f"{architecture}.attention.key_length", hidden_size // heads))
    gemma = architecture == "gemma3"
    layers = int(field("block_count"))
    return DecoderConfig(
        architecture=architecture,
        layers=layers,
        hidden_size=hidden_size,
        intermediate_size=int(field("feed_forward_length")),
        attention_heads=heads,
        key_value_heads=int(field("attention.head_count_kv")),
        head_dim=head_dim,
        vocab_size=int(tensors["token_embd.weight"].shape[1]),
        context_length=int(field("context_length")),
        rope_theta=float(fields.get(f"{architecture}.rope.freq_base", 10000.0)),
        norm_epsilon=float(field("attention.layer_norm_rms_epsilon")),
        tied_embedding="output.weight" not in tensors,
        attention_bias="blk.0.attn_q.bias" in tensors,
        head_norm="blk.0.attn_q_norm.weight" in tensors,
        sandwich_norms=gemma,
        gelu=gemma,
        scaled_embedding=gemma,
        windows=gemma3_windows(layers, int(field("attention.sliding_window"))) if gemma else (),
        local_rope_theta=float(fields.get("gemma3.rope.freq_base_swa", _GEMMA3_LOCAL_THETA))
        if gemma
        else 0.0,
    )


def _hugging_face_name(name: str, path: Path, config: DecoderConfig) -> str:
    """Translate a GGUF tensor name."""
    if name in _NAMES:
        return _NAMES[name]
    block, _, leaf = name.removeprefix("blk.").partition(".")
    module, _, kind = leaf.rpartition(".")
    names = {**_BLOCK_NAMES, "ffn_norm": config.feed_forward_norm}
    if not name.startswith("blk.") or module not in names:
        raise CheckpointError(f"{path}: the tensor {name} is not one of a supported architecture")
    return f"model.layers.{block}.{names[module]}.{kind}"


def _permuted_heads(config: DecoderConfig, name: str) -> int:
    """Heads of a weight that llama.cpp stores with its rotary pairs side by side, else 0."""
    if config.architecture != "llama":
        return 0
    if ".attn_q." in name:
        return config.attention_heads
    return config.key_value_heads if ".attn_k." in name else 0


def _read_tensor(path: Path, tensor: Any, permuted_heads: int) -> torch.Tensor:
    """Dequantize a tensor, and undo llama.cpp's order of the rotary pairs (0, d/2, 1, …)."""
    try:
        weight = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: the tensor {tensor.name} is of type {tensor.tensor_type.name}, which the "
            f"package gguf cannot read; use a GGUF of another quantization"
        ) from error
    if permuted_heads:
        pairs = weight.unflatten(0, (permuted_heads, -1, 2))  # [heads, dim / 2, 2, …]
        weight = pairs.transpose(1, 2).flatten(0, 2).contiguous()
    return weight


def _tokenizer_json(path: Path, pre_tokenizer: str | None) -> str:
    """Convert the file's tokenizer to a ``tokenizer.json``."""
    from transformers import AutoTokenizer

    with damaged(path, *_READ_ERRORS):
        tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    if pre_tokenizer == "smollm":
        # transformers drops the split into single digits that SmolLM was trained with.
        description["pre_tokenizer"] = {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                description["pre_tokenizer"],
            ],
        }
    return json.dumps(description, ensure_ascii=False, separators=(",", ":"))
