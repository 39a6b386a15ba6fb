"""Reference prompts, and how far one model's logits are from another's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import safetensors
import tokenizers
import torch
from torch import Tensor

from quant_llm_ros.quantize.calibration import Passages
from quant_llm_ros.quantize.checkpoint import Checkpoint, damaged
from quant_llm_ros.quantize.decoder import Decoder
from quant_llm_ros.quantize.recipe import Recipe

TextSource = Callable[[Path], Passages]
"""Makes commands with their answers, behind the prompt and tokenized as at run time, for a bundle
in the making, whose folder holds ``tokenizer.json`` and ``skills.yaml``."""

SENTENCES = (
    "Bring me the red cup from the kitchen.",
    "Go to the living room and wait for me there.",
    "Turn left by ninety degrees, then move two metres forward.",
    "Could you please follow my daughter to the garden?",
    "Take the book on the table and put it on the shelf.",
    "Look for my glasses in the bedroom.",
    "Switch off the lamp next to the sofa.",
    "Open the door of the fridge and bring the milk.",
    "How much battery do you have left?",
    "What is the weather like on Mars?",
)

_TEMPLATE = (
    "<|im_start|>system\n"
    "You turn what people say to a robot into calls of its skills.<|im_end|>\n"
    "<|im_start|>user\n{sentence}<|im_end|>\n"
    "<|im_start|>assistant\n"
)


def prompts(checkpoint: Checkpoint) -> list[list[int]]:
    """Tokenize the reference sentences, each in a ChatML conversation."""
    tokenizer = tokenizers.Tokenizer.from_str(checkpoint.tokenizer_json)
    return [tokenizer.encode(_TEMPLATE.format(sentence=text)).ids for text in SENTENCES]


def passages(
    recipe: Recipe, checkpoint: Checkpoint, folder: Path, source: TextSource | None
) -> Passages:
    """Make the texts on which models are compared: commands with their answers, behind the prompt.

    Args:
        recipe: Whose context has to hold them.
        checkpoint: Has the tokenizer.
        folder: Of the bundle.
        source: Makes commands; None, or where they do not fit: the sentences above.
    """
    if source is not None:
        made = source(folder)
        if made.texts and len(made.prefix) + max(map(len, made.texts)) <= recipe.context_length:
            return made
    return Passages((), [ids[: recipe.context_length] for ids in prompts(checkpoint)])


def passages_logits(decoder: Decoder, texts: Passages) -> list[Tensor]:
    """Compute the logits of all positions behind the prefix, float32 ``[n, vocab]`` per text."""
    with torch.inference_mode():
        cache = None
        if texts.prefix:
            _, cache = decoder(torch.tensor(list(texts.prefix)), None, torch.tensor([0]))
        return [decoder(torch.tensor(list(text)), cache)[0] for text in texts.texts]


def decoder_logits(decoder: Decoder, prompt: Sequence[int]) -> Tensor:
    """Compute the logits of all positions, float32 ``[n, vocab]``."""
    with torch.inference_mode():
        logits: Tensor = decoder(torch.tensor(prompt))[0]
    return logits


def load_transformers(location: Path, layers: int | None = None) -> Any:
    """Load a checkpoint with Hugging Face transformers, in FP32.

    Args:
        location: GGUF file or Hugging Face folder.
        layers: Load only so many layers; None: all.

    Raises:
        CheckpointError: transformers cannot load it.
    """
    import transformers

    folder = location
    names: dict[str, Any] = {}
    if location.is_file():
        folder, names = location.parent, {"gguf_file": location.name}
    errors = (OSError, ValueError, KeyError, RuntimeError)
    with damaged(location, *errors), _quiet_loading(layers):
        config = transformers.AutoConfig.from_pretrained(
            str(folder), local_files_only=True, **names
        )
        path: Path | None = folder
        if layers is not None:
            config.num_hidden_layers = layers
            if getattr(config, "layer_types", None):
                config.layer_types = config.layer_types[:layers]
            if folder == location:
                path, names = None, {"state_dict": _first_layers(folder, layers)}
        kind = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        return kind.from_pretrained(
            path, config=config, dtype=torch.float32, local_files_only=True, **names
        )


def _first_layers(folder: Path, layers: int) -> dict[str, Tensor]:
    """Read what the first layers need from a folder, where transformers maps all files at once."""
    weights = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safetensors.safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                layer = name.partition(".layers.")[2].partition(".")[0]
                if not layer or int(layer) < layers:
                    weights[name] = file.get_tensor(name).float()
    return weights


def transformers_logits(
    location: Path, token_lists: Sequence[Sequence[int]], layers: int | None = None
) -> Iterator[Tensor]:
    """Compute the logits of all positions with Hugging Face transformers.

    Args:
        location: GGUF file or Hugging Face folder.
        token_lists: The prompts.
        layers: Use only so many layers, behind which the last norm and the head follow; None: all.

    Yields:
        Float32 ``[n, vocab]`` for each prompt.

    Raises:
        CheckpointError: transformers cannot load it.
    """
    model = load_transformers(location, layers)
    for tokens in token_lists:
        with torch.inference_mode():
            logits: Tensor = model(torch.tensor([list(tokens)])).logits[0]
        yield logits


@contextlib.contextmanager
def _quiet_loading(layers: int | None) -> Iterator[None]:
    """Keep transformers from drawing bars of its own into the build's, and from reading too much.

    Its GGUF loader unpacks all tensors, and what it is told about bars is all that it asks. So
    the place of the bar also says which tensors are read.

    Args:
        layers: As for :func:`load_transformers`.
    """
    from transformers import modeling_gguf_pytorch_utils as gguf_loader
    from transformers.utils import logging

    def wanted(tensor: Any) -> bool:
        block = str(tensor.name).removeprefix("blk.").partition(".")[0]
        return layers is None or not block.isdigit() or int(block) < layers

    shown, bar = logging.is_progress_bar_enabled(), gguf_loader.tqdm
    level = logging.get_verbosity()
    logging.disable_progress_bar()
    if layers is not None:
        logging.set_verbosity_error()  # it tells of every weight that is left out
    gguf_loader.tqdm = lambda items, **_: [item for item in items if wanted(item)]
    try:
        yield
    finally:
        gguf_loader.tqdm = bar
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def relative_error(logits: Tensor, expected: Tensor) -> float:
    """Largest difference of a logit, divided by the largest expected logit."""
    return float((logits - expected).abs().max() / expected.abs().max())


@dataclasses.dataclass(frozen=True)
class Divergence:
    """How much quantization changed the distribution of the next token.

    Attributes:
        kl_nats: Mean Kullback-Leibler divergence from the unquantized model, in nats.
        top1_agreement: Share of positions where the most likely token is the same, 0 to 1.
    """

    kl_nats: float
    top1_agreement: float


def divergence(logits: Sequence[Tensor], expected: Sequence[Tensor]) -> Divergence:
    """Compare next-token distributions over all positions of all prompts.

    Args:
        logits: Of the quantized model, ``[n, vocab]`` for each prompt.
        expected: Of the unquantized model.
    """
    total, same, positions = 0.0, 0, 0
    for quantized, full in zip(logits, expected, strict=True):
        log_q, log_p = quantized.log_softmax(-1), full.log_softmax(-1)
        total += float((log_p.exp() * (log_p - log_q)).sum())
        same += int((quantized.argmax(-1) == full.argmax(-1)).sum())
        positions += len(full)
    return Divergence(total / positions, same / positions)
