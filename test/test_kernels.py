"""The GPU kernels: in Triton's interpreter against float64, and compiled for GPUs not there."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
import re
import subprocess
import sys
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
import pytest

REASON = "Triton is not installed: pip install -r requirements/kernels.txt"
triton = pytest.importorskip("triton", reason=REASON)
torch = pytest.importorskip("torch")

FP16_STEP = 2.0**-11


@pytest.fixture(scope="module")
def kernel(repository: Path) -> Any:
    """Import a file of kernels/, its kernels interpreted as conftest.py says."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(repository / "kernels"))
    names = ("gemv_w4a16", "gemv_codebook", "masked_argmax")
    modules: dict[str, ModuleType] = {name: importlib.import_module(name) for name in names}
    yield modules.__getitem__
    for name in names:
        del sys.modules[name]
    patch.undo()


def packed(codes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Put two codes into a byte, the first in its lower half."""
    nibbles = codes.astype(np.uint8) & 15
    return nibbles[:, ::2] | (nibbles[:, 1::2] << 4)


def gemv_error(y: Any, weights: NDArray[np.float64], x: NDArray[np.float16]) -> float:
    """Largest error of products ``[tokens, n]``, by the sum of what was added up."""
    expected = x.astype(np.float64) @ weights.T
    scale = np.abs(x.astype(np.float64)) @ np.abs(weights).T
    return float((np.abs(y.numpy().astype(np.float64) - expected) / scale).max())


# Multiples of the blocks, and everything beside them.
SIZES = [(4, 64, 1), (8, 512, 2), (5, 130, 1), (1, 2, 3), (13, 576, 5), (7, 1026, 1)]


@pytest.mark.parametrize(("n", "k", "tokens"), SIZES)
def test_w4a16(kernel: Any, n: int, k: int, tokens: int) -> None:
    module = kernel("gemv_w4a16")
    random = np.random.default_rng(n + k)
    codes = random.integers(-8, 8, (n, k))
    group = module.CONSTANTS["GROUP"]
    scales = random.uniform(0.001, 0.1, (n, -(-k // group))).astype(np.float16)
    x = random.normal(size=(tokens, k)).astype(np.float16)
    y = torch.full((tokens * n + 1,), 7.0, dtype=torch.float16)
    module.gemv_w4a16[(-(-n // module.CONSTANTS["BLOCK_N"]), tokens)](
        *map(torch.from_numpy, (x, packed(codes), scales)), n, k, y, **module.CONSTANTS
    )
    weights = codes * np.repeat(scales.astype(np.float64), group, axis=1)[:, :k]
    assert gemv_error(y[:-1].reshape(tokens, n), weights, x) < FP16_STEP
    assert y[-1] == 7.0  # nothing is written behind the end


def test_w4a16_on_the_weights_of_a_graph(kernel: Any, tmp_path: Path) -> None:
    """What the graph with plugins holds, read as the plugin passes it, is the graph's product."""
    import onnx_ir as ir
    from target_graphs import exported

    from quant_llm_ros.engine.tensorrt_plugins import DEFINITIONS
    from quant_llm_ros.quantize.graph_plugins import with_plugins

    module = kernel("gemv_w4a16")
    source, _ = exported(tmp_path, "llama-int4", "tensorrt")
    (tmp_path / "graph").mkdir()
    rewritten = with_plugins(source, tmp_path / "graph", "quant_llm_x")
    before, after = (ir.load(path).graph.initializers for path in (source, rewritten.path))
    name = "model.layers.1.mlp.down_proj.weight"
    codes = before[name].const_value.numpy().astype(np.float64)
    scales = before[f"{name}.scales"].const_value.numpy().astype(np.float64)
    words, rows = (after[f"{name}.{kind}"].const_value.numpy() for kind in ("words", "rows"))
    x = np.random.default_rng(1).normal(size=(3, len(codes))).astype(np.float16)
    shapes = [(1, *x.shape), words.shape, rows.shape]
    launch = DEFINITIONS["gemv_w4a16"].launch(shapes, module.CONSTANTS, lambda a, b: -(-a // b))
    y = torch.empty(launch.outputs[0][1:], dtype=torch.float16)
    inputs = [torch.from_numpy(one) for one in (x, words.view(np.uint8).copy(), rows.copy())]
    module.gemv_w4a16[launch.grid](*inputs, *launch.scalars, y, **module.CONSTANTS)
    weights = codes * np.repeat(scales, 64, axis=0)
    assert gemv_error(y, weights.T, x) < FP16_STEP


@pytest.mark.parametrize(("n", "k", "tokens"), [*SIZES, (35, 66, 2)])
def test_codebook(kernel: Any, n: int, k: int, tokens: int) -> None:
    module = kernel("gemv_codebook")
    random = np.random.default_rng(n * k)
    rows = module.CONSTANTS["ROWS_PER_BOOK"]
    codes = random.integers(0, 16, (n, k))
    books = random.normal(size=(-(-n // rows), 16)).astype(np.float16)
    x = random.normal(size=(tokens, k)).astype(np.float16)
    y = torch.full((tokens * n + 1,), 7.0, dtype=torch.float16)
    module.gemv_codebook[(-(-n // module.CONSTANTS["BLOCK_N"]), tokens)](
        *map(torch.from_numpy, (x, packed(codes), books)), n, k, y, **module.CONSTANTS
    )
    weights = books.astype(np.float64)[np.arange(n)[:, None] // rows, codes]
    assert gemv_error(y[:-1].reshape(tokens, n), weights, x) < FP16_STEP
    assert y[-1] == 7.0


def masked_argmax(
    module: ModuleType, logits: NDArray[np.float32], allowed: NDArray[np.bool_]
) -> tuple[float, int]:
    """Run both kernels."""
    vocab = len(logits)
    # The bits behind the end are set: they must not count.
    behind = np.ones(-vocab % 32, dtype=bool)
    bits = np.packbits(np.append(allowed, behind), bitorder="little")
    block = module.CONSTANTS_PARTS["BLOCK"]
    parts = -(-vocab // block)
    values = torch.empty(parts, dtype=torch.float32)
    tokens = torch.empty(parts, dtype=torch.int32)
    value, token = torch.empty(1, dtype=torch.float32), torch.empty(1, dtype=torch.int32)
    mask = torch.from_numpy(bits.view(np.uint32))
    module.masked_argmax_parts[(parts,)](
        torch.from_numpy(logits), mask, vocab, values, tokens, **module.CONSTANTS_PARTS
    )
    module.masked_argmax_best[(1,)](values, tokens, parts, value, token, **module.CONSTANTS_BEST)
    return float(value), int(token)


@pytest.mark.parametrize("vocab", [1, 31, 32, 33, 1024, 5000, 49152])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 1.0])
def test_masked_argmax(kernel: Any, vocab: int, share: float) -> None:
    random = np.random.default_rng(vocab)
    logits = random.normal(size=vocab).astype(np.float32)
    allowed = random.random(vocab) < share
    value, token = masked_argmax(kernel("masked_argmax"), logits, allowed)
    if not allowed.any():
        assert (value, token) == (-np.inf, -1)
        return
    candidates = np.flatnonzero(allowed)
    expected = candidates[np.argmax(logits[candidates])]
    assert (value, token) == (logits[expected], expected)


def test_masked_argmax_of_special_values(kernel: Any) -> None:
    """The first of equal ones; NaN and negative infinity never; infinity like any number."""
    module = kernel("masked_argmax")
    every = np.ones(2100, dtype=bool)
    logits = np.zeros(2100, dtype=np.float32)
    logits[[7, 1500, 2099]] = 3.0
    assert masked_argmax(module, logits, every) == (3.0, 7)
    logits[2] = np.nan
    logits[1200] = np.inf
    assert masked_argmax(module, logits, every) == (np.inf, 1200)
    nothing = np.full(2100, -np.inf, dtype=np.float32)
    assert masked_argmax(module, nothing, every)[1] == -1


@pytest.mark.slow
def test_compiled(repository: Path, tmp_path: Path) -> None:
    """For every GPU, with nothing spilled, and little enough for many programs at once."""
    environment = {name: text for name, text in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path / "cache")
    done = subprocess.run(
        [sys.executable, repository / "kernels" / "compile.py", "--output", tmp_path / "cubins"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    reports = json.loads(done.stdout)
    assert {report["chip"] for report in reports} == {87, 89, 110, 120}
    assert len(reports) == 16
    for report in reports:
        assert report["spill_bytes"] == 0, report
        assert report["registers"] <= 128, report  # 512 threads on a multiprocessor or more
        assert report["shared_bytes"] <= 16384, report
    cubins = list((tmp_path / "cubins").glob("*.cubin"))
    assert len(cubins) == 16
    assert all(path.read_bytes()[:4] == b"\x7fELF" for path in cubins)
    # What TensorRT gets: exactly the parameters that it passes, and nothing of this computer.
    from quant_llm_ros.engine.tensorrt_plugins import DEFINITIONS, Plugins

    for chip in (87, 89, 110, 120):
        kernels = Plugins.load(tmp_path / "cubins", chip).kernels
        for name, definition in DEFINITIONS.items():
            ptx = kernels[name].ptx
            (entry,) = re.findall(r"\.entry (\w+)\((.*?)\)", ptx, re.DOTALL)
            kinds = re.findall(r"\.param \.(u\d+)", entry[1])
            assert entry[0] == name
            assert kinds == ["u64" if one else "u32" for one in definition.pointers]
            assert f".target sm_{chip}" in ptx
            assert f".reqntid {kernels[name].threads}\n" in ptx
            assert str(repository) not in ptx
