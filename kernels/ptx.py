"""Makes PTX of Triton such that TensorRT can launch it.

TensorRT launches a plugin's kernel with the addresses of its inputs, then whole numbers, then the
addresses of its outputs. Triton 3.9 declares two more parameters behind its kernel's own,
addresses of scratch memory, which nobody would fill.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
import re
import subprocess
import tempfile


def without_scratch(ptx: str, name: str, types: Sequence[str]) -> str:
    """Remove the parameters that Triton has appended, after a proof that nothing reads them.

    Args:
        ptx: What Triton has made.
        name: The kernel.
        types: Triton's types of its own parameters, such as ``*fp16`` or ``i32``, in their order.

    Returns:
        PTX whose entry has exactly these parameters.

    Raises:
        ValueError: The entry has others, or something looks at one that would have to go.
    """
    entry = re.search(rf"\.entry {name}\(\n(.*?)\n\)", ptx, re.DOTALL)
    if entry is None:
        raise ValueError(f"{name}: the PTX has no entry of this name")
    declared = [line.strip().rstrip(",") for line in entry[1].splitlines()]
    for i, kind in enumerate(types):
        wanted = ".u64" if kind.startswith("*") else ".u32"
        if i >= len(declared) or declared[i].split()[1] != wanted:
            raise ValueError(f"{name}: parameter {i} of the PTX is no {wanted} ({kind})")
    kept, hidden = declared[: len(types)], declared[len(types) :]
    rest = ptx[: entry.start()] + ptx[entry.end() :]
    for line in hidden:
        parameter = line.split()[-1]
        if re.search(rf"\b{re.escape(parameter)}\b", rest):
            raise ValueError(f"{name}: the kernel looks at {parameter}, which TensorRT lacks")
    # A parameter's neighbours could be reached by its address, too.
    reached = re.search(rf"\b{name}_param_\d+\s*\+|\bmov\S*\s+\S+\s*,\s*{name}_param_\d+", rest)
    if reached:
        raise ValueError(f"{name}: the kernel takes the address of a parameter: {reached[0]}")
    return ptx[: entry.start(1)] + "\t" + ",\n\t".join(kept) + ptx[entry.end(1) :]


def assemble(ptx: str, ptxas: Path | str, architecture: str) -> bytes:
    """Assemble PTX.

    Args:
        ptx: The program.
        ptxas: NVIDIA's assembler.
        architecture: For which GPU, such as ``sm_87``.

    Returns:
        The cubin.

    Raises:
        ValueError: The assembler refuses it.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        source.write_text(ptx, encoding="utf-8")
        done = subprocess.run(
            [str(ptxas), f"--gpu-name={architecture}", str(source), "-o", str(target)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ValueError(f"ptxas refuses the PTX for {architecture}: {done.stderr.strip()}")
        return target.read_bytes()
