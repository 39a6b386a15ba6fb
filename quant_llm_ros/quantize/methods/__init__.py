"""Quantization methods: one file per family, each a function from a weight to codes and scales.

A method's class has ``needs_calibration`` and is called with a weight and what calibration learnt
about the layer's inputs; see ``tensors.Quantizer``. Its line here gives it a name in recipes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from quant_llm_ros.errors import RecipeError
from quant_llm_ros.quantize.methods import (
    awq,
    binary,
    cluster,
    fixed_point,
    floating,
    gptq,
    learned,
    smoothquant,
    uniform,
)
from quant_llm_ros.quantize.names import nearest
from quant_llm_ros.quantize.tensors import Quantizer


@dataclasses.dataclass(frozen=True)
class Method:
    """A family of quantizers.

    Attributes:
        settings: Names of the settings that :attr:`make` takes, with their defaults.
        make: Builds the quantizer; raises :class:`ValueError` for settings that do not fit.
    """

    settings: Mapping[str, Any]
    make: Callable[..., Quantizer]


METHODS: Mapping[str, Method] = {
    "uniform": Method(uniform.DEFAULTS, uniform.UniformQuantizer),
    "fixed_point": Method(fixed_point.DEFAULTS, fixed_point.FixedPointQuantizer),
    "floating": Method(floating.DEFAULTS, floating.FloatingQuantizer),
    "binary": Method(binary.DEFAULTS, binary.BinaryQuantizer),
    "cluster": Method(cluster.DEFAULTS, cluster.ClusterQuantizer),
    "gptq": Method(gptq.DEFAULTS, gptq.GptqQuantizer),
    "awq": Method(awq.DEFAULTS, awq.AwqQuantizer),
    "smoothquant": Method(smoothquant.DEFAULTS, smoothquant.SmoothQuantizer),
    "learned": Method(learned.DEFAULTS, learned.LearnedQuantizer),
}


def make_quantizer(name: str, settings: Mapping[str, Any], where: str) -> Quantizer:
    """Build the quantizer that a recipe asks for.

    Args:
        name: A key of :data:`METHODS`.
        settings: What the recipe says about it.
        where: Place in the recipe, for the message.

    Returns:
        A function from a weight to a quantized tensor.

    Raises:
        RecipeError: An unknown method or setting, or a value that it does not take.
    """
    if name not in METHODS:
        raise RecipeError(f"{where}: unknown method {name!r}{nearest(name, METHODS)}")
    method = METHODS[name]
    for key in settings:
        if key not in method.settings:
            raise RecipeError(
                f"{where}: method {name} has no setting {key!r}{nearest(key, method.settings)}"
            )
    try:
        return method.make(**{**method.settings, **settings})
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{where}: {error}") from error
