"""What of kernels/measure.py can be tried without a GPU: what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
import importlib
import os
from pathlib import Path
import subprocess
import sys
from types import ModuleType

import pytest

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def measure(repository: Path) -> Iterator[ModuleType]:
    """Import the program; what it imports lies beside it."""
    names = ("measure", "roofline", "gemv_w4a16", "gemv_codebook", "masked_argmax")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(repository / "kernels"))
        yield importlib.import_module("measure")
        for name in names:
            sys.modules.pop(name, None)


def test_without_a_gpu(repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, repository / "kernels" / "measure.py"],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "needs an NVIDIA GPU, torch and Triton: " in line


@pytest.mark.parametrize("kind", ["w4a16", "codebook"])
def test_wrong_products_are_refused(measure: ModuleType, kind: str) -> None:
    n, k, tokens = 35, 130, 2
    product = measure.Product(kind, n, k, tokens, 2, "cpu")
    behind = tokens * n
    runs: list[int] = []

    def right(i: int) -> None:
        weights = product.weights(i, slice(None))
        assert weights.shape == (n, k)
        product.y[i, :behind] = (product.x[i].double() @ weights.T).flatten().half()

    def one_step_off(i: int) -> None:
        right(i)
        product.y[i, 7] = product.y[i, 7] * 1.002 + 0.01

    def not_written(i: int) -> None:
        right(i)
        product.y[i, behind - 1] = torch.nan

    def too_far(i: int) -> None:
        right(i)
        product.y[i, behind] = 0.0

    def varying(i: int) -> None:
        right(i)
        runs.append(i)
        product.y[i, 0] += len(runs) - 1

    product.check(right)
    for launch in (one_step_off, not_written):
        with pytest.raises(ValueError, match="what rounding explains"):
            product.check(launch)
    with pytest.raises(ValueError, match="another result at the second run"):
        product.check(varying)
    with pytest.raises(ValueError, match="written behind the end"):
        product.check(too_far)


def test_a_weight_is_what_the_kernels_say(measure: ModuleType) -> None:
    product = measure.Product("w4a16", 2, 66, 1, 1, "cpu")
    product.packed[0, 1] = 0x8F  # first -1, then -8
    product.table[0, 1] = torch.tensor([0.5, 2.0])
    assert product.weights(0, slice(1, 2))[0, [0, 1, 63, 64, 65]].tolist() == [
        -0.5,
        -4,
        -4,
        -2,
        -16,
    ]
    product = measure.Product("codebook", 17, 2, 1, 1, "cpu")
    product.packed[0, 16] = 0x3F
    product.table[0, 1] = torch.arange(16)
    assert product.weights(0, slice(16, 17)).tolist() == [[15, 3]]


@pytest.mark.parametrize("share", [0.0, 0.01, 1.0])
def test_wrong_choices_are_refused(measure: ModuleType, share: float) -> None:
    choice = measure.Choice(1000, share, 3, "cpu")

    def right(i: int) -> None:
        allowed = [t for t in range(1000) if choice.mask[i].tolist()[t // 32] >> t % 32 & 1]
        best = max(allowed, key=choice.logits[i].tolist().__getitem__, default=-1)
        choice.token[i] = best
        choice.value[i] = choice.logits[i, best] if allowed else -torch.inf

    def wrong(i: int) -> None:
        right(i)
        choice.token[i] += i == 1

    choice.check(right)
    with pytest.raises(ValueError, match="1 of 3 are wrong"):
        choice.check(wrong)


def test_kernels_pass(measure: ModuleType) -> None:
    """The kernels themselves, interpreted."""
    pytest.importorskip("triton", reason="pip install -r requirements/kernels.txt")
    for kind in ("w4a16", "codebook"):
        product = measure.Product(kind, 35, 130, 2, 2, "cpu")
        product.check(product.launch)
    for share in (0.0, 0.01, 1.0):
        choice = measure.Choice(5000, share, 2, "cpu")
        choice.check(choice.launch)
