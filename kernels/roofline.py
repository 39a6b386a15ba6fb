"""Print the table of docs/kernels.md: how fast memory lets each kernel be.

    python kernels/roofline.py

A kernel that reads every byte once cannot be faster than the memory delivers them. The bandwidths
are NVIDIA's figures for the boards; what is reached in practice is less.
"""

from __future__ import annotations

import sys

BANDWIDTH_GB_S = {"Orin Nano": 102.0, "AGX Orin": 204.8, "Thor": 273.0}
GROUP = 64
ROWS_PER_BOOK = 16
# Rows and columns of matrices that a step of decoding multiplies with.
MATRICES = {
    "SmolLM2-135M, gate": (1536, 576),
    "Qwen3-0.6B, gate": (3072, 1024),
    "Qwen3-1.7B, gate": (6144, 2048),
    "Qwen3-1.7B, head": (151936, 2048),
}
VOCABULARIES = {"SmolLM2": 49152, "Qwen3": 151936}


def w4a16_bytes(n: int, k: int) -> int:
    """Bytes that the block-scaled product moves: codes, scales, the vector and the result."""
    return n * k // 2 + 2 * n * -(-k // GROUP) + 2 * k + 2 * n


def codebook_bytes(n: int, k: int) -> int:
    """Bytes that the product with codebooks moves."""
    return n * k // 2 + 2 * 16 * -(-n // ROWS_PER_BOOK) + 2 * k + 2 * n


def argmax_bytes(vocab: int, share: float) -> int:
    """Bytes that the masked choice moves where a share of the tokens is allowed.

    Memory is read in sectors of 32 bytes, 8 logits: a share of less costs as much as one in each.
    """
    sectors = min(1.0, 8 * share)
    return vocab // 8 + int(4 * vocab * sectors)


def main() -> int:
    """Print the table.

    Returns:
        Exit status.
    """
    rows = []
    for name, (n, k) in MATRICES.items():
        rows.append((f"W4A16, {name} {n} × {k}", w4a16_bytes(n, k)))
        rows.append((f"codebook, {name} {n} × {k}", codebook_bytes(n, k)))
    for name, vocab in VOCABULARIES.items():
        rows.append((f"masked argmax, {name} {vocab}, all allowed", argmax_bytes(vocab, 1.0)))
        rows.append((f"masked argmax, {name} {vocab}, 0.1 % allowed", argmax_bytes(vocab, 0.001)))
    print(
        "| kernel | bytes moved | " + " | ".join(f"{board}, µs" for board in BANDWIDTH_GB_S) + " |"
    )
    print("| --- " * (len(BANDWIDTH_GB_S) + 2) + "|")
    for name, size in rows:
        floors = [f"{size / bandwidth / 1e3:.1f}" for bandwidth in BANDWIDTH_GB_S.values()]
        print(f"| {name} | {size:,} | " + " | ".join(floors) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
