"""Settings of a fine-tuning run, as a YAML file."""

from __future__ import annotations

import dataclasses
import difflib
import os
from pathlib import Path
from typing import Any

import yaml

from quant_llm_ros.errors import RecipeError

SIMULATIONS = ("rounding", "ste", "lsq", "frozen")
TRAINED = ("adapter", "weights")


@dataclasses.dataclass(frozen=True)
class FinetuneSettings:
    """How to fine-tune.

    Attributes:
        recipe: Quantization recipe that the result will be quantized by; it names the checkpoint
            and, for the last part of the run, the rounding.
        seed: Of the generated sentences, the order and the adapter's first values.
        steps: Number of optimizer steps.
        group_size: Generated sentences in a step.
        human_share: Share of the steps that read human sentences, where some are given.
        human_from: Share of the steps after which they are read. The adapter as it is until then
            is kept in the folder ``before_human``, so that what the generated sentences alone
            give can be measured.
        human_varied: Share of them that are read with other names in the places of theirs
            (``varying.py``), anew each time.
        default_share: Share of the generated groups for the default registry.
        rank: Rank of the adapter (Hu et al. 2021, «LoRA», section 4.1).
        alpha: Scale of the adapter's update, times 1 / rank.
        learning_rate: Highest learning rate of AdamW.
        warmup: Share of the steps in which the rate rises; afterwards it falls as a cosine.
        rounding_from: Share of the steps after which weights are rounded as the recipe says;
            1 trains without rounding.
        refresh_every: Steps between two roundings; in between the weights drift off the grid.
        method: How rounding takes part: ``rounding`` (cheapest: renewed every ``refresh_every``
            steps), ``ste`` (in every step), ``lsq`` (with learned step sizes), or ``frozen``
            (weights are rounded once and the adapter stays beside them); see ``qat.py``.
        train: ``adapter``, or ``weights``: all matrices of the layers, with method ``ste`` or
            ``lsq``; what comes out is as large as they are in FP16. The adapter to begin with is
            merged into them.
        layerwise: How often each layer reads ``layerwise_groups`` generated groups before the
            steps begin, to learn by itself what the unquantized layer gives; 0: not at all. With
            method ``ste`` or ``lsq``.
        layerwise_groups: Number of these groups.
        layerwise_rate: Highest learning rate of AdamW there.
        on_top: The adapter to begin with is merged into the weights, and a fresh one is trained
            on top of it, which may have another rank; the recipe then names both. Otherwise the
            fresh one takes over its values.
        distill: Share of the loss that is the divergence from the unquantized model's answers,
            which are those of the checkpoint with the adapter to begin with; 0 to 1.
        held_out_groups: Generated groups, of another seed, on which the loss is reported.
        report_every: Steps between two reports and saved states.
    """

    recipe: Path
    seed: int = 1
    steps: int = 1500
    group_size: int = 16
    human_share: float = 0.15
    human_from: float = 0.0
    human_varied: float = 0.0
    default_share: float = 0.6
    rank: int = 16
    alpha: int = 32
    learning_rate: float = 5e-4
    warmup: float = 0.03
    rounding_from: float = 0.5
    refresh_every: int = 10
    method: str = "rounding"
    train: str = "adapter"
    layerwise: int = 0
    layerwise_groups: int = 40
    layerwise_rate: float = 3e-4
    on_top: bool = False
    distill: float = 0.0
    held_out_groups: int = 8
    report_every: int = 50

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FinetuneSettings:
        """Read settings.

        Raises:
            RecipeError: The file is missing or malformed; the message says where.
        """
        path = Path(path)
        try:
            document = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise RecipeError(f"{path}: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path}: not readable as YAML: {error}") from error
        if not isinstance(document, dict):
            raise RecipeError(f"{path}: must be a mapping of settings")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for key in document:
            if key not in fields:
                near = difflib.get_close_matches(str(key), fields, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(fields)}"
                raise RecipeError(f"{path}: unknown setting {key!r}; {hint}")
        if not isinstance(document.get("recipe"), str):
            raise RecipeError(f"{path}: recipe must name a quantization recipe")
        values: dict[str, Any] = {**document, "recipe": path.parent / document["recipe"]}
        for name, value in values.items():
            if name in ("method", "train"):
                words = SIMULATIONS if name == "method" else TRAINED
                if value not in words:
                    near = difflib.get_close_matches(str(value), words, n=1)
                    hint = (
                        f"did you mean {near[0]!r}?" if near else f"known are {', '.join(words)}"
                    )
                    raise RecipeError(f"{path}: unknown {name} {value!r}; {hint}")
            elif name != "recipe":
                values[name] = _number(value, type(fields[name].default), f"{path}: {name}")
        settings = cls(**values)
        for name in (
            "human_share",
            "human_from",
            "human_varied",
            "default_share",
            "warmup",
            "rounding_from",
            "distill",
        ):
            if not 0.0 <= getattr(settings, name) <= 1.0:
                raise RecipeError(f"{path}: {name} must be between 0 and 1")
        for name in (
            "steps",
            "group_size",
            "rank",
            "report_every",
            "held_out_groups",
            "refresh_every",
            "layerwise_groups",
        ):
            if getattr(settings, name) < 1:
                raise RecipeError(f"{path}: {name} must be at least 1")
        if settings.layerwise < 0 or settings.layerwise_rate <= 0:
            raise RecipeError(f"{path}: layerwise must be at least 0, and layerwise_rate above 0")
        whole = settings.train == "weights"
        for name, wanted in (("train: weights", whole), ("layerwise", settings.layerwise)):
            if wanted and settings.method not in ("ste", "lsq"):
                raise RecipeError(f"{path}: {name} needs method ste or lsq, not {settings.method}")
        idle = {
            "train: weights": ("on_top", "rank", "alpha") if whole else (),
            "layerwise: 0": () if settings.layerwise else ("layerwise_groups", "layerwise_rate"),
        }
        for why, names in idle.items():
            for name in names:
                if name in document:
                    raise RecipeError(f"{path}: {name} changes nothing with {why}; leave it out")
        return settings


def _number(value: Any, kind: type, where: str) -> Any:
    if kind is bool:
        if not isinstance(value, bool):
            raise RecipeError(f"{where} must be true or false")
        return value
    wanted = (int, float) if kind is float else (int,)
    if isinstance(value, bool) or not isinstance(value, wanted):
        raise RecipeError(f"{where} must be {'a number' if kind is float else 'a whole number'}")
    return kind(value)
