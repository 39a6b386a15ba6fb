"""Compile the kernels ahead of time, for GPUs that need not be there.

    python kernels/compile.py --output FOLDER

writes a cubin of each kernel for each GPU and prints, as one JSON list, what each takes: registers
of a thread, bytes that did not fit into them (spills), shared memory, threads of a program. Beside
them it writes PTX that TensorRT can launch, and plugins.yaml, which says how: the folder is what
``quant_llm build-engine BUNDLE --plugins FOLDER`` takes.
"""

from __future__ import annotations

import argparse
import hashlib
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
from ptx import assemble, without_scratch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas, sm_arch_from_capability
from triton.compiler import ASTSource
import yaml

from quant_llm_ros.engine.tensorrt_plugins import DEFINITIONS, FORMAT_VERSION, RECORD

# Orin, desktop Ada, Thor, desktop Blackwell.
CHIPS = (87, 89, 110, 120)
# Versions of PTX: what a driver is older than, it refuses, and by itself Triton takes the newest.
# 8.7 is of CUDA 12.8; Thor was added in 9.0, of CUDA 13.0.
PTX_VERSION = 87
PTX_VERSIONS = {110: 90}
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
) -> tuple[bytes, str, dict[str, Any]]:
    """Compile one kernel for one GPU.

    Args:
        kernel: The jitted function.
        signature: Types of its arguments.
        constants: Values of its constants.
        chip: Compute capability, such as 87.

    Returns:
        The cubin, PTX for TensorRT, and what the kernel takes.

    Raises:
        ValueError: TensorRT could not launch it.
    """
    types = {**signature, **dict.fromkeys(constants, "constexpr")}
    source = ASTSource(fn=kernel, signature=types, constexprs=constants)
    version = PTX_VERSIONS.get(chip, PTX_VERSION)
    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", chip, 32),
        options={"num_warps": THREADS // 32, "ptx_version": version},
    )
    name = compiled.metadata.name
    pointers = tuple(kind.startswith("*") for kind in signature.values())
    if pointers != DEFINITIONS[name].pointers:
        raise ValueError(f"{name} has other parameters than its plugin passes")
    ptx = without_scratch(compiled.asm["ptx"], name, list(signature.values()))
    assemble(ptx, get_ptxas(chip).path, sm_arch_from_capability(chip))
    report = {
        "kernel": name,
        "chip": chip,
        "threads": THREADS,
        "shared_bytes": compiled.metadata.shared,
        **resources(compiled.asm["cubin"]),
        "cubin_bytes": len(compiled.asm["cubin"]),
    }
    return compiled.asm["cubin"], ptx, report


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
    # The same PTX wherever the sources lie.
    os.environ.setdefault("TRITON_DISABLE_LINE_INFO", "1")
    output = arguments.output
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    reports, records = [], []
    for kernel, signature, constants in KERNELS:
        for chip in arguments.sm:
            cubin, ptx, report = compile_kernel(kernel, signature, constants, chip)
            reports.append(report)
            if output is None:
                continue
            name = report["kernel"]
            (output / f"{name}.sm_{chip}.cubin").write_bytes(cubin)
            (output / f"{name}.sm_{chip}.ptx").write_text(ptx, encoding="utf-8")
            records.append(
                {
                    "name": name,
                    "sm": chip,
                    "file": f"{name}.sm_{chip}.ptx",
                    "sha256": hashlib.sha256(ptx.encode()).hexdigest(),
                    "pointers": [kind.startswith("*") for kind in signature.values()],
                    "threads": THREADS,
                    "shared_bytes": report["shared_bytes"],
                    "constants": constants,
                }
            )
    if output is not None:
        head = {"format_version": FORMAT_VERSION, "triton": triton.__version__}
        text = yaml.safe_dump({**head, "kernels": records}, sort_keys=False)
        (output / RECORD).write_text(text, encoding="utf-8")
    print(json.dumps(reports, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
