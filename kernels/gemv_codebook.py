"""Product of a clustered weight matrix with an FP16 vector, or with several, one by one.

A weight is the number of one of 16 values; every group of rows has its own 16. The values need not
be evenly spaced, so they can lie where the weights are (Han et al., «Deep Compression», 2016,
section 3), at the same 4 bits that must be read.
"""

from __future__ import annotations

import triton
import triton.language as tl

SIGNATURE = {"x": "*fp16", "packed": "*u8", "books": "*fp16", "n": "i32", "k": "i32", "y": "*fp16"}
CONSTANTS = {"ROWS_PER_BOOK": 16, "BLOCK_N": 4, "BLOCK_K": 512}


@triton.jit
def gemv_codebook(
    x,
    packed,
    books,
    n,
    k,
    y,
    ROWS_PER_BOOK: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Compute ``y[t, i] = sum_j books[i // ROWS_PER_BOOK, code[i, j]] * x[t, j]``, in FP32.

    The grid is (``ceil(n / BLOCK_N)``, tokens).

    Args:
        x: FP16 ``[tokens, k]``.
        packed: Codes from 0 to 15, two in a byte, the first in its lower half, uint8
            ``[n, k / 2]``.
        books: FP16 ``[ceil(n / ROWS_PER_BOOK), 16]``; small enough to stay in the cache.
        n: Rows.
        k: Columns, even.
        y: FP16 ``[tokens, n]``, written.
        ROWS_PER_BOOK: Rows that share a codebook.
        BLOCK_N: Rows of a program.
        BLOCK_K: Columns that a program reads at once, a power of two.
    """
    token = tl.program_id(1).to(tl.int64)
    x += token * k
    y += token * n
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    bytes_of_row = k // 2
    book = books + (rows // ROWS_PER_BOOK * 16)[:, None]
    total = tl.zeros((BLOCK_N,), dtype=tl.float32)
    for start in range(0, bytes_of_row, BLOCK_K // 2):
        column = start + tl.arange(0, BLOCK_K // 2)
        in_row = column < bytes_of_row
        inside = (rows[:, None] < n) & in_row[None, :]
        offset = rows[:, None].to(tl.int64) * bytes_of_row + column[None, :]
        byte = tl.load(packed + offset, mask=inside, other=0).to(tl.int32)
        low = tl.load(book + (byte & 15), mask=inside, other=0.0).to(tl.float32)
        high = tl.load(book + (byte >> 4), mask=inside, other=0.0).to(tl.float32)
        even = tl.load(x + 2 * column, mask=in_row, other=0.0).to(tl.float32)
        odd = tl.load(x + 2 * column + 1, mask=in_row, other=0.0).to(tl.float32)
        total += tl.sum(low * even[None, :] + high * odd[None, :], axis=1)
    tl.store(y + rows, total.to(tl.float16), mask=rows < n)
