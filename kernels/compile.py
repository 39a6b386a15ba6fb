"""Compile the kernels ahead of time, for GPUs that need not be there.

    python kernels/compile.py --output cubins

writes a cubin of each kernel for each GPU and prints, as one JSON list, what each takes: registers
of a thread, bytes that did not fit into them (spills), shared memory, threads of a program.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
import re
import subprocess
import sys
import tempfile
from typing import Any

import gemv_codebook
import gemv_w4a16
import masked_argmax
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

# Orin, desktop Ada, Thor, desktop Blackwell.
CHIPS = (87, 89, 110, 120)
THREADS = 128
KERNELS = (
    (gemv_w4a16.gemv_w4a16, gemv_w4a16.SIGNATURE, gemv_w4a16.CONSTANTS),
    (gemv_codebook.gemv_codebook, gemv_codebook.SIGNATURE, gemv_codebook.CONSTANTS),
    (
        masked_argmax.masked_argmax_parts,
        masked_argmax.SIGNATURE_PARTS,
        masked_argmax.CONSTANTS_PARTS,
    ),
    (masked_argmax.masked_argmax_best, masked_argmax.SIGNATURE_BEST, masked_argmax.CONSTANTS_BEST),
)


def compile_kernel(
    kernel: Any, signature: dict[str, str], constants: dict[str, int], chip: int
) -> tuple[bytes, dict[str, Any]]:
    """Compile one kernel for one GPU.

    Args:
        kernel: The jitted function.
        signature: Types of its arguments.
        constants: Values of its constants.
        chip: Compute capability, such as 87.

    Returns:
        The cubin, and what it takes.
    """
    types = {**signature, **dict.fromkeys(constants, "constexpr")}
    source = ASTSource(fn=kernel, signature=types, constexprs=constants)
    compiled = triton.compile(
        source, target=GPUTarget("cuda", chip, 32), options={"num_warps": THREADS // 32}
    )
    report = {
        "kernel": compiled.metadata.name,
        "chip": chip,
        "threads": THREADS,
        "shared_bytes": compiled.metadata.shared,
        **resources(compiled.asm["cubin"]),
        "cubin_bytes": len(compiled.asm["cubin"]),
    }
    return compiled.asm["cubin"], report


def resources(cubin: bytes) -> dict[str, int]:
    """Read what a kernel takes out of its cubin.

    Returns:
        ``registers`` of a thread; ``spill_bytes`` of its stack, where goes what did not fit into
        them.
    """
    program = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run(
            [program, "--dump-resource-usage", file.name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    used = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", said)}
    if "REG" not in used:
        raise RuntimeError(f"{program} does not say how many registers are used: {said}")
    return {
        "registers": used["REG"],
        "spill_bytes": used.get("STACK", 0) + used.get("LOCAL", 0),
    }


def main() -> int:
    """Compile everything.

    Returns:
        Exit status.
    """
    parser = argparse.ArgumentParser(description="Compile the kernels ahead of time.")
    parser.add_argument("--output", type=Path, help="folder for the cubins (default: none)")
    parser.add_argument("--sm", type=int, nargs="+", default=CHIPS, help="compute capabilities")
    arguments = parser.parse_args()
    # As Triton 3.9 does by itself, but then it warns that 3.10 will not.
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    reports = []
    for kernel, signature, constants in KERNELS:
        for chip in arguments.sm:
            cubin, report = compile_kernel(kernel, signature, constants, chip)
            reports.append(report)
            if arguments.output is not None:
                arguments.output.mkdir(parents=True, exist_ok=True)
                name = f"{report['kernel']}.sm_{chip}.cubin"
                (arguments.output / name).write_bytes(cubin)
    print(json.dumps(reports, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
