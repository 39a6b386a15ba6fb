"""Options that several subcommands share."""

from __future__ import annotations

import argparse

from quant_llm_ros.command.shortlist import COMMON, DEFAULT_SHORTLIST, LARGE
from quant_llm_ros.command.understander import DEFAULT_MIN_CONFIDENCE
from quant_llm_ros.engine.cpus import parse_cpus
from quant_llm_ros.engine.providers import AUTO, PROVIDERS
from quant_llm_ros.errors import EngineError

DEFAULT_BUNDLE = "bundles/default"


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which model decides, and how."""
    parser.add_argument(
        "--bundle", default=DEFAULT_BUNDLE, help="folder of the bundle (default: %(default)s)"
    )
    parser.add_argument("--skills", help="skill registry to use instead of the bundle's own")
    add_engine_options(parser)


def add_shortlist_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that says how much of a large registry a model is shown."""
    parser.add_argument(
        "--shortlist",
        type=not_negative_int,
        default=DEFAULT_SHORTLIST,
        metavar="N",
        help=f"skills that the model is shown for a sentence where there are over {LARGE}, at "
        f"least {COMMON}; 0: always all, as always with a bundle for TensorRT "
        "(default: %(default)s)",
    )


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where the model runs."""
    parser.add_argument(
        "--threads", type=positive_int, default=2, help="CPU threads (default: %(default)s)"
    )
    parser.add_argument(
        "--cpus",
        type=cpu_list,
        default=(),
        metavar="N,N",
        help="CPU cores to keep to, as 2,3 or 4-7 (default: as the system likes)",
    )
    parser.add_argument(
        "--provider",
        choices=PROVIDERS,
        default=AUTO,
        help="where the model runs; auto: CUDA where ONNX Runtime has it, else the CPU",
    )
    parser.add_argument(
        "--allow-fallback",
        action="store_true",
        help="let ONNX Runtime fall back to a slower provider (default: that is an error)",
    )


def add_understanding_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how sentences are understood."""
    parser.add_argument(
        "--min-confidence",
        type=share,
        default=DEFAULT_MIN_CONFIDENCE,
        metavar="P",
        help="least confidence of an ACCEPTED decision, 0 to 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--conversation",
        action="store_true",
        help="let each sentence refer to the one before it (default: each stands for itself)",
    )
    add_shortlist_option(parser)


def cpu_list(text: str) -> tuple[int, ...]:
    """Read a list of CPU cores."""
    try:
        return parse_cpus(text)
    except EngineError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def share(text: str) -> float:
    """Read a number from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0.0 <= number <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return number


def positive_int(text: str) -> int:
    """Read a whole number above zero."""
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above zero")
    return number


def not_negative_int(text: str) -> int:
    """Read a whole number that is zero or more."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of zero or more")
    return int(text)


def positive_float(text: str) -> float:
    """Read a number above zero."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above zero")
    return number


def not_negative_float(text: str) -> float:
    """Read a number that is zero or more."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0.0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of zero or more")
    return number
