"""The mean of adapters: what two runs agree on stays, what each fitted by chance shrinks.

Izmailov et al. 2018, «Averaging Weights Leads to Wider Optima and Better Generalization»,
section 3; Wortsman et al. 2022, «Model soups», section 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
import shutil

import safetensors
import safetensors.torch
import torch

from quant_llm_ros.errors import CheckpointError
from quant_llm_ros.quantize.adapter import Adapter, CONFIG, TENSORS
from quant_llm_ros.quantize.methods.learned import STEPS


def average_adapters(folders: Sequence[Path], output: Path) -> None:
    """Write the mean of adapters.

    The factors A and B are averaged, not their products, and weights that were trained whole as
    they are, with their learned step sizes. That only means something where one adapter was
    trained on from the other, or all from the same one.

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
    scales = [Adapter.load(folder).scale for folder in folders]
    names = [name for name in (STEPS, TENSORS) if any((f / name).exists() for f in folders)]
    files = {name: [_read(folder / name) for folder in folders] for name in names}
    for index, folder in enumerate(folders):
        alike = all(_shapes(read[index]) == _shapes(read[0]) for read in files.values())
        if scales[index] != scales[0] or not alike:
            raise CheckpointError(
                f"{folder} and {folders[0]} differ in rank, scale or the layers that they change; "
                "only adapters of one line of training have a mean"
            )
    output.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folders[0] / CONFIG, output / CONFIG)
    for name, read in files.items():
        mean = {
            key: torch.stack([tensors[key].float() for tensors in read]).mean(0).to(tensor.dtype)
            for key, tensor in read[0].items()
        }
        staged = output / f".{name}"
        safetensors.torch.save_file(mean, staged, metadata={"format": "pt"})
        staged.replace(output / name)


def _read(path: Path) -> dict[str, torch.Tensor]:
    """Read a file of tensors.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
