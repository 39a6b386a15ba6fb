"""Quantization methods: one file per family, each a function from a weight to codes and scales.

A method's class has ``needs_calibration`` and is called with a weight and what calibration learnt
about the layer's inputs; see ``tensors.Quantizer``. The name of its file is that in recipes, and
the file has ``DEFAULTS``, its settings, and ``QUANTIZER``, what makes the quantizer of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import importlib
import pkgutil
from typing import Any

from quant_llm_ros.errors import RecipeError
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


def _methods() -> dict[str, Method]:
    """Find the files of this folder that hold a method."""
    modules = {
        info.name: importlib.import_module(f"{__name__}.{info.name}")
        for info in pkgutil.iter_modules(__path__)
    }
    return {
        name: Method(module.DEFAULTS, module.QUANTIZER)
        for name, module in modules.items()
        if hasattr(module, "QUANTIZER")
    }


METHODS: Mapping[str, Method] = _methods()


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
