"""Serve a bundle for TensorRT on the pretended GPU of the tests, and let it prove itself there.

    python tools/pretended_gpu.py bundles/tensorrt
    python tools/pretended_gpu.py bundles/tensorrt --plugins build/kernels

The engine's own code runs, against bindings that keep the rules of the real ones and compute the
graph on the CPU: memory, order of the stream, CUDA graphs, drafts and decisions are tried with the
real model. The times that it prints are those of the CPU and mean nothing.
"""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
import shutil
import sys
import tempfile

import pytest

from quant_llm_ros.command.proof import prove
from quant_llm_ros.engine.bundle import Bundle
from quant_llm_ros.engine.tensorrt_build import Build, BuildOptions, PluginOptions
from quant_llm_ros.engine.verdict import plain
from quant_llm_ros.quantize.graph_plugins import with_plugins

TESTS = Path(__file__).resolve().parents[1] / "test"


def rewrite(source: Path, folder: Path, namespace: str) -> Path:
    """Put plugins into a graph, and say how many."""
    rewritten = with_plugins(source, folder, namespace)
    print(rewritten)
    return rewritten.path


def main() -> int:
    """Build, serve and test.

    Returns:
        Exit status: 1 where the logits or a decision are not the reference's.
    """
    parser = argparse.ArgumentParser(description="Prove a bundle on a pretended GPU.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--plugins", type=Path, help="output of kernels/compile.py: with plugins")
    arguments = parser.parse_args()
    path, kernels = arguments.bundle, arguments.plugins
    sys.path.insert(0, str(TESTS))
    pretended = importlib.import_module("fake_tensorrt")
    with (
        tempfile.TemporaryDirectory() as folder,
        pytest.MonkeyPatch.context() as patch,
        pretended.installed(patch) as gpu,
    ):
        # A copy: nobody may take the pretended engine for a real one.
        bundle = Bundle.load(shutil.copytree(path, Path(folder) / "bundle"))
        plugins = None if kernels is None else PluginOptions(kernels, rewrite)
        build = Build(bundle, BuildOptions(plugins=plugins))
        build.run(lambda *_: True)
        build.close()
        verdict = prove(bundle)
        left = gpu.held
    print(json.dumps(plain(verdict), indent=2))
    print(f"launched {gpu.launches} CUDA graphs; {left} things were not given back")
    return 0 if verdict.passed and not left else 1


if __name__ == "__main__":
    sys.exit(main())
