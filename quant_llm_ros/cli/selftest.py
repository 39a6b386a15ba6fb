"""``quant_llm selftest``: a bundle proves itself on this device."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from quant_llm_ros.cli.options import add_engine_options, DEFAULT_BUNDLE
from quant_llm_ros.command.proof import prove
from quant_llm_ros.engine.bundle import Bundle
from quant_llm_ros.engine.verdict import plain, Verdict
from quant_llm_ros.errors import BundleError


def add_parser(subcommands: Any) -> None:
    """Declare the subcommand."""
    parser = subcommands.add_parser(
        "selftest",
        help="prove a bundle on this device and write the verdict into its folder",
        description=(
            "Compare logits and decisions with those of the machine where the bundle was built, "
            "measure time and memory, print the verdict and keep it in the bundle's folder. Exit "
            "with 1 where it failed; nodes on this device then refuse to serve it that way."
        ),
    )
    parser.add_argument("bundle", nargs="?", default=DEFAULT_BUNDLE, help="(default: %(default)s)")
    add_engine_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Test, print and write."""
    bundle = Bundle.load(arguments.bundle)
    verdict = prove(
        bundle,
        provider=arguments.provider,
        threads=arguments.threads,
        allow_fallback=arguments.allow_fallback,
    )
    print(json.dumps(plain(verdict), indent=2)) if arguments.json else _print(bundle, verdict)
    try:
        path = verdict.save(bundle.path)
    except BundleError as error:
        # A bundle on read-only storage can still be tested; what was found stands above.
        print(f"quant_llm: {error}", file=sys.stderr)
    else:
        print(f"verdict: {path}", file=sys.stderr)
    return 0 if verdict.passed else 1


def _print(bundle: Bundle, verdict: Verdict) -> None:
    table = Table(title=f"self-test of bundle {bundle.name!r} in {bundle.path}", show_header=False)
    for name, value in verdict.device.items():
        table.add_row(name.replace("_", " "), value)
    table.add_row("runtime", f"{verdict.runtime}, {verdict.provider}")
    for group, figures in verdict.figures.items():
        for name, figure in figures.items():
            table.add_row(f"{group}: {name}".replace("_", " "), f"{figure:g}")
    if not verdict.figures["decisions"]["checked"]:
        table.add_row("decisions", "none in the bundle; build it again to have them")
    table.add_row("verdict", "PASSED" if verdict.passed else "FAILED")
    for problem in verdict.problems:
        table.add_row("", problem)
    Console().print(table, markup=False)
