"""A bundle's graph in the folder that onnxruntime-genai loads; same nodes, same weights."""

from __future__ import annotations

import json
from pathlib import Path
import shutil
from typing import Any

import onnx
from onnx import helper, TensorProto

from quant_llm_ros.engine.bundle import Bundle, MODEL, TOKENIZER
from quant_llm_ros.errors import BundleError

CONFIG = "genai_config.json"
_LAST = "logits_of_the_last"


def write_genai(bundle: Bundle, folder: Path, *, threads: int) -> None:
    """Write the folder; an unfinished one has no ``genai_config.json``.

    The graph computes the logits of the last new token, which is all that onnxruntime-genai reads,
    and is otherwise the bundle's. The session has the bundle's setting for INT8 activations; the
    other settings are onnxruntime-genai's own.

    Args:
        bundle: Of target ``ort``.
        folder: Where; it is made.
        threads: CPU threads of a pass.

    Raises:
        BundleError: The bundle is for another runtime.
    """
    if bundle.target != "ort":
        raise BundleError(f"{bundle.path} is of target {bundle.target}; a peer needs target ort")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    model = onnx.load(str(bundle.file(MODEL)), load_external_data=False)
    _only_the_last_logits(model.graph, bundle.model.vocab_size)
    onnx.save(model, str(folder / MODEL))
    for name in {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }:
        (folder / name).unlink(missing_ok=True)
        # No hard link: onnx refuses to read weights that have several.
        shutil.copyfile(bundle.file(name), folder / name)
    shutil.copyfile(bundle.file(TOKENIZER), folder / TOKENIZER)
    # Its tokenizer, which its guidance needs, reads this file; the prompts come as tokens.
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"})
    )
    text = json.dumps(_config(bundle, threads), indent=1)
    (folder / CONFIG).write_text(text + "\n")


def _only_the_last_logits(graph: Any, vocab_size: int) -> None:
    """Give the graph the inputs and outputs that onnxruntime-genai knows."""
    inputs = [value for value in graph.input if value.name != "logit_positions"]
    del graph.input[:]
    graph.input.extend(inputs)
    for name, number in ((f"{_LAST}.minus_one", -1), (f"{_LAST}.axis", 0)):
        graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [1], [number]))
    for node in graph.node:
        for index, output in enumerate(node.output):
            if output == "logits":
                node.output[index] = _LAST
    nodes = [
        helper.make_node("Shape", ["input_ids"], [f"{_LAST}.count"], start=1, end=2),
        helper.make_node("Add", [f"{_LAST}.count", f"{_LAST}.minus_one"], ["logit_positions"]),
        *graph.node,
        helper.make_node("Unsqueeze", [_LAST, f"{_LAST}.axis"], ["logits"]),
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    for value in graph.output:
        if value.name == "logits":
            value.CopyFrom(
                helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1, vocab_size])
            )


def _config(bundle: Bundle, threads: int) -> dict[str, Any]:
    model = bundle.model
    return {
        "model": {
            "type": "llama",
            "bos_token_id": model.eos_token_id,
            "eos_token_id": model.eos_token_id,
            "pad_token_id": model.eos_token_id,
            "context_length": model.context_length,
            "vocab_size": model.vocab_size,
            "decoder": {
                "filename": MODEL,
                "head_size": model.head_dim,
                "hidden_size": model.hidden_size,
                "num_attention_heads": model.attention_heads,
                "num_key_value_heads": model.key_value_heads,
                "num_hidden_layers": model.layers,
                "session_options": {
                    "intra_op_num_threads": threads,
                    "log_id": "onnxruntime-genai",
                    "provider_options": [],
                    "session.qdq_matmulnbits_accuracy_level": "4",
                },
                "inputs": {
                    "input_ids": "input_ids",
                    "past_key_names": "past_key_%d",
                    "past_value_names": "past_value_%d",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present_key_%d",
                    "present_value_names": "present_value_%d",
                },
            },
        },
        "search": {
            "do_sample": False,
            "max_length": model.context_length,
            "num_beams": 1,
            # The graph makes a new, longer cache in each pass, as for the bundle's own engine.
            "past_present_share_buffer": False,
        },
    }
