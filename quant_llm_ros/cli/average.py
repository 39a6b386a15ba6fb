"""``quant_llm average``: the mean of several adapters."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from quant_llm_ros.errors import RecipeError


def add_parser(subcommands: Any) -> None:
    """Declare the subcommand."""
    parser = subcommands.add_parser(
        "average",
        help="average adapters of one line of training",
        description=(
            "Write the mean of adapters of which one was trained on from the other, or all from "
            "the same: mostly better than each of them."
        ),
    )
    parser.add_argument("adapters", nargs="+", metavar="ADAPTER", help="folders of the adapters")
    parser.add_argument("--output", required=True, help="folder of the mean")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Average adapters."""
    try:
        from quant_llm_ros.training.averaging import average_adapters
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"averaging adapters needs the package {error.name!r}; install the extra: "
            "pip install 'quant_llm_ros[quantize]'"
        ) from error
    average_adapters([Path(folder) for folder in arguments.adapters], Path(arguments.output))
    print(f"{arguments.output}: mean of {len(arguments.adapters)} adapters")
    return 0
