"""The decoder as an ONNX graph of standard operators, built node by node.

Inputs: ``input_ids`` int64 ``[1, n]``, ``logit_positions`` int64 ``[k]`` (which of the new tokens'
logits are wanted), ``past_key_<i>`` and ``past_value_<i>`` float32 ``[1, kv, p, dim]``.
Outputs: ``logits`` float32 ``[k, vocab]``, ``present_key_<i>`` and ``present_value_<i>`` float32
``[1, kv, p + n, dim]``. The positions of the new tokens follow from ``p``.

A linear layer is a MatMul on a block-wise DequantizeLinear of ``[in, out]`` codes, the form that
ONNX Runtime fuses to MatMulNBits and TensorRT to a weight-only matrix product.

:class:`DecoderGraph` has one method per part of the decoder (embedding, norm, linear, rotary,
attention, feed-forward, head); a target whose runtime wants another form of a part overrides that
method (``graph_tensorrt.py``, ``graph_jp6.py``; ``graph_targets.py`` lists them). Here is the
target ``ort``: opset 23, FP32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses

import numpy as np
import onnx_ir as ir
import torch

from quant_llm_ros.quantize.decoder import DecoderConfig, rotary_table
from quant_llm_ros.quantize.graph_weights import Weight, WeightGraph
from quant_llm_ros.quantize.tensors import QuantizedTensor
from quant_llm_ros.quantize.weight_file import pack_int4, WeightFile

WeightSource = Callable[[str], Weight]
"""Gives a weight by its Hugging Face name, quantized or float32, when the graph needs it."""


class DecoderGraph(WeightGraph):
    """Builds the graph of a decoder for ONNX Runtime.

    Attributes:
        float_type: Type of the cache and of all numbers between two nodes.
        ir_version: Version of the file format that the opset came with.
        weight_file: Kind of file that the weights go to.
    """

    ir_version = 11
    weight_file: type[WeightFile] = WeightFile

    def __init__(
        self,
        config: DecoderConfig,
        weights: WeightSource,
        file: WeightFile,
        context_length: int,
    ) -> None:
        """Prepare an empty graph.

        Args:
            config: Shape of the decoder.
            weights: Gives each weight by its Hugging Face name.
            file: Takes the weights' bytes.
            context_length: Rows of the rotary table.
        """
        super().__init__(file)
        self.config = config
        self._source = weights
        self.context_length = context_length
        self.more_inputs: list[ir.Value] = []  # behind the first two
        cosines, sines = rotary_table(config, context_length)
        self.cosines = self.initializer("rotary_cosines", cosines.numpy())
        self.sines = self.initializer("rotary_sines", sines.numpy())
        self.window = 0  # of the layer that is being built
        self._window_masks: dict[int, ir.Value] = {}
        if config.windows:
            tables = rotary_table(config, context_length, local=True)
            self._local_rotary = tuple(
                self.initializer(f"rotary_local_{name}", table.numpy())
                for name, table in zip(("cosines", "sines"), tables, strict=True)
            )

    def build(self, progress: Callable[[float], None]) -> ir.Model:
        """Build the whole model.

        Args:
            progress: Called with the fraction done.
        """
        config = self.config
        input_ids = value_info("input_ids", ir.DataType.INT64, [1, "n"])
        logit_positions = value_info("logit_positions", ir.DataType.INT64, ["k"])
        pasts = [
            tuple(
                value_info(f"past_{part}_{i}", self.float_type, self.cache_shape("p"))
                for part in ("key", "value")
            )
            for i in range(config.layers)
        ]
        embed, head = self.embedding_and_head()
        x = embed(input_ids)
        if config.scaled_embedding:
            x = self.op("Mul", x, self.number(config.embedding_scale))
        positions = self.positions(input_ids, pasts[0][0])
        presents: list[ir.Value] = []
        for i, (past_key, past_value) in enumerate(pasts):
            progress(i / config.layers)
            prefix = f"model.layers.{i}."
            normed = self.norm(x, prefix + "input_layernorm")
            self.window = config.window(i)
            attended, present = self.attention(
                normed, positions, past_key, past_value, prefix + "self_attn."
            )
            for value, part in zip(present, ("key", "value"), strict=True):
                value.name = f"present_{part}_{i}"
                describe(value, self.float_type, self.cache_shape("p + n"))
            presents += present
            if config.sandwich_norms:
                attended = self.norm(attended, prefix + "post_attention_layernorm")
            x = self.op("Add", x, attended)
            normed = self.norm(x, prefix + config.feed_forward_norm)
            changed = self.feed_forward(normed, prefix + "mlp.")
            if config.sandwich_norms:
                changed = self.norm(changed, prefix + "post_feedforward_layernorm")
            x = self.op("Add", x, changed)
        wanted = self.op("Gather", x, logit_positions, axis=1)  # [1, k, hidden]
        wanted = self.op("Squeeze", self.norm(wanted, "model.norm"), self.ints([0]))
        logits = head(wanted)
        logits.name = "logits"
        describe(logits, ir.DataType.FLOAT, ["k", config.vocab_size])
        progress(1.0)
        for i, node in enumerate(self.tape.nodes):
            node.name = f"{node.op_type}_{i}"
        graph = ir.Graph(
            [
                input_ids,
                logit_positions,
                *self.more_inputs,
                *(value for pair in pasts for value in pair),
            ],
            [logits, *presents],
            nodes=self.tape.nodes,
            initializers=self.tape.initializers,
            opset_imports={"": self.opset},
            name="decoder",
        )
        return ir.Model(graph, ir_version=self.ir_version, producer_name="quant_llm_ros")

    @property
    def opset(self) -> int:
        """Version of the standard operators.

        Attention, RotaryEmbedding and RMSNormalization came with 23. ONNX Runtime 1.23, the last
        for Python 3.10, refuses 24, of which this graph needs nothing.
        """
        return 23

    # Parts of the decoder, which other targets may override.

    def weights(self, name: str) -> Weight:
        """Ask for a weight, in the form that the target writes."""
        return self.taken(self._source(name))

    def embedding_and_head(
        self,
    ) -> tuple[Callable[[ir.Value], ir.Value], Callable[[ir.Value], ir.Value]]:
        """Make the token embedding and the output head; tied ones share their bytes.

        Returns:
            A function from token ids ``[1, n]`` to ``[1, n, hidden]``, and one from
            ``[k, hidden]`` to logits ``[k, vocab]``.
        """
        embedding = self.weights("model.embed_tokens.weight")
        tied = self.config.tied_embedding
        head_weight = embedding if tied else self.weights("lm_head.weight")
        head = self.matrix(head_weight, "lm_head.weight")
        looked_up = _for_look_up(embedding)
        if looked_up is None:
            # Unpacked when the model is loaded, for the head too where that is the same weight.
            matrix = head if tied else self.matrix(embedding, "model.embed_tokens.weight.columns")
            columns = self.dequantized(embedding, matrix)
            if tied:
                return (
                    lambda tokens: self._look_up(tokens, torch.empty(0), [columns]),
                    lambda x: self.op("MatMul", x, columns),
                )
            looked_up, table = torch.empty(0), [columns]
        else:
            same = tied and looked_up is embedding
            table = self._table(looked_up, head if same else None)
        kind = looked_up
        return (
            lambda tokens: self._look_up(tokens, kind, table),
            lambda x: self.product(x, head_weight, head),
        )

    def positions(self, input_ids: ir.Value, past_key: ir.Value) -> ir.Value:
        """Positions of the new tokens, int64 ``[1, n]``: they follow those in the cache."""
        past = self.op("Shape", past_key, start=2, end=3)
        count = self.op("Shape", input_ids, start=1, end=2)
        zero = self.ints([0])
        first = self.op("Squeeze", past, zero)
        end = self.op("Squeeze", self.op("Add", past, count), zero)
        numbers = self.op("Range", first, end, self.ints(1))
        return self.op("Unsqueeze", numbers, zero)

    def norm(self, x: ir.Value, name: str) -> ir.Value:
        """RMS norm over the last dimension."""
        weight = self.float_vector(f"{name}.weight")
        return self.op("RMSNormalization", x, weight, epsilon=self.config.norm_epsilon)

    def linear(self, x: ir.Value, name: str) -> ir.Value:
        """Linear layer without bias, ``[…, in]`` to ``[…, out]``."""
        weight = self.weights(f"{name}.weight")
        matrix = self.matrix(weight, f"{name}.weight")
        return self.product(x, weight, matrix)

    def rotary(self, x: ir.Value, positions: ir.Value, heads: int) -> ir.Value:
        """Rotary embedding of ``[1, n, heads * dim]``."""
        tables = self._local_rotary if self.window else (self.cosines, self.sines)
        return self.op("RotaryEmbedding", x, *tables, positions, num_heads=heads)

    def attention(
        self,
        x: ir.Value,
        positions: ir.Value,
        past_key: ir.Value,
        past_value: ir.Value,
        prefix: str,
    ) -> tuple[ir.Value, Sequence[ir.Value]]:
        """Grouped-query causal attention with a growing cache.

        Args:
            x: ``[1, n, hidden]``.
            positions: ``[1, n]``.
            past_key: ``[1, kv, p, dim]``.
            past_value: ``[1, kv, p, dim]``.
            prefix: Of the weights' names.

        Returns:
            ``[1, n, hidden]``, and the present key and value.
        """
        heads, kv_heads = self.config.attention_heads, self.config.key_value_heads
        q, k, v = self.projections(x, prefix)
        mask = self._window_mask(positions) if self.window else None
        attended, present_key, present_value = self.tape.op_multi_out(
            "Attention",
            [
                self.rotary(q, positions, heads),
                self.rotary(k, positions, kv_heads),
                v,
                mask,
                past_key,
                past_value,
            ],
            {"is_causal": int(mask is None), "q_num_heads": heads, "kv_num_heads": kv_heads},
            num_outputs=3,
        )
        return self.linear(attended, f"{prefix}o_proj"), (present_key, present_value)

    def projections(self, x: ir.Value, prefix: str) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Queries ``[1, n, heads * dim]``, keys and values ``[1, n, kv * dim]``, not turned."""
        config = self.config
        q, k, v = (self.linear(x, f"{prefix}{part}_proj") for part in "qkv")
        if config.attention_bias:
            q, k, v = (
                self.op("Add", value, self.float_vector(f"{prefix}{part}_proj.bias"))
                for value, part in ((q, "q"), (k, "k"), (v, "v"))
            )
        if config.head_norm:
            q = self._head_norm(q, config.attention_heads, f"{prefix}q_norm")
            k = self._head_norm(k, config.key_value_heads, f"{prefix}k_norm")
        return q, k, v

    def _window_mask(self, positions: ir.Value) -> ir.Value:
        """What a token sees in a layer with a window, bool ``[n, p + n]``; one for all of a width.

        Args:
            positions: ``[1, n]``.
        """
        if self.window not in self._window_masks:
            rows = self.op("Transpose", positions, perm=[1, 0])  # [n, 1]
            last = self.op("ReduceMax", positions, keepdims=0)
            columns = self.op(
                "Range", self.ints(0), self.op("Add", last, self.ints(1)), self.ints(1)
            )
            back = self.op("Sub", rows, columns)
            self._window_masks[self.window] = self.op(
                "And",
                self.op("GreaterOrEqual", back, self.ints(0)),
                self.op("Less", back, self.ints(self.window)),
            )
        return self._window_masks[self.window]

    def feed_forward(self, x: ir.Value, prefix: str) -> ir.Value:
        """Feed-forward network with a gate of SiLU or GELU."""
        gate = self.linear(x, f"{prefix}gate_proj")
        up = self.linear(x, f"{prefix}up_proj")
        if self.config.gelu:
            gate = self.op("Gelu", gate, approximate="tanh")
        else:
            gate = self.op("Mul", gate, self.op("Sigmoid", gate))
        return self.linear(self.op("Mul", gate, up), f"{prefix}down_proj")

    # Helpers.

    def float_vector(self, name: str) -> ir.Value:
        """Add a vector (norm or bias), which is never quantized."""
        weight = self.weights(name)
        assert isinstance(weight, torch.Tensor)
        return self.initializer(name, weight.numpy())

    def _head_norm(self, x: ir.Value, heads: int, name: str) -> ir.Value:
        """RMS norm of each head of ``[1, n, heads * dim]``."""
        split = self.op("Reshape", x, self.ints([0, 0, heads, self.config.head_dim]))
        return self.op("Reshape", self.norm(split, name), self.ints([0, 0, -1]))

    def _table(self, embedding: Weight, head: list[ir.Value] | None) -> list[ir.Value]:
        """Token vectors as columns, ``[hidden, vocab]``: codes and scales, or float32 values.

        The head's bytes again, read through initializers of their own: ONNX Runtime only fuses a
        weight that has a single reader. 4-bit codes are read as bytes with two tokens in each.
        """
        name = "model.embed_tokens.weight.columns"
        packed = isinstance(embedding, QuantizedTensor) and embedding.bits == 4
        if head and not (packed and self.config.vocab_size % 2):
            tensors = [value.const_value for value in head]
            views = [self.file.view(name, tensors[0], ir.DataType.UINT8 if packed else None)]
            views += [self.file.view(f"{name}.scales", tensor) for tensor in tensors[1:]]
            return [self.tape.initializer(view) for view in views]
        if isinstance(embedding, torch.Tensor):
            return [self.initializer(name, embedding.T.contiguous().numpy())]
        codes = embedding.codes.T.contiguous().numpy()
        if packed:
            even = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2)))
            codes = pack_int4(even).reshape(len(even), -1)
        assert embedding.scales is not None
        scales = embedding.scales.T.contiguous().numpy()
        return [self.initializer(name, codes), self.initializer(f"{name}.scales", scales)]

    def _look_up(self, tokens: ir.Value, embedding: Weight, table: list[ir.Value]) -> ir.Value:
        """Look up tokens ``[1, n]`` in the columns: ``[1, n, hidden]``."""
        tokens = self.op("Squeeze", tokens, self.ints([0]))  # [n]
        if isinstance(embedding, torch.Tensor):
            columns = self.op("Gather", table[0], tokens, axis=1)  # [hidden, n]
        else:
            if embedding.bits == 4:
                codes = self._look_up_int4(tokens, table[0])
            else:
                codes = self.op("Gather", table[0], tokens, axis=1)
                codes = self.op("Cast", codes, to=ir.DataType.FLOAT)
            scales = self.op("Gather", table[1], tokens, axis=1)  # [blocks, n]
            count = self.op("Shape", tokens)
            blocks = self.op("Concat", self.ints([-1, embedding.block]), count, axis=0)
            codes = self.op("Reshape", codes, blocks)  # [blocks, block, n]
            scaled = self.op("Mul", codes, self.op("Unsqueeze", scales, self.ints([1])))
            columns = self.op("Reshape", scaled, self.op("Concat", self.ints([-1]), count, axis=0))
        rows = self.op("Transpose", columns, perm=[1, 0])
        return self.op("Unsqueeze", rows, self.ints([0]))

    def _look_up_int4(self, tokens: ir.Value, table: ir.Value) -> ir.Value:
        """Look up 4-bit codes, two tokens in a byte: float32 ``[hidden, n]``."""
        two = self.ints(2)
        pairs = self.op("Gather", table, self.op("Div", tokens, two), axis=1)  # [hidden, n]
        odd = self.op("Cast", self.op("Mod", tokens, two), to=ir.DataType.UINT8)
        four, eight, low = (self.constant(np.array(value, dtype=np.uint8)) for value in (4, 8, 15))
        halves = self.op("BitShift", pairs, self.op("Mul", odd, four), direction="RIGHT")
        # Two's complement in 4 bits: flipping the sign bit adds 8.
        raised = self.op("BitwiseXor", self.op("BitwiseAnd", halves, low), eight)
        numbers = self.op("Cast", raised, to=ir.DataType.FLOAT)
        return self.op("Sub", numbers, self.constant(np.array(8, dtype=np.float32)))

    def cache_shape(self, length: str) -> list[int | str]:
        """Shape of a layer's keys or values with ``length`` tokens in them."""
        return [1, self.config.key_value_heads, length, self.config.head_dim]


def _for_look_up(embedding: Weight) -> Weight | None:
    """Give the form of an embedding whose columns can be looked up as they are stored.

    Returns:
        Values, or integers without zero points; None for what has to be unpacked as a whole.
    """
    if isinstance(embedding, torch.Tensor):
        return embedding
    if not embedding.is_integer or embedding.scales is None:
        return None
    if embedding.zero_points is None:
        return embedding
    if embedding.bits == 8:
        return embedding.dequantize()  # the differences need nine bits
    blocks = embedding.codes.view(len(embedding.codes), -1, embedding.block)
    codes = (blocks - embedding.zero_points[:, :, None]).view(embedding.shape)
    return dataclasses.replace(embedding, codes=codes, bits=8, zero_points=None)


def value_info(name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
    """Make a graph input."""
    value = ir.Value(name=name)
    describe(value, dtype, shape)
    return value


def describe(value: ir.Value, dtype: ir.DataType, shape: Sequence[int | str]) -> None:
    """Write down the type and the shape of a graph input or output."""
    value.type = ir.TensorType(dtype)
    value.shape = ir.Shape(shape)
