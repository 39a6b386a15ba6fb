"""``quant_llm inspect``: what is in a bundle, and whether it is whole."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

from rich.console import Console
from rich.table import Table

from quant_llm_ros.cli.options import DEFAULT_BUNDLE
from quant_llm_ros.engine.bundle import Bundle
from quant_llm_ros.engine.verdict import plain, verdicts_of


def add_parser(subcommands: Any) -> None:
    """Declare the subcommand."""
    parser = subcommands.add_parser(
        "inspect",
        help="show what a bundle holds and check its files",
        description="Check the hashes of a bundle's files and show what it holds.",
    )
    parser.add_argument("bundle", nargs="?", default=DEFAULT_BUNDLE, help="(default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--quiet", action="store_true", help="print nothing; exit status 0 means that it is whole"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Inspect a bundle."""
    bundle = Bundle.load(arguments.bundle)
    if arguments.quiet:
        return 0
    if arguments.json:
        print(json.dumps(_plain(bundle), indent=2))
        return 0
    table = Table(title=f"bundle {bundle.name!r} in {bundle.path}", show_header=False)
    model = dataclasses.asdict(bundle.model)
    for name, value in {
        **model,
        "target": bundle.target,
        "recipe": bundle.recipe.get("name"),
        "skills": "only its own skills.yaml" if bundle.skills_fixed else "any registry",
        **bundle.figures,
    }.items():
        table.add_row(name, str(value))
    for name, info in bundle.files.items():
        table.add_row(name, f"{info.bytes / 1e6:.2f} MB  sha256 {info.sha256[:16]}…  whole")
    table.add_row("all files", f"{bundle.size_bytes / 1e6:.1f} MB")
    for verdict in verdicts_of(bundle):
        table.add_row(f"self-test {verdict.created}", str(verdict))
    Console().print(table)
    return 0


def _plain(bundle: Bundle) -> dict[str, Any]:
    return {
        "name": bundle.name,
        "path": str(bundle.path),
        "sha256": bundle.sha256,
        "format_version": bundle.format_version,
        "model": dataclasses.asdict(bundle.model),
        "target": bundle.target,
        "recipe": dict(bundle.recipe),
        "skills_fixed": bundle.skills_fixed,
        "files": {name: dataclasses.asdict(info) for name, info in bundle.files.items()},
        "size_bytes": bundle.size_bytes,
        "figures": dict(bundle.figures),
        "verdicts": [plain(verdict) for verdict in verdicts_of(bundle)],
    }
