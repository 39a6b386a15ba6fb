"""Every call of TensorRT and CUDA that the engine makes exists in the real bindings.

The engine's tests run against pretended bindings, so it can call nothing that those lack. Here
the pretended ones are held against the real: against what ``tools/tensorrt_signatures.py`` has
recorded of several versions, and against what is installed.
"""

from __future__ import annotations

from collections.abc import Mapping
import functools
import importlib.util
import inspect
import os
from pathlib import Path
import subprocess
import sys
from typing import Any

import fake_cuda
import fake_tensorrt
import fake_tensorrt_plugin
import pytest
import yaml

RECORDED = Path(__file__).parent / "data" / "tensorrt_signatures.yaml"
TABLE: Mapping[str, Mapping[str, list[str]]] = yaml.safe_load(RECORDED.read_text())
# What the engine does without where it is missing.
SINCE: dict[str, tuple[int, int]] = {"ICudaEngine.get_aliased_input_tensor": (10, 15)}
SINCE |= {f"plugin.{name}": (10, 9) for name in fake_tensorrt_plugin.NAMES}
ONLY_RTX = {
    "ComputeCapability.SM86",
    "IBuilderConfig.num_compute_capabilities",
    "IBuilderConfig.set_compute_capability",
}
NAMES = sorted(fake_tensorrt.names())


def pretended(name: str) -> Any:
    """Find what the fake has under a name."""
    if name.startswith("cuda"):
        base: Any = fake_cuda if name.split(".")[0].endswith("_t") else fake_cuda.Runtime
        return functools.reduce(getattr, name.split("."), base)
    if name.startswith("ILogger.Severity."):
        return getattr(fake_tensorrt.Severity, name.rpartition(".")[2])
    return functools.reduce(getattr, name.split("."), fake_tensorrt)


def problem(name: str, real: list[str] | None) -> str:
    """Say how a pretended name differs from the real one; nothing where it does not."""
    if real is None:
        return f"{name} does not exist"
    try:
        fake = pretended(name)
    except AttributeError:
        return ""  # an attribute that the fake sets on its objects
    if isinstance(fake, int) and name.startswith("cuda"):
        return "" if real == [str(int(fake))] else f"{name} is {real}, not {int(fake)}"
    if not inspect.isfunction(fake):
        return "" if not real or real[0].lstrip("-").isdigit() else f"{name} is called: {real}"
    mine = [one for one in inspect.signature(fake).parameters if one != "self"]
    # Positional calls need the order; a later parameter that the fake lacks has a default.
    if any(overload.split()[: len(mine)] == mine for overload in real):
        return ""
    return f"{name} takes {real}, not {mine}"


@pytest.mark.parametrize("version", TABLE)
def test_recorded_bindings(version: str) -> None:
    library, number = version.split()
    release = tuple(int(part) for part in number.split(".")[:2])
    names = [
        name
        for name in NAMES
        if name.startswith("cuda") == (library == "cuda")
        and name not in ONLY_RTX
        and SINCE.get(name, (0, 0)) <= release
    ]
    problems = [problem(name, TABLE[version].get(name)) for name in names]
    assert [one for one in problems if one] == []
    assert len(names) > 40


def test_the_recorded_versions() -> None:
    """The ends of what is promised: TensorRT 10.3 to 11, CUDA 12 and 13."""
    assert set(TABLE) == {
        "cuda 12.8.0",
        "cuda 13.5.0",
        "tensorrt 10.3.0",
        "tensorrt 10.16.1.11",
        "tensorrt 11.4.0.106",
    }


def installed(module: str, how: str) -> Any:
    """Make a parameter that is skipped, and says so, where a library is missing."""
    missing = importlib.util.find_spec(module.partition(".")[0]) is None
    return pytest.param(
        module, marks=pytest.mark.skipif(missing, reason=f"{module} is not installed: {how}")
    )


@pytest.mark.parametrize(
    "module",
    [
        installed("tensorrt", "it comes with JetPack"),
        installed("tensorrt_rtx", "pip install -r requirements/tensorrt.txt"),
        installed("cuda.bindings.runtime", "pip install -r requirements/tensorrt.txt"),
    ],
)
def test_installed_bindings(module: str, repository: Path, monkeypatch: Any) -> None:
    monkeypatch.syspath_prepend(str(repository / "tools"))
    import tensorrt_signatures

    real = importlib.import_module(module)
    is_cuda = module.startswith("cuda")
    names = [name for name in NAMES if name.startswith("cuda") == is_cuda]
    if module == "tensorrt":
        names = [name for name in names if name not in {*ONLY_RTX, *SINCE}]
    else:  # TensorRT for RTX has no plugins
        names = [name for name in names if not name.startswith("plugin.")]
    found = tensorrt_signatures.signatures(real, names)
    problems = [problem(name, found.get(name)) for name in names]
    assert [one for one in problems if one] == []


@pytest.mark.skipif(
    importlib.util.find_spec("cuda") is None,
    reason="cuda-python is not installed: pip install -r requirements/tensorrt.txt",
)
def test_cuda_takes_the_arguments_of_the_engine() -> None:
    """In a process that sees no GPU, since no driver must be given made-up addresses."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("cuda_calls.py"))],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_difference_is_noticed() -> None:
    name = "IExecutionContext.set_tensor_address"
    assert problem(name, ["name memory"]) == ""
    assert "takes" in problem(name, ["memory name"])
    assert "does not exist" in problem(name, None)
    assert "not 35" in problem("cudaError_t.cudaErrorInsufficientDriver", ["36"])
    assert "is called" in problem("ICudaEngine.device_memory_size_v2", [""])
