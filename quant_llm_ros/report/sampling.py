"""Takes what the pictures show out of a model: real weights, activations and errors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tokenizers
import torch

from quant_llm_ros.errors import CheckpointError
from quant_llm_ros.quantize.recipe import Recipe
from quant_llm_ros.report.loading import Unquantized
from quant_llm_ros.report.samples import clusters, Floats, Granularity, relative_error, Samples

_MOST = 2_000_000  # weights, which is more than a picture shows


def take_samples(recipe: Recipe, source_sha256: str, progress: Callable[[float], None]) -> Samples:
    """Load a recipe's unquantized model and take what the pictures show.

    Args:
        recipe: Of the bundle that the page is about.
        source_sha256: Of the checkpoint that the bundle was made from.
        progress: Told the share that is done.

    Raises:
        CheckpointError: The recipe's checkpoint is another one.
    """
    model = Unquantized.load(recipe)
    if model.checkpoint.sha256 != source_sha256:
        raise CheckpointError(
            f"{recipe.file} is about {model.checkpoint.source}, but the bundle was made from "
            "another checkpoint; give the bundle's own recipe by --recipe"
        )
    progress(0.2)
    config = model.decoder.config
    layer = f"model.layers.{config.layers // 2}.mlp.down_proj.weight"
    weight = model.decoder.get_parameter(layer).data
    values = weight.flatten().double().numpy()
    # The largest decides the range, so it must be among those that are looked at.
    looked_at = np.append(values[:: -(-len(values) // _MOST)], values[np.abs(values).argmax()])
    tokens, ranges = _ranges(model, layer.removesuffix(".weight"))
    progress(0.4)
    kinds, errors = _errors(model, recipe, lambda part: progress(0.4 + 0.6 * part))
    return Samples(
        layer=layer,
        weights=looked_at,
        granularities=_granularities(weight),
        centres=clusters(looked_at, 16),
        tokens=tokens,
        ranges=ranges,
        rows=tuple(range(config.layers)),
        kinds=kinds,
        errors=errors,
    )


def _granularities(weight: torch.Tensor) -> tuple[Granularity, ...]:
    """Measure what 4 bits cost with a scale for the matrix, a row, and blocks of a row."""
    values = weight.double()
    inputs = values.shape[1]
    sizes = [("the matrix", values.numel()), ("a row", inputs)]
    sizes += [(f"{block} weights", block) for block in (128, 64, 32, 16) if inputs % block == 0]
    found = []
    for name, size in sizes:
        blocks = values.reshape(-1, size)
        step = (blocks.abs().amax(1, keepdim=True) / 7).clamp_min(1e-300)
        rounded = (blocks / step).round().clamp(-8, 7) * step
        found.append(Granularity(name, size, relative_error(blocks.numpy(), rounded.numpy())))
    return tuple(found)


def _ranges(model: Unquantized, module: str) -> tuple[tuple[str, ...], Floats]:
    """Run a real command and give its tokens and each one's largest input of a matrix."""
    inputs: list[torch.Tensor] = []
    hook = model.decoder.get_submodule(module).register_forward_pre_hook(
        lambda _module, given: inputs.append(given[0])
    )
    prompt = model.prompts[0]
    with torch.inference_mode():
        model.decoder(torch.tensor(prompt))
    hook.remove()
    tokenizer = tokenizers.Tokenizer.from_str(model.checkpoint.tokenizer_json)
    names = [tokenizer.decode([token], skip_special_tokens=False) for token in prompt]
    shown = tuple(name.replace("\n", "↵").strip() or "·" for name in names)
    return shown, inputs[0].abs().amax(-1).double().numpy()


def _errors(
    model: Unquantized, recipe: Recipe, progress: Callable[[float], None]
) -> tuple[tuple[str, ...], Floats]:
    """Quantize every matrix of every layer by the recipe and compare."""
    decoder = model.decoder
    names = [name for name in decoder.matrix_names() if name.startswith("model.layers.")]
    kinds = tuple(dict.fromkeys(name.split(".", 3)[3].removesuffix(".weight") for name in names))
    errors = np.full((decoder.config.layers, len(kinds)), np.nan)
    for number, name in enumerate(names):
        quantizer = recipe.quantizer(name)
        # A method that has to be shown text would need the whole build to say its error.
        if quantizer is not None and not getattr(quantizer, "needs_calibration", False):
            weight = decoder.get_parameter(name).data
            _, _, layer, kind = name.removesuffix(".weight").split(".", 3)
            rounded = quantizer(weight).dequantize()
            errors[int(layer), kinds.index(kind)] = float(
                (rounded - weight).norm() / weight.norm()
            )
        progress((number + 1) / len(names))
    return tuple(kind.split(".")[-1] for kind in kinds), errors
