"""Record what the Python bindings of TensorRT and CUDA offer: test/data/tensorrt_signatures.yaml.

TensorRT's own libraries need a GPU's machine, but its bindings are small wheels that need nothing
of them while they are imported but nine C functions. With empty ones in their place the bindings
of any version tell the names and parameters of all that they have:

    pip download --no-deps tensorrt_cu12_bindings==10.3.0 cuda-bindings==12.8.0
    python tools/tensorrt_signatures.py tensorrt_cu12_bindings-*.whl cuda_bindings-*.whl

Those of CUDA can be imported as they are. Versions are recorded beside each other; those that are
in the file already are kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import functools
import importlib
import inspect
import os
from pathlib import Path
import re
import subprocess
import sys
import tempfile
from typing import Any
import zipfile

import yaml

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "test" / "data" / "tensorrt_signatures.yaml"
FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
_MARK = "--- members"
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
_HEAD = """\
# Names and parameters in the bindings of TensorRT and CUDA: tools/tensorrt_signatures.py.
# By version: what the engine uses -> its parameters, one text for each overload ('' is none); an
# empty list is an attribute, a number the value of a constant.
"""


def wanted() -> list[str]:
    """Names of all that the engine uses, as the pretended bindings of the tests have them."""
    sys.path.insert(0, str(ROOT / "test"))
    fake = importlib.import_module("fake_tensorrt")
    return sorted(fake.names())


def signatures(module: Any, names: Sequence[str]) -> dict[str, list[str]]:
    """Look names up in a module, those of another module left out.

    Args:
        module: ``tensorrt`` or ``cuda.bindings.runtime``.
        names: ``Class.member`` or ``function``.

    Returns:
        By name: the parameters of each overload, separated by spaces, without ``self``; nothing
        for an attribute; the value of a constant.
    """
    found = {}
    for name in names:
        try:
            member = functools.reduce(getattr, name.split("."), module)
        except AttributeError:
            continue
        if isinstance(member, int):
            found[name] = [str(int(member))]
        elif inspect.isfunction(member):  # tensorrt.plugin is written in Python
            parameters = inspect.signature(member).parameters
            found[name] = [" ".join(one for one in parameters if one != "self")]
        elif name.startswith("cuda"):
            found[name] = [" ".join(inspect.signature(member).parameters)]
        else:
            found[name] = _parameters(name.rpartition(".")[2], member.__doc__ or "")
    return found


def _parameters(member: str, text: str) -> list[str]:
    lines = re.findall(rf"^(?:\d+\. )?{re.escape(member)}\((.*)\)(?: -> .*)?$", text, re.MULTILINE)
    overloads = []
    for line in lines:
        if line == "*args, **kwargs":
            continue
        names = re.findall(r"(?:^|, )(\w+)(?=: |,|$)", line)
        overloads.append(" ".join(name for name in names if name != "self"))
    return overloads


def main() -> int:
    """Record the bindings in some wheels.

    Returns:
        Exit status.
    """
    names = wanted()
    parser = argparse.ArgumentParser(description="Record what TensorRT's bindings offer.")
    parser.add_argument("wheel", nargs="+", type=Path)
    recorded: dict[str, Any] = {}
    if OUTPUT.is_file():
        recorded = yaml.safe_load(OUTPUT.read_text(encoding="utf-8")) or {}
    for wheel in parser.parse_args().wheel:
        with tempfile.TemporaryDirectory() as folder:
            version, members = _inspect(wheel, Path(folder), names)
        recorded[version] = members
        print(f"{version}: {len(members)} members")
    text = yaml.safe_dump(recorded, default_flow_style=None, width=99)
    OUTPUT.write_text(_HEAD + text, encoding="utf-8")
    return 0


def _inspect(wheel: Path, folder: Path, names: Sequence[str]) -> tuple[str, dict[str, list[str]]]:
    """Import the bindings of a wheel in a process of their own."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    name, version = wheel.name.split("-")[:2]
    imports = ""
    if name.startswith("cuda"):
        module = "cuda.bindings.runtime"
    else:
        module = "tensorrt_bindings"
        imports = (
            "import importlib.util, tensorrt_bindings\n"
            "sys.modules['tensorrt'] = tensorrt_bindings\n"
            "if importlib.util.find_spec('tensorrt_bindings.plugin'):\n"
            "    import tensorrt_bindings.plugin\n"
        )
        make_libraries(folder, version.split(".")[0])
    script = (
        f"import {module}, sys, yaml, tensorrt_signatures\n"
        f"{imports}"
        f"print({_MARK!r})\n"
        f"names = {list(names)!r}\n"
        f"members = tensorrt_signatures.signatures(sys.modules[{module!r}], names)\n"
        "print(yaml.safe_dump(members))"  # behind what TensorRT prints itself
    )
    path = f"{folder}:{Path(__file__).parent}"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": path},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return f"{name.split('_')[0]} {version}", yaml.safe_load(done.stdout.rpartition(_MARK)[2])


def make_libraries(folder: Path, major: str) -> None:
    """Make libraries that have what the bindings ask for while they are imported."""
    source = folder / "stub.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
    for name in LIBRARIES:
        target = folder / f"lib{name}.so.{major}"
        options = ["-shared", "-fPIC", f"-Wl,-soname,{target.name}"]
        subprocess.run(["gcc", *options, "-o", target, source], check=True)


if __name__ == "__main__":
    sys.exit(main())
