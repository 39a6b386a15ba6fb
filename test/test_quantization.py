"""Quantized tensors and the uniform method."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from quant_llm_ros.quantize.methods.uniform import DEFAULTS, UniformQuantizer
from quant_llm_ros.quantize.tensors import QuantizedTensor
from quant_llm_ros.quantize.weight_file import pack_int4


def make(**changes: Any) -> UniformQuantizer:
    return UniformQuantizer(**{**DEFAULTS, **changes})


@pytest.mark.parametrize(
    ("codes", "packed"),
    [
        ([0, 0], [0x00]),
        ([1, 2], [0x21]),
        ([-1, 7], [0x7F]),
        ([-8, -8, 7, 0], [0x88, 0x07]),
        ([[3, -2, 1], [0, 5, -4]], [0xE3, 0x01, 0xC5]),
    ],
)
def test_pack_int4(codes: list[Any], packed: list[int]) -> None:
    assert pack_int4(np.array(codes, dtype=np.int8)).tolist() == packed


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", [16, 32, 64])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_minmax_error_is_at_most_half_a_step(bits: int, block: int, scale: float) -> None:
    weight = torch.randn(48, 128, generator=torch.Generator().manual_seed(1)) * scale
    quantized = make(bits=bits, block=block)(weight)
    half_step = quantized.scales.repeat_interleave(block, dim=1) / 2
    assert bool(((quantized.dequantize() - weight).abs() <= half_step * 1.0001).all())
    assert quantized.shape == (48, 128)
    assert int(quantized.codes.abs().max()) == 2 ** (bits - 1) - 1
    assert quantized.size_bits == 48 * 128 * bits + 48 * 128 // block * 32


@pytest.mark.parametrize("bits", [4, 8])
def test_mse_has_less_error_than_minmax(bits: int) -> None:
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(2))
    errors = {
        kind: float((make(bits=bits, range=kind)(weight).dequantize() - weight).square().mean())
        for kind in ("mse", "minmax")
    }
    assert errors["mse"] < errors["minmax"]


@pytest.mark.parametrize("kind", ["mse", "minmax"])
def test_values_on_the_grid_are_kept(kind: str) -> None:
    codes = torch.arange(32).remainder(15) - 7
    weight = (codes * 0.25).repeat(3, 2)
    torch.testing.assert_close(make(range=kind)(weight).dequantize(), weight)


@pytest.mark.parametrize("kind", ["mse", "minmax"])
def test_zeros_stay_zeros(kind: str) -> None:
    weight = torch.zeros(2, 64)
    weight[1, 40] = 3.0
    torch.testing.assert_close(make(range=kind)(weight).dequantize(), weight)


def test_many_rows_are_quantized_as_few() -> None:
    weight = torch.randn(5000, 32, generator=torch.Generator().manual_seed(3))
    whole, last = make()(weight), make()(weight[-10:])
    assert torch.equal(whole.codes[-10:], last.codes)
    assert torch.equal(whole.scales[-10:], last.scales)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.zeros(2, 33), "33 inputs are not a multiple of the block, 32"),
        (torch.full((2, 32), float("nan")), "not finite"),
        (torch.full((2, 32), float("inf")), "not finite"),
    ],
)
def test_wrong_weight(weight: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()(weight)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 1}, "bits must be 2, 3, 4, 5, 6, 7 or 8, not 1"),
        ({"bits": "4"}, "bits must be .* not '4'"),
        ({"block": 33}, "block must be"),
        ({"block": 0}, "block must be"),
        ({"range": "max"}, "range must be minmax, percentile, mse or signed"),
        ({"symmetric": 1}, "symmetric must be true or false"),
    ],
)
def test_wrong_setting(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changes)


CODES = torch.zeros(2, 64, dtype=torch.int8)
SCALES = torch.ones(2, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((CODES.int(), SCALES, 4, 32), "codes must be int8"),
        ((CODES, SCALES.double(), 4, 32), "scales float32"),
        ((CODES, SCALES, 9, 32), "bits must be 1 to 8"),
        ((CODES.half(), SCALES, 8, 32), "those of the number type"),
        ((CODES, SCALES, 4, 32, SCALES[:, :1]), "zero points do not fit"),
        ((CODES, None, 2, 64, None, torch.zeros(1, 8)), "codebook .* does not fit the codes"),
        ((CODES - 1, None, 2, 64, None, torch.zeros(1, 4)), "does not fit into 2 bits"),
        ((CODES, SCALES, 4, 16), "do not fit"),
        ((CODES, SCALES, 4, 24), "do not fit"),
        ((CODES + 8, SCALES, 4, 32), "does not fit into 4 bits"),
        ((CODES - 9, SCALES, 4, 32), "does not fit into 4 bits"),
    ],
)
def test_wrong_tensor(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuantizedTensor(*arguments)
