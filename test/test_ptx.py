"""PTX of Triton becomes PTX that TensorRT can launch, or is refused."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

TYPES = ["*fp16", "i32", "*fp16"]
PTX = """\
.version 8.7
.target sm_87
.visible .entry kernel(
\t.param .u64 .ptr .global .align 1 kernel_param_0,
\t.param .u32 kernel_param_1,
\t.param .u64 .ptr .global .align 1 kernel_param_2,
\t.param .u64 .ptr .global .align 1 kernel_param_3,
\t.param .u64 .ptr .global .align 1 kernel_param_4
)
.reqntid 128
{
\tld.param.b64 %rd1, [kernel_param_0];
\tld.param.b64 %rd2, [kernel_param_2];
\tret;
}
"""


@pytest.fixture
def ptx(repository: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(repository / "kernels"))
    return importlib.import_module("ptx")


def test_what_nobody_reads_is_removed(ptx: ModuleType) -> None:
    changed = ptx.without_scratch(PTX, "kernel", TYPES)
    removed = "".join(f",\n\t.param .u64 .ptr .global .align 1 kernel_param_{i}" for i in (3, 4))
    assert changed == PTX.replace(removed, "")
    assert ptx.without_scratch(changed, "kernel", TYPES) == changed


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[kernel_param_2]", "[kernel_param_3]", "looks at kernel_param_3"),
        ("[kernel_param_2]", "[kernel_param_2+8]", "takes the address of a parameter"),
        ("ld.param.b64 %rd2, [k", "mov.b64 %rd2, k", "takes the address|looks at"),
        (".u32 kernel_param_1", ".u64 kernel_param_1", r"parameter 1 of the PTX is no \.u32"),
        (".param .u64 .ptr .global .align 1 kernel_param_0", ".param .u32 kernel_param_0", "0 of"),
        (".entry kernel(", ".entry other(", "no entry of this name"),
    ],
)
def test_what_is_refused(ptx: ModuleType, old: str, new: str, message: str) -> None:
    changed = PTX.replace(old, new)
    assert changed != PTX
    with pytest.raises(ValueError, match=message):
        ptx.without_scratch(changed, "kernel", TYPES)


def test_too_few_parameters(ptx: ModuleType) -> None:
    with pytest.raises(ValueError, match="parameter 5 of the PTX"):
        ptx.without_scratch(PTX, "kernel", ["*fp16", "i32", *["*fp16"] * 4])
