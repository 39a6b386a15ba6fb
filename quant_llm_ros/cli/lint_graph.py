"""``quant_llm lint-graph``: whether a runtime will take an ONNX graph."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from quant_llm_ros.errors import EngineError
from quant_llm_ros.resources import share_path


def add_parser(subcommands: Any) -> None:
    """Declare the subcommand."""
    parser = subcommands.add_parser(
        "lint-graph",
        help="check an ONNX graph against the rules of a target",
        description=(
            "Check an ONNX graph against what the runtime of a target takes "
            "(config/targets/). Exit status 1 if it breaks a rule or does not compile."
        ),
    )
    parser.add_argument("model", metavar="MODEL.onnx", type=Path)
    names = sorted(path.stem for path in share_path("config/targets").glob("*.yaml"))
    parser.add_argument("--target", choices=names, required=True)
    parser.add_argument(
        "--sm", type=int, help="compute capability of the GPU, such as 87 (default: any)"
    )
    parser.add_argument(
        "--compile",
        nargs="+",
        default=[],
        metavar="SM",
        help="compile it too for these GPUs, such as SM86 SM89 SM120, which need not be there: "
        "with TensorRT for RTX (pip install -r requirements/tensorrt.txt)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check a graph."""
    if arguments.compile and arguments.target == "ort":
        raise EngineError("--compile is for TensorRT: give --target tensorrt or tensorrt-jp6")
    try:
        # onnx is an extra: a robot that only serves bundles lacks it.
        from quant_llm_ros.quantize.compile_gate import compile_decoder
        from quant_llm_ros.quantize.graph_lint import Finding, lint
    except ModuleNotFoundError as error:
        raise EngineError(
            f"checking graphs needs the package {error.name!r}; install the extra: "
            "pip install 'quant_llm_ros[quantize]'"
        ) from error
    findings = lint(arguments.model, arguments.target, chip=arguments.sm)
    compiled = compile_decoder(arguments.model, arguments.compile) if arguments.compile else []
    findings += [
        Finding(
            rule="compiles",
            node="graph",
            operator="",
            message=f"does not compile for {result.capability}: {'; '.join(result.errors)}",
            remedy="correct what it complains about",
            source="the compiler of TensorRT for RTX",
        )
        for result in compiled
        if not result.passed
    ]
    if arguments.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            print(f"{finding} (source: {finding.source})")
        for result in compiled:
            if result.passed:
                print(f"{result.capability}: {result}")
        print(f"{arguments.model}: {len(findings)} rules broken, target {arguments.target}")
    return 1 if findings else 0
