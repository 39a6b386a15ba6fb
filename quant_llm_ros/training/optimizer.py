"""The optimizer of weights and step sizes, and how its learning rate falls."""

from __future__ import annotations

from collections.abc import Collection
import math

import torch
from torch import nn

STEP_RATE = 0.1
"""Learning rate of step sizes, as a share of that of weights."""
_LONGEST_GRADIENT = 1.0


def make_optimizer(
    weights: Collection[nn.Parameter], steps: Collection[nn.Parameter]
) -> torch.optim.Optimizer:
    """Make AdamW for weights or an adapter's factors, and for step sizes."""
    groups = [
        {"params": list(weights), "share": 1.0},
        {"params": list(steps), "share": STEP_RATE},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=0.0, weight_decay=0.0, fused=True
    )


def take_step(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Change all parameters by their gradients, which are clipped first and forgotten afterwards.

    Args:
        optimizer: From :func:`make_optimizer`.
        learning_rate: Of weights; step sizes have a share of it.
    """
    groups = optimizer.param_groups
    torch.nn.utils.clip_grad_norm_(
        [parameter for group in groups for parameter in group["params"]], _LONGEST_GRADIENT
    )
    for group in groups:
        group["lr"] = learning_rate * group["share"]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def falling(part: float) -> float:
    """Give the share of the highest learning rate, a cosine from 1 to 0.02.

    Args:
        part: How much of the training is done, 0 to 1.
    """
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * part))
