"""Methods that look at the inputs of a layer: GPTQ, AWQ, SmoothQuant, and rounding inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
import torch

from quant_llm_ros.quantize.methods.awq import AwqQuantizer
from quant_llm_ros.quantize.methods.cluster import ClusterQuantizer
from quant_llm_ros.quantize.methods.gptq import GptqQuantizer
from quant_llm_ros.quantize.methods.learned import LearnedQuantizer
from quant_llm_ros.quantize.methods.smoothquant import SmoothQuantizer
from quant_llm_ros.quantize.methods.uniform import UniformQuantizer
from quant_llm_ros.quantize.tensors import (
    InputQuantizer,
    InputStatistics,
    output_error,
    Quantizer,
)


def layer(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor, InputStatistics]:
    """Make inputs as a language model has them, correlated and with a few large features."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(128, 128, generator=generator) / 11 + 0.5 * torch.eye(128)
    x = torch.randn(600, 128, generator=generator) @ mixing
    x[:, [3, 40, 77]] *= 12
    weight = torch.randn(48, 128, generator=generator)
    inputs = InputStatistics(x.T @ x / len(x), x.abs().amax(0), x.abs().mean(0), x.abs().amax(1))
    return x, weight, inputs


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("order", ["activation", "given"])
@pytest.mark.parametrize("block", [32, 128, "channel"])
def test_gptq_makes_the_outputs_better(bits: int, order: str, block: int | str) -> None:
    x, weight, inputs = layer()
    gptq = GptqQuantizer(bits, block, "minmax", order, 0.01)(weight, inputs).dequantize()
    plain = UniformQuantizer(bits, block, "minmax", True)(weight).dequantize()
    gained = output_error(gptq - weight, inputs.hessian)
    assert gained < 0.85 * output_error(plain - weight, inputs.hessian)
    outputs = ((gptq - weight) @ x.T).square().sum() / len(x)
    assert gained == pytest.approx(float(outputs), rel=1e-3)


def test_gptq_without_correlation_is_rounding_to_nearest() -> None:
    _, weight, inputs = layer()
    flat = InputStatistics(torch.eye(128), inputs.largest, inputs.mean_abs, inputs.token_largest)
    gptq = GptqQuantizer(4, 32, "minmax", "activation", 0.01)(weight, flat)
    plain = UniformQuantizer(4, 32, "minmax", True)(weight)
    assert torch.equal(gptq.codes, plain.codes)


def test_gptq_with_inputs_that_are_always_zero() -> None:
    _, weight, inputs = layer()
    hessian = inputs.hessian.clone()
    hessian[5], hessian[:, 5] = 0, 0
    dead = InputStatistics(hessian, inputs.largest, inputs.mean_abs, inputs.token_largest)
    codes = GptqQuantizer(4, 32, "mse", "activation", 0.01)(weight, dead).codes
    assert int(codes[:, 5].abs().max()) == 0


def test_gptq_algorithm_one_column_at_a_time() -> None:
    """The blocked updates are those of the plain algorithm, written down from the paper."""
    _, weight, inputs = layer(3)
    quantizer = GptqQuantizer(3, "channel", "minmax", "given", 0.05)
    got = quantizer(weight, inputs)
    assert got.scales is not None
    hessian = inputs.hessian.double()
    hessian = hessian + 0.05 * hessian.diagonal().mean() * torch.eye(128)
    inverse = torch.linalg.inv(hessian)
    left, expected = weight.double().clone(), torch.empty(48, 128)
    scale = got.scales[:, 0].double()
    for i in range(128):
        expected[:, i] = (left[:, i] / scale).round().clamp(-4, 3)
        error = (left[:, i] - expected[:, i] * scale) / inverse[i, i]
        left -= error[:, None] * inverse[i]
        inverse = inverse - torch.outer(inverse[:, i], inverse[i]) / inverse[i, i]
        inverse[i, i] = 1.0  # this input is done
    assert float((got.codes != expected).float().mean()) < 0.001  # ties in another precision


@pytest.mark.parametrize("clip", [False, True])
def test_awq_makes_the_outputs_better(clip: bool) -> None:
    _, weight, inputs = layer()
    awq = AwqQuantizer(3, 32, clip)
    factors = awq.weight_factors([weight], inputs)
    scaled = InputStatistics(
        inputs.hessian / factors / factors[:, None],
        inputs.largest / factors,
        inputs.mean_abs / factors,
        inputs.token_largest,
    )
    values = awq(weight * factors, scaled).dequantize() / factors
    plain = UniformQuantizer(3, 32, "minmax", True)(weight).dequantize()
    gained = output_error(values - weight, inputs.hessian)
    assert gained < 0.8 * output_error(plain - weight, inputs.hessian)
    assert bool((factors > 0).all())


def test_smoothquant_moves_the_outliers() -> None:
    """With α = 0.5 inputs and weights end with the same largest value (equation 4)."""
    _, weight, inputs = layer()
    factors = SmoothQuantizer(8, "channel", 0.5).weight_factors([weight, 0.5 * weight], inputs)
    torch.testing.assert_close(inputs.largest / factors, (weight * factors).abs().amax(0))


@pytest.mark.parametrize("quantizer", [InputQuantizer(8, None), InputQuantizer(4, None)])
def test_dynamic_ranges_belong_to_a_token(quantizer: InputQuantizer) -> None:
    x, *_ = layer()
    steps = x.abs().amax(1, keepdim=True) / (2 ** (quantizer.bits - 1) - 1)
    assert bool(((quantizer(x) - x).abs() <= steps * 0.5001).all())
    torch.testing.assert_close(quantizer(1e3 * x[:4]), 1e3 * quantizer(x[:4]))
    assert float(quantizer(torch.zeros(2, 8)).abs().max()) == 0


def test_static_ranges_clip() -> None:
    x = torch.tensor([[0.04, -0.26, 100.0, -100.0]])
    torch.testing.assert_close(InputQuantizer(8, 0.1)(x), torch.tensor([[0.0, -0.3, 12.7, -12.8]]))
    limited = InputQuantizer(8, 0.1, floating=True)(x)
    assert (float(limited[0, 2]), float(limited[0, 3])) == pytest.approx((44.8, -44.8))


def test_learned_steps(tmp_path: Path) -> None:
    _, weight, _ = layer()
    steps = torch.rand(48, 4) + 0.1
    save_file({"a.weight": steps}, tmp_path / "steps.safetensors")

    def quantizer(name: str, **changes: Any) -> LearnedQuantizer:
        settings = {"bits": 3, "block": 32, "range": "mse", "steps": "steps.safetensors"}
        return LearnedQuantizer(**{**settings, **changes}).bound(tmp_path, name)

    quantized = quantizer("a.weight")(weight)
    assert quantized.scales is not None
    torch.testing.assert_close(quantized.scales, steps)
    # The weights that were trained stay as they are.
    again = quantizer("a.weight")(quantized.dequantize())
    assert torch.equal(again.codes, quantized.codes)
    others = quantizer("b.weight")(weight)
    assert torch.equal(others.codes, UniformQuantizer(3, 32, "mse", True)(weight).codes)
    with pytest.raises(ValueError, match="another block or for another model"):
        quantizer("a.weight", block=64)(weight)
    with pytest.raises(ValueError, match=r"none\.safetensors cannot be read"):
        quantizer("a.weight", steps="none.safetensors")(weight)
    (tmp_path / "cut.safetensors").write_bytes(b"\x40\x00")
    with pytest.raises(ValueError, match=r"cut\.safetensors cannot be read"):
        quantizer("a.weight", steps="cut.safetensors")(weight)


@pytest.mark.parametrize(
    "quantizer",
    [
        GptqQuantizer(4, 32, "mse", "activation", 0.01),
        GptqQuantizer(4, 32, "mse", "given", 0.01),
        ClusterQuantizer(3, 16, True),
    ],
)
def test_codes_are_made_where_weight_and_inputs_are(quantizer: Quantizer) -> None:
    _, weight, inputs = layer()
    with torch.device("meta"):  # whatever is made without saying where cannot be computed with
        there = quantizer(weight, inputs).dequantize()
    assert torch.equal(there, quantizer(weight, inputs).dequantize())
