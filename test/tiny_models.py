"""Small random language models in the checkpoint formats that the package reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tokenizers
import torch
import transformers
import yaml

from quant_llm_ros.engine.bundle import Bundle
from quant_llm_ros.quantize.build import build_bundle
from quant_llm_ros.quantize.recipe import Recipe
from quant_llm_ros.quantize.reference import SENTENCES

EOS = "<|im_end|>"
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", EOS]
CONTEXT_LENGTH = 256
SKILLS = Path(__file__).parent.parent / "config" / "skills" / "service_robot.yaml"
# A small registry: few tokens, for the context of a tiny model.
CART_SKILLS = """
version: 1
name: cart
skills:
  go_to:
    description: drive to a place
    arguments:
      place: {type: place}
    examples:
      - {say: go to the dock, calls: go_to(place=dock)}
      - {say: drive to the gate, calls: go_to(place=gate)}
  turn:
    description: turn
    arguments:
      direction: {type: choice, choices: [left, right]}
      angle: {type: quantity, unit: deg, required: false}
    examples:
      - {say: turn left, calls: turn(direction=left)}
  stop:
    description: stop
not_commands: [how are you]
"""

_SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT_LENGTH,
    # Large weights, so that the next tokens' probabilities differ as in a trained model.
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": None,
}
_CONFIGS: dict[str, Any] = {
    "llama": transformers.LlamaConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
    "gemma3": transformers.Gemma3TextConfig,
    "gpt2": transformers.GPT2Config,
}


# A window that the reference prompts exceed, and a scale that is not that of the head's width.
GEMMA3: dict[str, Any] = {
    "head_dim": 32,
    "sliding_window": 12,
    "query_pre_attn_scalar": 24,
    "layer_types": ["sliding_attention", "full_attention"],
}


def make_tokenizer(vocab_size: int) -> tokenizers.Tokenizer:
    """Train a byte-level BPE tokenizer on the reference sentences."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def make_folder(
    folder: Path, architecture: str = "llama", *, vocab_size: int = 320, **changes: Any
) -> Path:
    """Write a random model as a Hugging Face folder.

    Args:
        folder: Where; it is made.
        architecture: ``llama``, ``qwen2``, ``qwen3``, ``gemma3``, or ``gpt2``, which is not
            supported.
        vocab_size: At least 300.
        changes: Other settings of the configuration.
    """
    settings = {**_SHAPE, "vocab_size": vocab_size, "tie_word_embeddings": True, **changes}
    torch.manual_seed(7)
    config = _CONFIGS[architecture](**settings)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms and biases start as ones and zeros, which hide errors
                parameter += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer = make_tokenizer(vocab_size)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": "{{ '<|im_start|>' }}", "eos_token": EOS})
    )
    return folder


def make_gguf(path: Path, folder: Path, architecture: str = "llama") -> Path:
    """Write the Llama or Gemma 3 model of a folder as GGUF, in llama.cpp's order."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    gemma = architecture == "gemma3"
    rope = config.rope_parameters["full_attention"] if gemma else config.rope_parameters
    writer.add_rope_freq_base(rope["rope_theta"])
    if gemma:
        writer.add_key_length(config.head_dim)
        writer.add_sliding_window(config.sliding_window)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_license("mit")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokens = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL_TOKENS else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(tokens.index(EOS))
    kind = gguf.MODEL_ARCH.GEMMA3 if gemma else gguf.MODEL_ARCH.LLAMA
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        array = parameter.detach().numpy()
        if gemma:  # llama.cpp's converter adds the 1 of the norms
            array = array + 1 if name.endswith("norm.weight") else array
            writer.add_tensor(names.get_name(name, (".weight",)), array)
            continue
        for part, heads in (
            ("q_proj", config.num_attention_heads),
            ("k_proj", config.num_key_value_heads),
        ):
            if part in name:
                halves = array.reshape(heads, 2, -1, array.shape[1])
                array = halves.swapaxes(1, 2).reshape(array.shape)
        writer.add_tensor(names.get_name(name, (".weight",)), np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def recipe_text(model: Path, **changes: Any) -> str:
    """Write a recipe for a checkpoint; ``changes`` replaces top-level keys."""
    settings: dict[str, Any] = {
        "name": "tiny",
        "checkpoint": {"path": str(model)},
        "quantize": {"method": "uniform", "bits": 4, "block": 32},
        "context_length": CONTEXT_LENGTH,
    }
    return yaml.safe_dump({**settings, **changes}, sort_keys=False)


def build_tiny(folder: Path, model: Path, name: str = "bundle", **changes: Any) -> Bundle:
    """Build a bundle of a tiny checkpoint."""
    path = folder / f"{name}.yaml"
    path.write_text(recipe_text(model, **changes))
    return build_bundle(
        Recipe.load(path), folder / name, skills=SKILLS, progress=lambda stage, part: None
    )
