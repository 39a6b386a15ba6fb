"""Methods on even grids: uniform, fixed-point, floating-point, binary, clustering."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from quant_llm_ros.errors import RecipeError
from quant_llm_ros.quantize.methods import make_quantizer, METHODS
from quant_llm_ros.quantize.methods.cluster import kmeans
from quant_llm_ros.quantize.methods.fixed_point import exponents, integer_linear
from quant_llm_ros.quantize.methods.floating import to_e2m1
from quant_llm_ros.quantize.tensors import InputStatistics, QuantizedTensor


def make(method: str, **settings: Any) -> Callable[..., QuantizedTensor]:
    return make_quantizer(method, settings, "recipe")


def random_weight(out: int = 48, inputs: int = 128, seed: int = 1) -> torch.Tensor:
    return torch.randn(out, inputs, generator=torch.Generator().manual_seed(seed))


def error(method: str, weight: torch.Tensor | None = None, **settings: Any) -> float:
    weight = random_weight() if weight is None else weight
    quantized = make(method, **settings)(weight)
    return float((quantized.dequantize() - weight).square().mean())


# Method and settings, bits per weight (of a weight of 48 x 128), and the most error that a weight
# of normally distributed numbers may have, relative to its variance.
TABLE: list[tuple[str, dict[str, Any], float, float]] = [
    ("uniform", {"bits": 8, "block": "tensor"}, 8 + 32 / 6144, 2e-4),
    ("uniform", {"bits": 8, "block": "channel"}, 8 + 32 / 128, 1e-4),
    ("uniform", {"bits": 4, "symmetric": False}, 4 + 36 / 32, 0.01),
    ("uniform", {"bits": 3, "range": "mse"}, 3 + 1, 0.04),
    ("uniform", {"bits": 2, "range": "mse"}, 2 + 1, 0.15),
    ("uniform", {"bits": 4, "range": "signed"}, 4 + 1, 0.01),
    ("uniform", {"bits": 2, "range": "mse", "symmetric": False}, 2 + 34 / 32, 0.15),
    ("uniform", {"bits": 4, "block": "channel", "range": "percentile"}, 4 + 32 / 128, 0.02),
    ("fixed_point", {"bits": 8}, 8 + 8 / 32, 2e-4),
    ("fixed_point", {"bits": 4, "block": "channel"}, 4 + 8 / 128, 0.03),
    ("floating", {"type": "fp16"}, 16, 1e-7),
    ("floating", {"type": "bf16"}, 16, 1e-5),
    ("floating", {"type": "fp8_e4m3"}, 8 + 32 / 128, 1e-3),
    ("floating", {"type": "fp8_e5m2", "block": "tensor"}, 8 + 32 / 6144, 4e-3),
    ("floating", {"type": "nvfp4"}, 4 + 8 / 16 + 512 / 6144, 0.015),
    ("binary", {"planes": 1}, 1 + 1 + 64 / 6144, 0.4),
    ("binary", {"planes": 2}, 2 * (1 + 1 + 64 / 6144), 0.15),
    ("binary", {"planes": 3}, 3 * (1 + 1 + 64 / 6144), 0.06),
    ("cluster", {"bits": 4}, 4 + 512 / 6144, 0.0105),
    ("cluster", {"bits": 3}, 3 + 256 / 6144, 0.038),
    ("cluster", {"bits": 2, "rows": 16}, 2 + 3 * 128 / 6144, 0.125),
    ("learned", {"bits": 4}, 4 + 1, 0.01),
    ("gptq", {"bits": 4}, 4 + 1, 0.01),
    ("awq", {"bits": 4}, 4 + 1, 0.01),
    ("smoothquant", {}, 8 + 32 / 128, 1e-4),
]


@pytest.mark.parametrize(("method", "settings", "bits", "limit"), TABLE)
def test_size_and_error(method: str, settings: dict[str, Any], bits: float, limit: float) -> None:
    weight = random_weight()
    quantized = make(method, **settings)(weight)
    assert quantized.shape == (48, 128)
    assert quantized.size_bits / weight.numel() == pytest.approx(bits)
    values = quantized.dequantize()
    assert (values.dtype, values.shape) == (torch.float32, weight.shape)
    assert float((values - weight).square().mean()) < limit


def test_every_method_is_in_the_table() -> None:
    assert {method for method, *_ in TABLE} == set(METHODS)


@pytest.mark.parametrize(
    ("method", "worse", "better"),
    [
        ("uniform", {"bits": 3}, {"bits": 4}),
        ("uniform", {"bits": 2}, {"bits": 2, "range": "mse"}),
        *(("uniform", {"bits": bits}, {"bits": bits, "range": "signed"}) for bits in range(2, 9)),
        ("uniform", {"block": "tensor"}, {"block": "channel"}),
        ("uniform", {"block": "channel"}, {"block": 16}),
        ("fixed_point", {"bits": 4, "range": "minmax"}, {"bits": 4, "range": "mse"}),
        ("binary", {"planes": 1}, {"planes": 2}),
        ("binary", {"planes": 2}, {"planes": 3}),
        ("cluster", {"bits": 3}, {"bits": 4}),
    ],
)
def test_what_is_better(method: str, worse: dict[str, Any], better: dict[str, Any]) -> None:
    assert error(method, **better) < error(method, **worse)


def test_zero_points_help_where_weights_are_not_symmetric() -> None:
    weight = random_weight().abs() + 0.5
    assert error("uniform", weight, symmetric=False) < 0.5 * error("uniform", weight)
    zeros = make("uniform", symmetric=False)(weight)
    torch.testing.assert_close(
        make("uniform", symmetric=False)(weight * 0).dequantize(), weight * 0
    )
    assert zeros.zero_points is not None


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("block", [16, "channel", "tensor"])
def test_a_signed_step_gives_the_largest_weight_the_lowest_code(
    bits: int, block: int | str
) -> None:
    weight = random_weight()
    weight[3] = 0.0
    quantized = make("uniform", bits=bits, block=block, range="signed")(weight)
    values = quantized.dequantize()
    size = {16: 16, "channel": 128, "tensor": weight.numel()}[block]
    blocks, codes = weight.view(-1, size), quantized.codes.view(-1, size)
    place = blocks.abs().argmax(1, keepdim=True)
    full = blocks.abs().amax(1) > 0
    assert (codes.gather(1, place)[full] == -(2 ** (bits - 1))).all()
    largest = values.view(-1, size).gather(1, place)
    torch.testing.assert_close(largest, blocks.gather(1, place), rtol=0, atol=0)
    assert (values[3] == 0).all()


def test_a_percentile_clips_outliers() -> None:
    weight = random_weight(4, 4096)
    weight[:, 7] = 40.0
    clipped = make("uniform", block="channel", range="percentile", percentile=99.9)(weight)
    inside = torch.arange(4096) != 7
    plain = make("uniform", block="channel")(weight)
    change, plain_change = (
        float((q.dequantize() - weight)[:, inside].square().mean()) for q in (clipped, plain)
    )
    assert change < 0.1 * plain_change
    assert float(clipped.dequantize().abs().max()) < 10


@pytest.mark.parametrize("block", [16, "channel"])
def test_integer_arithmetic_is_exact(block: int | str) -> None:
    """The layer in integers gives, bit for bit, the exact sum, rounded half up and saturated."""
    generator = torch.Generator().manual_seed(2)
    weight = make("fixed_point", bits=8, block=block)(random_weight(6, 64) * 0.3)
    x = torch.randint(-128, 128, (5, 64), generator=generator)
    x_exponent, out_exponent, out_bits = -5, -4, 8
    codes = integer_linear(x, x_exponent, weight, out_exponent, out_bits)
    powers = exponents(weight)
    saturated = 0
    for n, o in itertools.product(range(5), range(6)):
        total = sum(
            Fraction(int(x[n, i]))
            * Fraction(2) ** x_exponent
            * int(weight.codes[o, i])
            * Fraction(2) ** int(powers[o, i // weight.block])
            for i in range(64)
        )
        rounded = (total / Fraction(2) ** out_exponent + Fraction(1, 2)).__floor__()
        expected = max(-128, min(127, rounded))
        saturated += expected != rounded
        assert int(codes[n, o]) == expected
    assert 0 < saturated < 30  # both ends are tried


def test_fixed_point_scales_are_powers_of_two() -> None:
    for value in (1.0, 127.0, 127.5, 2.0**-20, 0.0):
        weight = torch.full((1, 32), value)
        quantized = make("fixed_point", range="minmax")(weight)
        exponents(quantized)
        assert quantized.scales is not None
        step = float(quantized.scales)
        assert float((quantized.dequantize() - weight).abs().max()) <= step / 2
    with pytest.raises(ValueError, match="not a power of two"):
        exponents(make("uniform")(random_weight()))


def test_fp4_rounds_as_ml_dtypes() -> None:
    x = torch.cat((torch.linspace(-7, 7, 2801), torch.tensor([0.25, 0.75, 2.5, 5.0, -5.0, 1e9])))
    expected = x.clamp(-6, 6).numpy().astype(ml_dtypes.float4_e2m1fn)
    assert np.array_equal(to_e2m1(x).numpy().astype(np.uint8), expected.view(np.uint8))


def test_nvfp4_scales_are_e4m3_numbers() -> None:
    weight = random_weight() * 3e-3
    quantized = make("floating", type="nvfp4")(weight)
    assert quantized.scales is not None
    assert quantized.scale_unit is not None
    stored = quantized.scales / quantized.scale_unit
    torch.testing.assert_close(stored.to(torch.float8_e4m3fn).float(), stored)
    assert 400 < float(stored.max()) <= 448


def best_partition(points: list[float], weights: list[float], k: int) -> float:
    """Least cost of k clusters, by trying all."""

    def cost(first: int, end: int) -> float:
        x, w = np.array(points[first:end]), np.array(weights[first:end])
        return float((w * (x - np.average(x, weights=w)) ** 2).sum())

    return min(
        sum(cost(a, b) for a, b in itertools.pairwise((0, *cuts, len(points))))
        for cuts in itertools.combinations(range(1, len(points)), k - 1)
    )


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("k", [2, 3, 4])
def test_kmeans_is_optimal(seed: int, k: int) -> None:
    generator = np.random.default_rng(seed)
    points = np.sort(generator.standard_normal(11) ** 3)
    weights = generator.uniform(0.1, 5.0, 11)
    centres = kmeans(points, weights, k)
    assert (np.diff(centres) >= 0).all()
    distance = np.abs(points[:, None] - centres).min(1)
    cost = float((weights * distance**2).sum())
    assert cost == pytest.approx(best_partition(points.tolist(), weights.tolist(), k))


def test_few_values_are_kept_exactly() -> None:
    weight = torch.tensor([[-1.5, 0.25, 2.0, 0.25], [2.0, 2.0, -1.5, 7.0]])
    for bits in (2, 3, 4):
        torch.testing.assert_close(make("cluster", bits=bits)(weight).dequantize(), weight)


def test_sensitive_weights_are_nearer_to_a_centre() -> None:
    weight = random_weight(16, 64)
    hessian = torch.eye(64)
    hessian[:8, :8] *= 100
    inputs = InputStatistics(hessian, torch.ones(64), torch.ones(64), torch.ones(4))
    plain, sensitive = (
        make("cluster", bits=2, sensitivity=flag)(weight, inputs).dequantize() - weight
        for flag in (False, True)
    )
    assert float(sensitive[:, :8].square().sum()) < 0.95 * float(plain[:, :8].square().sum())
    assert float(sensitive.square().sum()) > float(plain.square().sum())


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("uniform", {"bits": 1}, "bits must be 2, 3, 4, 5, 6, 7 or 8, not 1"),
    ("uniform", {"bits": True}, "bits must be"),
    ("uniform", {"bits": 4.0}, "bits must be"),
    ("uniform", {"block": "row"}, "block must be 16, 32, 64, 128, 256, channel or tensor"),
    ("uniform", {"range": "max"}, "range must be minmax, percentile, mse or signed, not 'max'"),
    ("uniform", {"range": "signed", "symmetric": False}, "range signed is for symmetric grids"),
    ("uniform", {"percentile": 20}, "percentile must be"),
    ("uniform", {"percentile": "all"}, "percentile must be above 50 and at most 100, not 'all'"),
    ("uniform", {"simmetric": True}, "no setting 'simmetric'; did you mean 'symmetric'"),
    ("fixed_point", {"range": "percentile"}, "range must be minmax or mse"),
    ("floating", {"type": "fp7"}, "type must be fp16, .* or nvfp4, not 'fp7'"),
    ("binary", {"planes": 4}, "planes must be 1, 2 or 3"),
    ("cluster", {"bits": 8}, "bits must be 2, 3 or 4"),
    ("cluster", {"rows": -1}, "rows must be 0 or a number"),
    ("gptq", {"order": "random"}, "order must be activation or given"),
    ("gptq", {"damping": 0}, "damping must be above 0"),
    ("gptq", {"block": "tensor"}, "block must be 16, 32, 64, 128, 256 or channel"),
    ("awq", {"clip": 1}, "clip must be true or false"),
    ("smoothquant", {"alpha": 2}, "alpha must be from 0 to 1"),
    ("learned", {"steps": 3}, "steps must be a path"),
    ("gptQ", {}, "unknown method 'gptQ'; did you mean 'gptq'"),
]


@pytest.mark.parametrize(("method", "settings", "message"), WRONG)
def test_wrong_settings(method: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make(method, **settings)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_weights_that_are_not_finite(method: str) -> None:
    for value in (float("nan"), float("inf")):
        weight = random_weight()
        weight[3, 5] = value
        with pytest.raises(ValueError, match="not finite"):
            make(method)(weight)


@pytest.mark.parametrize(
    ("method", "settings", "shape", "message"),
    [
        ("uniform", {}, (4, 48), "48 inputs are not a multiple of the block, 32; 16 would do"),
        ("fixed_point", {}, (4, 48), "48 inputs are not a multiple of the block, 32"),
        ("floating", {"block": 32}, (4, 48), "48 inputs are not a multiple of the block, 32"),
        ("floating", {"type": "nvfp4"}, (4, 40), "40 inputs are not a multiple of the block, 16"),
        ("binary", {}, (4, 48), "48 inputs are not a multiple of the block, 32"),
        ("cluster", {"rows": 3}, (4, 48), "4 rows are not a multiple of 3, the setting rows"),
        ("gptq", {}, (4, 48), "48 inputs are not a multiple of the block, 32"),
        ("awq", {}, (4, 48), "48 inputs are not a multiple of the block, 32"),
    ],
)
def test_shapes_that_do_not_fit(
    method: str, settings: dict[str, Any], shape: tuple[int, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(method, **settings)(random_weight(*shape))


@pytest.mark.parametrize(("method", "settings", "bits", "limit"), TABLE)
def test_codes_are_made_where_the_weight_is(
    method: str, settings: dict[str, Any], bits: float, limit: float
) -> None:
    weight = random_weight()
    quantize = make(method, **settings)
    with torch.device("meta"):  # whatever is made without saying where cannot be computed with
        there = quantize(weight).dequantize()
    assert torch.equal(there, quantize(weight).dequantize())
