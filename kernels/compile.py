"""Compile the kernels ahead of time, for GPUs that need not be there.

    python kernels/compile.py --output cubins

writes a cubin of each kernel for each GPU and prints, as one JSON list, what each takes: registers
of a thread, bytes that did not fit into them (spills), shared memory, threads of a program. The
assembler that comes with Triton is the source of these figures.
"""

from __future__ import annotations

import argparse
import json
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
        **resources(compiled.asm["ptx"], chip),
        "cubin_bytes": len(compiled.asm["cubin"]),
    }
    return compiled.asm["cubin"], report


def resources(ptx: str, chip: int) -> dict[str, int]:
    """Let the assembler say what a kernel takes.

    Returns:
        ``registers`` of a thread, and ``spill_bytes`` that are stored and loaded for lack of them.
    """
    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    # Triton has a second assembler for the chips from 100 on.
    blackwell = folder / "ptxas-blackwell"
    assembler = blackwell if chip >= 100 and blackwell.exists() else folder / "ptxas"
    target = re.search(r"^\.target (\S+)", ptx, re.MULTILINE)
    name = target.group(1).rstrip(",") if target else f"sm_{chip}"
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        done = subprocess.run(
            [assembler, "-v", f"--gpu-name={name}", "-o", "/dev/null", file.name],
            capture_output=True,
            text=True,
            check=True,
        )
    said = done.stderr + done.stdout
    registers = re.search(r"Used (\d+) registers", said)
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", said)
    if registers is None:
        raise RuntimeError(f"the assembler did not say how many registers are used: {said}")
    return {"registers": int(registers.group(1)), "spill_bytes": sum(map(int, spills))}


def main() -> int:
    """Compile everything.

    Returns:
        Exit status.
    """
    parser = argparse.ArgumentParser(description="Compile the kernels ahead of time.")
    parser.add_argument("--output", type=Path, help="folder for the cubins (default: none)")
    parser.add_argument("--sm", type=int, nargs="+", default=CHIPS, help="compute capabilities")
    arguments = parser.parse_args()
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
