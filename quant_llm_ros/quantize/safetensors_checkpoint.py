"""Checkpoints as Hugging Face folders: config.json, *.safetensors, tokenizer.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors
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

_READ_ERRORS = (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError)


def read(folder: Path) -> Checkpoint:
    """Open a Hugging Face folder.

    Raises:
        CheckpointError: A file is missing or damaged, or the architecture is not supported.
    """
    settings = _json(folder / "config.json")
    kind = settings.get("model_type")
    # Gemma 3 with pictures, which is not supported, is called gemma3.
    name = {"gemma3_text": "gemma3", "gemma3": "gemma3 with pictures"}.get(str(kind), kind)
    architecture = check_architecture(name, folder / "config.json")
    readers: dict[str, Callable[[], torch.Tensor]] = {}
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with damaged(path, *_READ_ERRORS), safetensors.safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                readers[name] = partial(_read_tensor, path, name)
        digest.update(f"{path.name} {file_sha256(path)}\n".encode())
    with damaged(folder / "config.json", *_READ_ERRORS):
        config = _config(architecture, settings, folder)
        if architecture == "gemma3":
            readers = _common_form(readers, config, settings)
    tokenizer_settings = _json(folder / "tokenizer_config.json", required=False)
    tokenizer_json = _text(folder / "tokenizer.json")
    return Checkpoint(
        source=str(folder),
        sha256=digest.hexdigest(),
        license="unknown",
        config=config,
        weights=LazyWeights(readers),
        tokenizer_json=tokenizer_json,
        chat_template=chat_template_name(_chat_template(folder, tokenizer_settings)),
        bos_token_id=settings.get("bos_token_id")
        if tokenizer_settings.get("add_bos_token")
        else None,
        eos_token_id=_eos_token_id(folder, settings),
        location=folder,
    )


def _config(architecture: str, settings: Mapping[str, Any], folder: Path) -> DecoderConfig:
    """Read the shape of the decoder from config.json, of transformers 4 or 5."""
    gemma = architecture == "gemma3"
    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    local: Mapping[str, Any] = {}
    if gemma and "full_attention" in rope:
        rope, local = rope["full_attention"], rope["sliding_attention"]
    for part in (rope, local):
        rope_type = part.get("rope_type", part.get("type", "default"))
        if rope_type != "default":
            raise CheckpointError(
                f"{folder}: rotary embeddings of type {rope_type!r} are not supported"
            )
    key, expected = ("hidden_activation", "gelu_pytorch_tanh") if gemma else ("hidden_act", "silu")
    if settings.get(key, expected) != expected:
        raise CheckpointError(f"{folder}: the activation {settings[key]!r} is no {expected}")
    for name in (
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "use_bidirectional_attention",
    ):
        if gemma and settings.get(name):
            raise CheckpointError(f"{folder}: {name} is not supported")
    if settings.get("use_sliding_window"):
        raise CheckpointError(f"{folder}: sliding window attention is not supported")
    if settings.get("mlp_bias") or (architecture != "qwen2" and settings.get("attention_bias")):
        raise CheckpointError(f"{folder}: biases are supported in Qwen2's attention only")
    heads = int(settings["num_attention_heads"])
    hidden_size = int(settings["hidden_size"])
    return DecoderConfig(
        architecture=architecture,
        layers=int(settings["num_hidden_layers"]),
        hidden_size=hidden_size,
        intermediate_size=int(settings["intermediate_size"]),
        attention_heads=heads,
        key_value_heads=int(settings.get("num_key_value_heads") or heads),
        head_dim=int(settings.get("head_dim") or hidden_size // heads),
        vocab_size=int(settings["vocab_size"]),
        context_length=int(settings["max_position_embeddings"]),
        rope_theta=float(
            rope.get("rope_theta") or settings.get("rope_theta") or (1e6 if gemma else 1e4)
        ),
        norm_epsilon=float(settings["rms_norm_eps"]),
        tied_embedding=bool(settings.get("tie_word_embeddings", gemma)),
        attention_bias=architecture == "qwen2",
        head_norm=architecture in ("qwen3", "gemma3"),
        sandwich_norms=gemma,
        gelu=gemma,
        scaled_embedding=gemma,
        windows=_windows(settings) if gemma else (),
        local_rope_theta=float(
            local.get("rope_theta") or settings.get("rope_local_base_freq") or 1e4
        )
        if gemma
        else 0.0,
    )


def _windows(settings: Mapping[str, Any]) -> tuple[int, ...]:
    """Tokens that each layer of a Gemma 3 looks back at, 0 for all of them."""
    layers, window = int(settings["num_hidden_layers"]), int(settings["sliding_window"])
    kinds = settings.get("layer_types")
    if kinds is None:
        pattern = int(settings.get("sliding_window_pattern") or 6)
        return gemma3_windows(layers, window, pattern)
    return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)


def _common_form(
    readers: Mapping[str, Callable[[], torch.Tensor]],
    config: DecoderConfig,
    settings: Mapping[str, Any],
) -> dict[str, Callable[[], torch.Tensor]]:
    """Give Gemma 3 the norms of the others: their weight is the factor, here it is 1 more.

    The scale of its attention need not be that of the head's width; the rest goes into the norm of
    the queries, which multiplies them by a factor anyway.
    """
    scalar = float(settings.get("query_pre_attn_scalar") or 256)
    rest = (config.head_dim / scalar) ** 0.5

    def changed(read: Callable[[], torch.Tensor], factor: float) -> torch.Tensor:
        return (read() + 1.0) * factor

    return {
        name: partial(changed, read, rest if name.endswith("q_norm.weight") else 1.0)
        if name.endswith("norm.weight")
        else read
        for name, read in readers.items()
    }


def _read_tensor(path: Path, name: str) -> torch.Tensor:
    """Read one tensor as float32."""
    with damaged(path, *_READ_ERRORS), safetensors.safe_open(path, framework="pt") as file:
        tensor: torch.Tensor = file.get_tensor(name)
    return tensor.to(torch.float32)


def _eos_token_id(folder: Path, settings: Mapping[str, Any]) -> int:
    """Token that ends an answer: generation_config.json knows it better than config.json."""
    generation = _json(folder / "generation_config.json", required=False)
    eos = generation.get("eos_token_id", settings.get("eos_token_id"))
    if isinstance(eos, list) and eos:
        eos = eos[0]
    if not isinstance(eos, int):
        raise CheckpointError(f"{folder / 'config.json'}: eos_token_id is missing")
    return eos


def _chat_template(folder: Path, tokenizer_settings: Mapping[str, Any]) -> str | None:
    """Chat template, from its own file or from tokenizer_config.json."""
    path = folder / "chat_template.jinja"
    if path.exists():
        return _text(path)
    template = tokenizer_settings.get("chat_template")
    return template if isinstance(template, str) else None


def _text(path: Path) -> str:
    """Read a text file of the folder."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    with damaged(path, *_READ_ERRORS):
        return path.read_text(encoding="utf-8")


def _json(path: Path, *, required: bool = True) -> Mapping[str, Any]:
    """Read a JSON object of the folder; an optional file that is missing is empty."""
    if not required and not path.exists():
        return {}
    with damaged(path, *_READ_ERRORS):
        value = json.loads(_text(path))
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} does not hold a JSON object")
    return value
