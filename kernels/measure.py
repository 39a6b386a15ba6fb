"""Check the kernels on this computer's GPU and measure how long they take.

    python kernels/measure.py [--output kernels.json]

Each kernel works on the sizes of roofline.py, its result is compared with float64, and then it is
timed beside what torch has for the same. Prints a Markdown table. Needs an NVIDIA GPU, torch and
Triton; without one of them the exit status is 2. A wrong result ends the program.

A time is the median of a CUDA graph of many launches, divided by their number. The launches take
their inputs in turn from so many that the GPU's cache does not hold them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
import importlib
import itertools
import json
from pathlib import Path
import sys
from typing import Any

import roofline

try:
    import torch
    from triton import __version__ as triton_version
    from triton.testing import do_bench
except ModuleNotFoundError as error:
    ABSENT = error.name
else:
    ABSENT = None

TOKENS = (1, 27)  # a step of decoding; a sentence and its guess
ROTATED_BYTES = 256 << 20  # several times the cache of an H100
COPIED_NUMBERS = 1 << 28  # of FP32, 1 GiB
FP16_STEP = 2.0**-11
ROWS_AT_ONCE = 16384  # of a matrix in float64, a multiple of the rows that share a codebook
GUARD = 16  # numbers behind a result that must stay as they are
PRODUCTS = {"w4a16": roofline.w4a16_bytes, "codebook": roofline.codebook_bytes}
Launch = Callable[[int], Any]  # on one of several sets of inputs


class Product:
    """Random inputs of a product, ``sets`` times, and room for the results."""

    def __init__(self, kind: str, n: int, k: int, tokens: int, sets: int, device: str):
        self.kind, self.n, self.k, self.tokens, self.sets = kind, n, k, tokens, sets
        self.packed = torch.randint(0, 256, (sets, n, k // 2), dtype=torch.uint8, device=device)
        self.x = torch.randn((sets, tokens, k), device=device).half()
        if kind == "w4a16":
            scales = torch.rand((sets, n, -(-k // roofline.GROUP)), device=device)
            self.table = (scales * 0.099 + 0.001).half()
        else:
            books = -(-n // roofline.ROWS_PER_BOOK)
            self.table = torch.randn((sets, books, 16), device=device).half()
        self.y = torch.full((sets, tokens * n + GUARD), 7.0, device=device).half()

    def launch(self, i: int) -> None:
        """Run the kernel on set ``i``."""
        module = importlib.import_module(f"gemv_{self.kind}")
        kernel, constants = getattr(module, f"gemv_{self.kind}"), module.CONSTANTS
        grid = (-(-self.n // constants["BLOCK_N"]), self.tokens)
        inputs = (self.x[i], self.packed[i], self.table[i])
        kernel[grid](*inputs, self.n, self.k, self.y[i], **constants)

    def weights(self, i: int, rows: slice) -> Any:
        """Weights of set ``i`` as the kernel's docstring defines them, float64 ``[rows, k]``."""
        byte = self.packed[i, rows].long()
        codes = torch.stack((byte & 15, byte >> 4), -1).reshape(len(byte), self.k)
        if self.kind == "w4a16":
            scales = self.table[i, rows].double().repeat_interleave(roofline.GROUP, 1)
            return torch.where(codes > 7, codes - 16, codes) * scales[:, : self.k]
        book = torch.arange(self.n, device=byte.device)[rows] // roofline.ROWS_PER_BOOK
        return self.table[i].double()[book[:, None], codes]

    def check(self, launch: Launch) -> None:
        """Run the first and the last set twice each, poisoned before, and compare with float64.

        Raises:
            ValueError: A result is wrong, differs from run to run, or was written beside its room.
        """
        name = f"{self.kind} {self.n} × {self.k}, {self.tokens} tokens"
        for i in sorted({0, self.sets - 1}):
            results = []
            for _ in range(2):
                self.y[i, :-GUARD] = torch.nan
                launch(i)
                results.append(self.y[i].clone())
            if not (results[0][-GUARD:] == 7.0).all():
                raise ValueError(f"{name}: written behind the end of the result")
            y, x = results[0][:-GUARD].reshape(self.tokens, self.n).double(), self.x[i].double()
            for start in range(0, self.n, ROWS_AT_ONCE):
                rows = slice(start, start + ROWS_AT_ONCE)
                weights = self.weights(i, rows)
                expected, added = x @ weights.T, x.abs() @ weights.abs().T
                # FP16 rounds the result, FP32 the sum; the last is half of the least FP16 number.
                rounding = FP16_STEP * expected.abs() + 2.0**-20 * added + 2.0**-25
                error = float(((y[:, rows] - expected).abs() / rounding).max())
                if not error <= 1:  # NaN is not
                    raise ValueError(f"{name}: wrong by {error:.3g} times what rounding explains")
            if not torch.equal(*results):
                raise ValueError(f"{name}: another result at the second run")


class Choice:
    """Random inputs of a masked choice, ``sets`` times, and poisoned room for the results."""

    def __init__(self, vocab: int, share: float, sets: int, device: str):
        self.vocab, self.sets = vocab, sets
        self.logits = torch.randn((sets, vocab), device=device)
        self.forbidden = torch.rand((sets, vocab), device=device) >= share
        bits = torch.ones((sets, -(-vocab // 32), 32), dtype=torch.bool, device=device)
        bits.view(sets, -1)[:, :vocab] = ~self.forbidden  # those behind the end stay set
        words = (bits * 2 ** torch.arange(32, device=device)).sum(-1)
        self.mask = words.to(torch.int32).view(torch.uint32)
        nan, none = (torch.tensor(one, device=device) for one in (torch.nan, -7))
        self.best_of_parts = nan.repeat(vocab), none.int().repeat(vocab)
        self.value, self.token = nan.repeat(sets, 1), none.int().repeat(sets, 1)

    def launch(self, i: int) -> None:
        """Run both kernels on set ``i``."""
        module = importlib.import_module("masked_argmax")
        parts = -(-self.vocab // module.CONSTANTS_PARTS["BLOCK"])
        inputs = (self.logits[i], self.mask[i])
        module.masked_argmax_parts[(parts,)](
            *inputs, self.vocab, *self.best_of_parts, **module.CONSTANTS_PARTS
        )
        module.masked_argmax_best[(1,)](
            *self.best_of_parts, parts, self.value[i], self.token[i], **module.CONSTANTS_BEST
        )

    def launch_torch(self, i: int) -> Any:
        """Choose with torch, on set ``i``."""
        return self.logits[i].masked_fill(self.forbidden[i], -torch.inf).argmax()

    def check(self, launch: Launch) -> None:
        """Run every set.

        Raises:
            ValueError: A token is not the first of the best allowed ones, or its logit is another.
        """
        for i in range(self.sets):
            launch(i)
        scores = self.logits.masked_fill(self.forbidden, -torch.inf)
        best = scores.max(1, keepdim=True).values
        index = torch.arange(self.vocab, device=scores.device)
        first = torch.where(scores == best, index, self.vocab).min(1, keepdim=True).values
        tokens = torch.where(best == -torch.inf, -1, first)
        wrong = int(((self.token != tokens) | (self.value != best)).sum())
        if wrong:
            raise ValueError(f"masked argmax, {self.vocab}: {wrong} of {self.sets} are wrong")


def microseconds(launch: Launch, sets: int) -> float:
    """Time a launch: the median of a CUDA graph of many, divided by their number."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # compiled and warm before it is recorded
        for i in range(min(sets, 3)):
            launch(i)
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    launches = max(sets, 64)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(launches):
            launch(i % sets)
    milliseconds = do_bench(graph.replay, warmup=20, rep=100, return_mode="median")
    return float(milliseconds * 1e3 / launches)


def copy_gb_s() -> float:
    """Bandwidth of a large copy: bytes read and written in a second, in GB/s."""
    source = torch.randn(COPIED_NUMBERS, device="cuda")
    target = torch.empty_like(source)
    took = do_bench(lambda: target.copy_(source), warmup=50, rep=300, return_mode="median")
    return float(2 * source.nbytes / took / 1e6)


def sets_of(size: int) -> int:
    """How many sets of inputs of ``size`` bytes the cache does not hold."""
    return max(2, -(-ROTATED_BYTES // size))


def linear(n: int, k: int, tokens: int, sets: int) -> Launch:
    """Prepare torch's product in BF16."""
    weights = torch.randn((sets, n, k), device="cuda", dtype=torch.bfloat16)
    x = torch.randn((sets, tokens, k), device="cuda", dtype=torch.bfloat16)
    return lambda i: torch.nn.functional.linear(x[i], weights[i])


def int4pack(n: int, k: int, tokens: int, sets: int) -> Launch:
    """Prepare torch's product with 4-bit weights, which have a zero point beside each scale."""
    codes = torch.randint(0, 256, (sets, n, k // 2), device="cuda", dtype=torch.uint8)
    tiles = 4 if k % 128 else 8
    packed = [torch._convert_weight_to_int4pack(one, tiles) for one in codes]
    group = roofline.GROUP
    scales = torch.rand((sets, k // group, n, 2), device="cuda").bfloat16()
    x = torch.randn((sets, tokens, k), device="cuda", dtype=torch.bfloat16)
    return lambda i: torch._weight_int4pack_mm(x[i], packed[i], group, scales[i])


def cases() -> Iterator[tuple[str, str, int, int, int, Launch]]:
    """Prepare one thing after the other, and check what is ours.

    Yields:
        The kernel, the shape, tokens, bytes that it moves, sets of inputs, and what launches it.
    """
    for (name, (n, k)), tokens in itertools.product(roofline.MATRICES.items(), TOKENS):
        shape, vectors = f"{name} {n} × {k}", 2 * tokens * (n + k)
        for kind, bytes_of_one in PRODUCTS.items():
            size = bytes_of_one(n, k) + vectors - 2 * (n + k)
            product = Product(kind, n, k, tokens, sets_of(size), "cuda")
            product.check(product.launch)
            yield f"gemv_{kind}", shape, tokens, size, product.sets, product.launch
        size = 2 * n * k + vectors
        sets = sets_of(size)
        yield "torch F.linear, BF16", shape, tokens, size, sets, linear(n, k, tokens, sets)
        if n % 8 == 0 and k % 64 == 0 and torch.cuda.get_device_capability() >= (8, 0):
            size = n * k // 2 + 4 * n * k // roofline.GROUP + vectors
            sets = sets_of(size)
            launch = int4pack(n, k, tokens, sets)
            yield "torch _weight_int4pack_mm", shape, tokens, size, sets, launch
    for (name, vocab), share in itertools.product(roofline.VOCABULARIES.items(), (1.0, 0.001)):
        shape, size = f"{name} {vocab}, {share:.1%} allowed", roofline.argmax_bytes(vocab, share)
        sets = sets_of(roofline.argmax_bytes(vocab, 1.0))
        choice = Choice(vocab, share, sets, "cuda")
        choice.check(choice.launch)
        yield "masked_argmax", shape, 1, size, sets, choice.launch
        yield "torch masked_fill, argmax", shape, 1, 5 * vocab, sets, choice.launch_torch


def main() -> int:
    """Measure and print.

    Returns:
        Exit status.
    """
    parser = argparse.ArgumentParser(description="Check and time the kernels on this GPU.")
    parser.add_argument("--output", type=Path, help="file for the figures (default: none)")
    output = parser.parse_args().output
    missing = f"{ABSENT} is not installed" if ABSENT else "torch finds no GPU"
    if ABSENT or not torch.cuda.is_available():
        print(f"measure.py needs an NVIDIA GPU, torch and Triton: {missing}", file=sys.stderr)
        return 2
    torch.set_grad_enabled(False)
    report = {"torch": torch.__version__, "triton": triton_version, "seed": torch.seed()}
    report |= {"gpu": torch.cuda.get_device_name(), "copy_gb_s": round(copy_gb_s(), 1)}
    print(", ".join(f"{name} {value}" for name, value in report.items()), end="\n\n")
    print("| kernel | shape | tokens | µs | GB/s | of the copy's |")
    print("| --- | --- | --- | --- | --- | --- |")
    rows = []
    for kernel, shape, tokens, size, sets, launch in cases():
        us = microseconds(launch, sets)
        gb_s = size / us / 1e3
        share = f"{gb_s / report['copy_gb_s']:.0%}"
        print(f"| {kernel} | {shape} | {tokens} | {us:.2f} | {gb_s:.0f} | {share} |", flush=True)
        row = {"kernel": kernel, "shape": shape, "tokens": tokens, "bytes": size}
        rows.append({**row, "microseconds": us, "gb_s": gb_s})
    if output is not None:
        output.write_text(json.dumps({**report, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
