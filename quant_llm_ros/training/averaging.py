"""The mean of adapters: what two runs agree on stays, what each fitted by chance shrinks.

Izmailov et al. 2018, «Averaging Weights Leads to Wider Optima and Better Generalization»,
section 3; Wortsman et al. 2022, «Model soups», section 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
import shutil

import safetensors.torch
import torch

from quant_llm_ros.errors import CheckpointError
from quant_llm_ros.quantize.adapter import Adapter, CONFIG, TENSORS


def average_adapters(folders: Sequence[Path], output: Path) -> None:
    """Write the mean of adapters.

    The factors A and B are averaged, not their products. That only means something where one
    adapter was trained on from the other, or all from the same one.

    Args:
        folders: The adapters, two at least.
        output: Folder of the mean, which must not be one of them.

    Raises:
        CheckpointError: Fewer than two, one missing or damaged, or not alike.
    """
    if len(folders) < 2:
        raise CheckpointError("a mean needs two adapters or more")
    if output.resolve() in [folder.resolve() for folder in folders]:
        raise CheckpointError(f"{output} is one of the adapters; choose another --output")
    loaded = [Adapter.load(folder) for folder in folders]
    tensors = [safetensors.torch.load_file(folder / TENSORS) for folder in folders]
    first = tensors[0]
    for folder, adapter, other in zip(folders[1:], loaded[1:], tensors[1:], strict=True):
        shapes = {name: tensor.shape for name, tensor in other.items()}
        if adapter.scale != loaded[0].scale or shapes != {n: t.shape for n, t in first.items()}:
            raise CheckpointError(
                f"{folder} and {folders[0]} differ in rank, scale or the layers that they change; "
                "only adapters of one line of training have a mean"
            )
    mean = {
        name: torch.stack([other[name].float() for other in tensors]).mean(0).to(tensor.dtype)
        for name, tensor in first.items()
    }
    output.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folders[0] / CONFIG, output / CONFIG)
    staged = output / f".{TENSORS}"
    safetensors.torch.save_file(mean, staged, metadata={"format": "pt"})
    staged.replace(output / TENSORS)
