"""Our even grids against ONNX Runtime's own quantizers: the same codes, or an error no larger."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
import onnx
from onnx import helper, numpy_helper, TensorProto
import onnxruntime
from onnxruntime.quantization import quantize_dynamic, QuantType
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
import pytest
import torch

from quant_llm_ros.quantize.methods.uniform import UniformQuantizer

INPUTS, OUTPUTS = 128, 96


def weights(kind: str) -> torch.Tensor:
    """Weights ``[out, in]``: as at the start of training, or with a few large ones."""
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(OUTPUTS, INPUTS, generator=generator)
    if kind == "outliers":
        weight[torch.rand(weight.shape, generator=generator) < 0.01] *= 6
    return weight


def model(weight: torch.Tensor) -> onnx.ModelProto:
    """A graph with nothing but a product with the weight."""
    values = numpy_helper.from_array(weight.T.contiguous().numpy(), "w")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", INPUTS])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", OUTPUTS])
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    graph = helper.make_graph([node], "g", [x], [y], [values])
    opset = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10)


def seen(made: onnx.ModelProto) -> NDArray[np.float32]:
    """The weight ``[out, in]`` that a graph really multiplies with."""
    session = onnxruntime.InferenceSession(
        made.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    result: NDArray[np.float32] = session.run(None, {"x": np.eye(INPUTS, dtype=np.float32)})[0]
    return result.T


@pytest.mark.parametrize("kind", ["normal", "outliers"])
@pytest.mark.parametrize("block", [32, 128])
@pytest.mark.parametrize("symmetric", [True, False])
def test_int4_in_blocks(kind: str, block: int, symmetric: bool) -> None:
    """Their symmetric INT4 is our range ``signed``, their other one our ``minmax``.

    A search with positive scales, which TensorRT wants, comes close to ``signed``: with outliers
    in small blocks the code -8, which only that uses, is worth a few percent.
    """
    weight = weights(kind)
    theirs = MatMulNBitsQuantizer(
        model(weight), bits=4, block_size=block, is_symmetric=symmetric, accuracy_level=1
    )
    theirs.process()
    expected = torch.from_numpy(seen(theirs.model.model))
    error = float((expected - weight).square().sum())

    def ours(range_: str) -> torch.Tensor:
        return UniformQuantizer(4, block, range_, symmetric)(weight).dequantize()

    plain = ours("signed" if symmetric else "minmax")
    # Where a weight lies half-way between two codes, the last bit of the scale decides.
    assert float((plain - weight).square().sum()) <= (1.00001 if symmetric else 1.01) * error
    if symmetric:
        assert float((plain - expected).abs().gt(1e-5).float().mean()) < 0.001
    searched = float((ours("mse") - weight).square().sum())
    allowed = 1.1 if (kind, block, symmetric) == ("outliers", 32, True) else 1.0
    assert searched <= allowed * error


@pytest.mark.parametrize("kind", ["normal", "outliers"])
def test_int8_channels_have_the_same_codes(tmp_path: Path, kind: str) -> None:
    weight = weights(kind)
    onnx.save(model(weight), tmp_path / "model.onnx")
    quantize_dynamic(
        tmp_path / "model.onnx",
        tmp_path / "int8.onnx",
        per_channel=True,
        weight_type=QuantType.QInt8,
        extra_options={"WeightSymmetric": True},
    )
    made = {t.name: t for t in onnx.load(tmp_path / "int8.onnx").graph.initializer}
    codes = numpy_helper.to_array(made["w_quantized"]).T
    scales = numpy_helper.to_array(made["w_scale"])
    ours = UniformQuantizer(8, "channel", "minmax", True)(weight)
    assert ours.scales is not None
    np.testing.assert_allclose(scales, ours.scales[:, 0].numpy(), rtol=1e-6)
    difference = np.abs(codes.astype(int) - ours.codes.numpy())
    # Where a weight lies half-way between two codes, the last bit of the scale decides.
    assert difference.max() <= 1
    assert (difference != 0).mean() < 0.001
