"""Numbers with units: what may be said, and what it is in the unit of the decision."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pint

# Upper case stays: mW is not MW.
_SUFFIX = re.compile(r"[A-Za-z][A-Za-z_]*")


@functools.lru_cache(maxsize=1)
def _units() -> pint.UnitRegistry:
    # Import and registry take half a second: once, and only where there are amounts; the executor
    # has none.
    import pint

    return pint.UnitRegistry(cache_folder=None)


@functools.lru_cache(maxsize=1024)
def conversion_factor(unit: str, target: str) -> float:
    """Give the factor that turns a number in ``unit`` into a number in ``target``.

    Args:
        unit: Unit as a person or the model writes it, for example ``cm``.
        target: Unit of the decision, for example ``m``.

    Raises:
        ValueError: One of them is no unit, they measure different things, or the conversion is
            not a factor (degrees Celsius to Fahrenheit).
    """
    units = _units()
    from pint import DimensionalityError, UndefinedUnitError

    try:
        with np.errstate(all="ignore"):  # decibels of nothing
            zero = units.Quantity(0.0, unit).to(target).magnitude
            one = units.Quantity(1.0, unit).to(target).magnitude
    except UndefinedUnitError as error:
        raise ValueError(str(error)) from error
    except DimensionalityError as error:
        raise ValueError(f"{unit!r} cannot be converted to {target!r}") from error
    except Exception as error:  # pint's parser raises many kinds for text such as "m m" or "%%"
        raise ValueError(f"{unit!r} or {target!r} is not a unit") from error
    if zero != 0.0:
        raise ValueError(f"{unit!r} and {target!r} have different zeros; use the same unit")
    return float(one)


def argument_suffix(unit: str) -> str:
    """Give the ending of an argument's name for a unit: ``m/s`` becomes ``m_per_s``.

    Raises:
        ValueError: The unit has signs that no name can have.
    """
    suffix = unit.replace("%", "percent").replace("/", "_per_")
    if not _SUFFIX.fullmatch(suffix):
        raise ValueError(
            f"{unit!r} cannot be part of a name; write it in letters, such as um or deg"
        )
    return suffix
