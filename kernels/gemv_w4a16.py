"""Product of a 4-bit weight matrix with an FP16 vector: what a step of decoding consists of.

A step reads every weight once and does two operations with it, so it takes as long as the memory
takes to deliver them. The kernel reads 4-bit codes and their scales and widens them in registers.
Several vectors are so many products beside each other, each of which reads the weights: right, but
slow for many.
"""

from __future__ import annotations

import triton
import triton.language as tl

SIGNATURE = {
    "x": "*fp16",
    "packed": "*u8",
    "scales": "*fp16",
    "n": "i32",
    "k": "i32",
    "y": "*fp16",
}
CONSTANTS = {"GROUP": 64, "BLOCK_N": 4, "BLOCK_K": 512}


@triton.jit
def gemv_w4a16(
    x,
    packed,
    scales,
    n,
    k,
    y,
    GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Compute ``y[t, i] = sum_j code[i, j] * scales[i, j // GROUP] * x[t, j]``, the sum in FP32.

    The grid is (``ceil(n / BLOCK_N)``, tokens).

    Args:
        x: FP16 ``[tokens, k]``.
        packed: Codes from -8 to 7 in two's complement, two in a byte, the first in its lower half,
            uint8 ``[n, k / 2]``.
        scales: FP16 ``[n, ceil(k / GROUP)]``.
        n: Rows.
        k: Columns, even.
        y: FP16 ``[tokens, n]``, written.
        GROUP: Columns that share a scale, even.
        BLOCK_N: Rows of a program.
        BLOCK_K: Columns that a program reads at once, a power of two.
    """
    token = tl.program_id(1).to(tl.int64)
    x += token * k
    y += token * n
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    bytes_of_row = k // 2
    groups = tl.cdiv(k, GROUP)
    total = tl.zeros((BLOCK_N,), dtype=tl.float32)
    for start in range(0, bytes_of_row, BLOCK_K // 2):
        column = start + tl.arange(0, BLOCK_K // 2)
        in_row = column < bytes_of_row
        inside = (rows[:, None] < n) & in_row[None, :]
        # 64 bits: a matrix may have more than 2**31 codes.
        offset = rows[:, None].to(tl.int64) * bytes_of_row + column[None, :]
        byte = tl.load(packed + offset, mask=inside, other=0).to(tl.int32)
        low = ((byte & 15) ^ 8) - 8
        high = ((byte >> 4) ^ 8) - 8
        even = tl.load(x + 2 * column, mask=in_row, other=0.0).to(tl.float32)
        odd = tl.load(x + 2 * column + 1, mask=in_row, other=0.0).to(tl.float32)
        group = rows[:, None].to(tl.int64) * groups + (2 * column // GROUP)[None, :]
        scale = tl.load(scales + group, mask=inside, other=0.0).to(tl.float32)
        product = low.to(tl.float32) * even[None, :] + high.to(tl.float32) * odd[None, :]
        total += tl.sum(product * scale, axis=1)
    tl.store(y + rows, total.to(tl.float16), mask=rows < n)
