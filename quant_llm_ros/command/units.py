"""Number words and units: how they are said and written."""

from __future__ import annotations

import functools

from quant_llm_ros.command.quantities import conversion_factor

ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen",
)  # fmt: skip
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")

# Unit of a registry: how one of it is said, how several are, and what is written right behind
# the digits.
UNIT_WORDS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "m": (("meter", "metre"), ("meters", "metres", "meters"), ("m", "m", "mt")),
    "cm": (("centimeter", "centimetre"), ("centimeters", "centimetres"), ("cm", "cms")),
    "mm": (("millimeter", "millimetre"), ("millimeters", "millimetres"), ("mm",)),
    "km": (("kilometer", "kilometre"), ("kilometers", "kilometres"), ("km", "kms")),
    "ft": (("foot",), ("feet", "feet", "foot"), ("ft",)),
    "in": (("inch",), ("inches",), ("in", "inch")),
    "yd": (("yard",), ("yards",), ("yd", "yds")),
    "mi": (("mile",), ("miles",), ("mi",)),
    "deg": (("degree",), ("degrees",), ("deg", "°", "degrees")),
    "rad": (("radian",), ("radians",), ("rad",)),
    "turn": (("turn", "rotation", "revolution"), ("turns", "rotations"), ("turns",)),
    "s": (("second",), ("seconds", "secs"), ("s", "sec")),
    "ms": (("millisecond",), ("milliseconds",), ("ms",)),
    "min": (("minute",), ("minutes", "mins"), ("min",)),
    "h": (("hour",), ("hours",), ("h", "hrs")),
    "day": (("day",), ("days",), ("days",)),
    "%": (("percent",), ("percent", "per cent"), ("%",)),
    "percent": (("percent",), ("percent", "per cent"), ("%",)),
    "kg": (("kilo", "kilogram"), ("kilos", "kilograms"), ("kg",)),
    "g": (("gram",), ("grams",), ("g",)),
    "mg": (("milligram",), ("milligrams",), ("mg",)),
    "lb": (("pound",), ("pounds",), ("lb", "lbs")),
    "l": (("liter", "litre"), ("liters", "litres"), ("l",)),
    "ml": (("milliliter", "millilitre"), ("milliliters", "millilitres"), ("ml",)),
    "ul": (("microliter", "microlitre"), ("microliters", "microlitres"), ("ul",)),
    "cup": (("cup",), ("cups",), ("cups",)),
    "m/s": (("meter per second",), ("meters per second", "metres per second"), ("m/s",)),
    "km/h": (
        ("kilometer per hour",),
        ("kilometers per hour", "kilometres an hour", "kilometers an hour"),
        ("km/h", "kmh", "kph"),
    ),
    "mph": (("mile per hour",), ("miles per hour", "miles an hour"), ("mph",)),
    "degC": (("degree", "degree celsius"), ("degrees", "degrees celsius"), ("°C", "degrees")),
    "rpm": (("rpm",), ("rpm", "revolutions per minute"), ("rpm",)),
    "Hz": (("hertz",), ("hertz",), ("Hz",)),
    "bar": (("bar",), ("bar", "bars"), ("bar",)),
    "psi": (("psi",), ("psi",), ("psi",)),
    "kPa": (("kilopascal",), ("kilopascals",), ("kPa",)),
    "V": (("volt",), ("volts",), ("V",)),
    "A": (("ampere", "amp"), ("amperes", "amps"), ("A",)),
    "W": (("watt",), ("watts",), ("W",)),
    "dB": (("decibel",), ("decibels",), ("dB",)),
    "N": (("newton",), ("newtons",), ("N",)),
    "ha": (("hectare",), ("hectares",), ("ha",)),
}

# The smaller unit that people add («two feet six inches»), how many make one, and the usual ones.
SMALLER = {
    "m": ("cm", 100, (10, 20, 25, 30, 40, 50, 60, 75, 80)),
    "ft": ("in", 12, (3, 6, 9)),
    "h": ("min", 60, (15, 30, 45)),
    "min": ("s", 60, (15, 30, 45)),
    "kg": ("g", 1000, (100, 200, 250, 500, 750)),
}


@functools.lru_cache(maxsize=1024)
def fits(unit: str, target: str) -> bool:
    """Tell whether a number in one unit can be converted to another."""
    try:
        conversion_factor(unit, target)
    except ValueError:
        return False
    return True


def written_number(value: float) -> str:
    """Write a number as calls have it: at most four digits behind the point."""
    text = f"{value:.4f}".rstrip("0").rstrip(".")
    return text or "0"


def number_words(number: int) -> str:
    """Say a whole number from 0 to 999999."""
    if number < 20:
        return ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return TENS[tens] + (f" {ONES[ones]}" if ones else "")
    size, name = (100, "hundred") if number < 1000 else (1000, "thousand")
    head, rest = divmod(number, size)
    return f"{number_words(head)} {name}" + (f" {number_words(rest)}" if rest else "")
