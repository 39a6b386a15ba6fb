"""From a recipe to a bundle: load, check, quantize, export, measure, write."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
import dataclasses
import datetime
import importlib.metadata
import math
from pathlib import Path
import resource
import shutil
import time
import types
from typing import Any

import numpy as np
import torch
import yaml

from quant_llm_ros.engine import bundle as layout
from quant_llm_ros.engine.bundle import Bundle, file_sha256
from quant_llm_ros.engine.onnxruntime_engine import OnnxRuntimeEngine
from quant_llm_ros.engine.selftest import self_test, time_engine
from quant_llm_ros.errors import BundleError, CheckpointError, EngineError, RecipeError
from quant_llm_ros.quantize import reference
from quant_llm_ros.quantize.adapter import Adapter
from quant_llm_ros.quantize.calibration import CommandSource, Passages, read_text
from quant_llm_ros.quantize.checkpoint import Checkpoint
from quant_llm_ros.quantize.decoder import Decoder
from quant_llm_ros.quantize.graph_run import check_graph, engine_error, HALF_LIMIT
from quant_llm_ros.quantize.graph_targets import export
from quant_llm_ros.quantize.layerwise import QuantizingSource, WeightLoader
from quant_llm_ros.quantize.recipe import CheckpointSource, Recipe
from quant_llm_ros.quantize.staging import staged_folder

Progress = Callable[[str, float], None]
"""Told the name of the present stage and the fraction of the whole build that is done."""

CheckedCheckpoints = MutableMapping[CheckpointSource, tuple[Checkpoint, float]]
"""Checkpoints that were read and compared with transformers, and the error that they had."""

_CHECKED_LAYERS = 4
_CHECKED_PROMPTS = 4
EXACT_LIMIT = 1e-4  # FP32 against FP32 of the same weights: what is left is rounding
# Where the inputs of layers are rounded, a sum in another order may end on the next code, and the
# error of one code, 1/127 of a token's largest input or 1/16 of an E4M3 number, goes through the
# layers behind it: up to 0.25 in the default model's (int8_smoothquant, one range for all tokens).
ROUNDED_INPUTS_LIMIT = 0.4


def build_bundle(
    recipe: Recipe,
    output: Path,
    *,
    skills: Path,
    progress: Progress,
    unquantized: Path | None = None,
    more_files: Mapping[str, Callable[[Path], None]] = types.MappingProxyType({}),
    commands: CommandSource | None = None,
    texts: reference.TextSource | None = None,
    checked: CheckedCheckpoints | None = None,
) -> Bundle:
    """Make a bundle, layer by layer: the model need not fit into memory.

    The same recipe gives the same model, weights and tokenizer, byte for byte.

    Args:
        recipe: What to make.
        output: Folder of the bundle; an older bundle there is replaced at the end.
        skills: Skill registry that goes into the bundle.
        progress: Told about stages.
        unquantized: Folder for a bundle of the same weights in FP32, to compare with; None: none.
        more_files: What else belongs to the bundle: for the name of each file, what writes it.
        commands: Makes the commands that the recipe's method is calibrated with.
        texts: Makes the commands that the bundle is compared on with the unquantized model, and
            that become its reference; None: sentences that are always there.
        checked: For a program that builds several bundles while no checkpoint changes: what was
            read and checked before, to which this build's checkpoint is added.

    Returns:
        The bundle, its files checked.

    Raises:
        RecipeError: The recipe does not fit the checkpoint.
        CheckpointError: The checkpoint is damaged, or our decoder does not reproduce it.
        BundleError: The folder cannot be written.
        EngineError: The exported model does not compute what it should.
    """
    started = time.perf_counter()
    if not skills.is_file():
        raise BundleError(f"the skill registry {skills} does not exist")
    with staged_folder(output) as folder:
        progress("reading the checkpoint", 0.0)
        known = checked.get(recipe.checkpoint) if checked else None
        checkpoint = known[0] if known else recipe.checkpoint.open()
        _check_recipe(recipe, checkpoint)
        (folder / layout.TOKENIZER).write_text(checkpoint.tokenizer_json, encoding="utf-8")
        shutil.copyfile(skills, folder / layout.SKILLS)
        for name, write in more_files.items():
            write(folder / name)

        adapter = Adapter.load_all(recipe.adapters)
        if adapter and unquantized is not None:
            adapter.need_comparable(f"{recipe.file}: accuracy.unquantized")
        correction = Adapter.load(recipe.correction) if recipe.correction else None
        load = _loader(checkpoint, adapter)
        compared = reference.passages(recipe, checkpoint, folder, texts)
        passages = _passages(recipe, folder, commands)
        progress("checking the decoder", 0.1)
        error = known[1] if known else _check_decoder(checkpoint)
        if checked is not None:
            checked[recipe.checkpoint] = checkpoint, error
        figures: dict[str, Any] = {"decoder_relative_error": error}

        decoder = Decoder(checkpoint.config).eval()
        weights = QuantizingSource(
            decoder, recipe, passages, correction, load=load, reference=compared
        )
        without_kernel = export(
            checkpoint.config,
            weights,
            folder / layout.MODEL,
            context_length=recipe.context_length,
            progress=lambda part: progress("quantizing and exporting", 0.2 + 0.5 * part),
            target=recipe.target,
        )
        progress("computing the reference", 0.7)
        expected, logits = weights.logits()
        _write_reference(folder / layout.REFERENCE, compared, logits)
        change = reference.divergence(logits, expected)
        if unquantized is not None:
            progress("writing the unquantized model", 0.75)
            for name in (layout.TOKENIZER, layout.SKILLS):
                shutil.copyfile(folder / name, unquantized / name)
            _write_unquantized(load, unquantized / layout.MODEL, recipe, checkpoint)
            _write_reference(unquantized / layout.REFERENCE, compared, expected)
            parts = _description(recipe, checkpoint, adapter, 0, unquantized, ())
            _write_description(unquantized, {**parts, "target": "ort"})
        del expected

        progress("measuring the engine", 0.85)
        parameters = weights.parameters
        description = _description(recipe, checkpoint, adapter, parameters, folder, more_files)
        _write_description(folder, description)
        if recipe.target == "ort":
            limit = ROUNDED_INPUTS_LIMIT if recipe.activations else EXACT_LIMIT
            figures |= _engine_figures(Bundle.load(folder, verify=False), compared, logits, limit)
        else:
            # The engine is built on the device; what FP16 costs can be measured here.
            limit = ROUNDED_INPUTS_LIMIT if recipe.activations else HALF_LIMIT
            change_of_graph = check_graph(
                folder / layout.MODEL, recipe.target, compared, logits, limit
            )
            if change_of_graph is not None:
                figures["export_relative_error"] = change_of_graph
                figures["engine_relative_error"] = change_of_graph
        if not (adapter and adapter.whole):
            figures["kl_divergence_nats"] = change.kl_nats
            figures["top1_agreement"] = change.top1_agreement
        size = sum(path.stat().st_size for path in folder.iterdir())
        figures |= {
            "bits_per_weight": weights.bits / parameters,
            "weights_without_kernel": without_kernel,
            "size_mb": size / 1e6,
            "build_s": time.perf_counter() - started,
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        }
        description["figures"] = {name: _rounded(value) for name, value in figures.items()}
        _write_description(folder, description)
    progress("checking the files", 0.98)
    finished = Bundle.load(output)
    progress("done", 1.0)
    return finished


def _loader(checkpoint: Checkpoint, adapter: Adapter | None) -> WeightLoader:
    """Give what loads a weight, with the adapter merged.

    Raises:
        CheckpointError: The adapter is of another model.
    """
    names = adapter.names if adapter else set()
    unknown = names - set(Decoder(checkpoint.config).matrix_names())
    if unknown:
        raise CheckpointError(
            f"the adapter changes {min(unknown)}, which the checkpoint lacks: it was "
            f"trained for another model"
        )

    def load(decoder: Decoder, name: str) -> None:
        checkpoint.load(decoder, name)
        if adapter and name in names:
            weight = decoder.get_parameter(name).data
            decoder.set_weight(name, adapter.merge(name, weight))

    return load


def _write_unquantized(
    load: WeightLoader, path: Path, recipe: Recipe, checkpoint: Checkpoint
) -> None:
    """Write the graph with the weights as they are."""

    def weight(name: str) -> torch.Tensor:
        decoder = Decoder(checkpoint.config)
        load(decoder, name)
        value: torch.Tensor = decoder.get_parameter(name).data
        return value

    export(
        checkpoint.config,
        weight,
        path,
        context_length=recipe.context_length,
        progress=lambda part: None,
    )


def _passages(recipe: Recipe, folder: Path, commands: CommandSource | None) -> list[Passages]:
    """Make the calibration text of a recipe that needs some.

    Raises:
        RecipeError: It wants commands, and nobody makes them.
    """
    settings = recipe.calibration
    if not recipe.needs_calibration:
        return []
    passages = read_text(settings, folder / layout.TOKENIZER)
    if settings.commands and commands is None:
        raise RecipeError(
            f"{recipe.file}: its method is calibrated with generated commands; build it with "
            "`quant_llm quantize`, or set calibration.commands to 0 and give calibration.text"
        )
    if settings.commands and commands is not None:
        passages += commands(folder, settings)
    return passages


def _check_recipe(recipe: Recipe, checkpoint: Checkpoint) -> None:
    """Check what can only be known with the checkpoint at hand, before any work."""
    if recipe.context_length > checkpoint.config.context_length:
        raise RecipeError(
            f"{recipe.file}: context_length is {recipe.context_length}, but "
            f"{checkpoint.source} was trained for {checkpoint.config.context_length}"
        )
    recipe.check_patterns(Decoder(checkpoint.config).matrix_names())
    checkpoint.check_names()


def _check_decoder(checkpoint: Checkpoint) -> float:
    """Compare our decoder with transformers; the figure proves that we read the checkpoint.

    With the embedding, the first layers, the last norm and the head: all layers are read and
    computed by the same code, and the model need not fit into memory.
    """
    config = checkpoint.config
    # One layer of each kind has to be among them.
    kinds = [bool(config.window(i)) for i in range(config.layers)]
    layers = max(min(_CHECKED_LAYERS, config.layers), *(1 + kinds.index(kind) for kind in kinds))
    decoder = checkpoint.decoder(layers)
    prompts = reference.prompts(checkpoint)[:_CHECKED_PROMPTS]
    prompts = [prompt[: config.context_length] for prompt in prompts]
    logits = [reference.decoder_logits(decoder, prompt) for prompt in prompts]
    del decoder
    expected = reference.transformers_logits(checkpoint.location, prompts, layers)
    error = max(map(reference.relative_error, logits, expected))
    if not error <= EXACT_LIMIT:
        raise CheckpointError(
            f"{checkpoint.location}: our decoder's logits differ from transformers' by "
            f"{error:.1e} (limit {EXACT_LIMIT:.0e}); this checkpoint has something that is not "
            f"supported"
        )
    return error


def _engine_figures(
    bundle: Bundle,
    texts: Passages,
    logits: Sequence[torch.Tensor],
    limit: float,
) -> dict[str, float]:
    """Check the exported graph and time it."""
    exact = OnnxRuntimeEngine.load(bundle, exact=True)
    error = engine_error(exact, texts, logits)
    exact.close()
    if not error <= limit:
        raise EngineError(
            f"the exported model differs from the torch decoder by {error:.1e} "
            f"(limit {limit:.0e}) in FP32; this ONNX Runtime computes something else"
        )
    engine = OnnxRuntimeEngine.load(bundle)
    report = self_test(engine, bundle)
    if not report.passed:
        raise EngineError(
            f"the engine differs from the reference by {report.relative_error:.3f} "
            f"(limit {report.limit}) on prompt {report.worst_prompt}"
        )
    timings = time_engine(engine, bundle)
    engine.close()
    return {
        "export_relative_error": error,
        "engine_relative_error": report.relative_error,
        "load_ms": engine.info.load_ms,
        **dataclasses.asdict(timings),
    }


def _write_reference(path: Path, texts: Passages, logits: Sequence[torch.Tensor]) -> None:
    """Write the self-test's prompts and the logits of their last positions."""
    prompts = [[*texts.prefix, *text] for text in texts.texts]
    np.savez(
        path,
        tokens=np.concatenate([np.asarray(prompt, dtype=np.int32) for prompt in prompts]),
        offsets=np.cumsum([0, *map(len, prompts)], dtype=np.int64),
        logits=torch.stack([rows[-1] for rows in logits]).numpy(),
    )


def _description(
    recipe: Recipe,
    checkpoint: Checkpoint,
    adapter: Adapter | None,
    parameters: int,
    folder: Path,
    more_files: Collection[str],
) -> dict[str, Any]:
    """Describe the bundle, all but its figures."""
    config = dataclasses.asdict(checkpoint.config)
    copied = (
        "architecture",
        "layers",
        "hidden_size",
        "attention_heads",
        "key_value_heads",
        "head_dim",
        "vocab_size",
    )
    return {
        "format_version": layout.FORMAT_VERSION,
        "name": recipe.name,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "generator": _generator(),
        "model": {
            "source": checkpoint.source,
            "source_sha256": checkpoint.sha256,
            "license": checkpoint.license,
            **{name: config[name] for name in copied},
            "rope_thetas": checkpoint.config.rope_thetas(),
            "parameters": parameters,
            "context_length": recipe.context_length,
            "bos_token_id": checkpoint.bos_token_id,
            "eos_token_id": checkpoint.eos_token_id,
            "chat_template": checkpoint.chat_template,
        },
        "adapter_sha256": adapter.sha256 if adapter else None,
        "prompt": {"examples": recipe.prompt_examples},
        "target": recipe.target,
        "recipe": dict(recipe.settings),
        "skills": {"fixed": recipe.skills_fixed},
        "files": {
            name: {
                "sha256": file_sha256(folder / name),
                "bytes": (folder / name).stat().st_size,
            }
            for name in (*layout.REQUIRED_FILES, *more_files)
        },
        "figures": {},
    }


def _write_description(folder: Path, description: dict[str, Any]) -> None:
    text = yaml.safe_dump(description, sort_keys=False, allow_unicode=True)
    # PyYAML writes quotes around the colons of a time, which keeps it a string when read back.
    (folder / layout.DESCRIPTION).write_text(text, encoding="utf-8")


def _generator() -> str:
    """Name and version of this program."""
    try:
        return f"quant_llm_ros {importlib.metadata.version('quant_llm_ros')}"
    except importlib.metadata.PackageNotFoundError:
        return "quant_llm_ros (not installed)"


def _rounded(value: float) -> float:
    """Round to four significant digits: more is noise, and people read these."""
    if value == 0 or not math.isfinite(value):
        return value
    return float(f"{value:.4g}")
