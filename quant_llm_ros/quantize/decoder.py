"""The language model as a small torch module: Llama, Qwen2, Qwen3 and Gemma 3 decoders.

Shapes in the comments: ``n`` new tokens, ``p`` tokens in the cache, ``k`` wanted positions,
``hidden`` features, ``heads`` query heads, ``kv`` key-value heads, ``dim`` features of a head.
Parameters have their Hugging Face names, so that a checkpoint loads as it is; only what Gemma 3
keeps otherwise (norms that are multiplied by 1 + w, a scale of the attention) is brought into the
common form where a checkpoint is read.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import math

import torch
from torch import nn, Tensor
from torch.nn import functional

Cache = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, both ``[kv, p, dim]``."""


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Shape of a decoder.

    Attributes:
        architecture: ``llama``, ``qwen2``, ``qwen3`` or ``gemma3``.
        layers: Number of transformer blocks.
        hidden_size: Features of a token between the layers.
        intermediate_size: Features inside the feed-forward network.
        attention_heads: Query heads.
        key_value_heads: Key and value heads; divides ``attention_heads``.
        head_dim: Features of a head.
        vocab_size: Number of tokens.
        context_length: Most tokens the model was trained for.
        rope_theta: Base of the rotary embedding's wavelengths.
        norm_epsilon: Epsilon of the RMS norms.
        tied_embedding: The output head is the token embedding.
        attention_bias: Query, key and value projections have a bias (Qwen2).
        head_norm: Queries and keys pass an RMS norm per head (Qwen3, Gemma 3).
        sandwich_norms: The outputs of attention and feed-forward pass a norm too (Gemma 3).
        gelu: The gate of the feed-forward network is a GELU by tanh and no SiLU (Gemma 3).
        scaled_embedding: Token vectors are multiplied by the root of ``hidden_size`` (Gemma 3).
        windows: For each layer how many tokens it looks back at, itself included, 0 for all;
            empty: all layers look back at all tokens.
        local_rope_theta: Base of the wavelengths in layers that have a window.
    """

    architecture: str
    layers: int
    hidden_size: int
    intermediate_size: int
    attention_heads: int
    key_value_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    rope_theta: float
    norm_epsilon: float
    tied_embedding: bool
    attention_bias: bool = False
    head_norm: bool = False
    sandwich_norms: bool = False
    gelu: bool = False
    scaled_embedding: bool = False
    windows: tuple[int, ...] = ()
    local_rope_theta: float = 0.0

    def window(self, layer: int) -> int:
        """Tokens that a layer looks back at, itself included; 0 for all."""
        return self.windows[layer] if self.windows else 0

    def rope_thetas(self) -> list[float]:
        """Base of the rotary embedding of each layer."""
        layers = range(self.layers)
        return [self.local_rope_theta if self.window(i) else self.rope_theta for i in layers]

    @property
    def embedding_scale(self) -> float:
        """What token vectors are multiplied by."""
        return math.sqrt(self.hidden_size) if self.scaled_embedding else 1.0

    @property
    def feed_forward_norm(self) -> str:
        """Name of the norm before the feed-forward network.

        Gemma 3 gives the other architectures' name to the norm behind the attention.
        """
        return "pre_feedforward_layernorm" if self.sandwich_norms else "post_attention_layernorm"


def rotary_table(
    config: DecoderConfig, positions: int, *, local: bool = False
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary embedding (Su et al., RoFormer, section 3.2.2).

    Args:
        config: Gives the base and the head's width.
        positions: Number of rows.
        local: Of the layers that have a window.

    Returns:
        Cosines and sines, float32 ``[positions, dim / 2]``.
    """
    # In float64 first: at position 2,000 a float32 angle is off by 1e-4 rad.
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
    base = config.local_rope_theta if local else config.rope_theta
    frequencies = torch.tensor(base, dtype=torch.float64) ** -exponents
    angles = torch.outer(torch.arange(positions, dtype=torch.float64), frequencies)
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn each head's pairs (i, i + dim / 2) by their position's angle.

    Args:
        x: ``[heads, n, dim]``.
        cosines: ``[n, dim / 2]``.
        sines: ``[n, dim / 2]``.
    """
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)


class RMSNorm(nn.Module):
    """Root mean square norm (Zhang and Sennrich 2019, equation 4)."""

    def __init__(self, size: int, epsilon: float) -> None:
        """Make a norm over the last dimension, of the given size."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Scale ``[..., size]`` to a root mean square of one, then by the weight."""
        return functional.rms_norm(x, self.weight.shape, self.weight, self.epsilon)


class Attention(nn.Module):
    """Grouped-query causal attention (Ainslie et al. 2023) with a key-value cache."""

    def __init__(self, config: DecoderConfig, window: int) -> None:
        """Make the four projections and, for Qwen3 and Gemma 3, the head norms."""
        super().__init__()
        self.window = window
        self.head_dim = config.head_dim
        queries = config.attention_heads * config.head_dim
        keys = config.key_value_heads * config.head_dim
        bias = config.attention_bias
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=bias)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=bias)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=bias)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=False)
        norm: Callable[[], nn.Module] = (
            (lambda: RMSNorm(config.head_dim, config.norm_epsilon))
            if config.head_norm
            else nn.Identity
        )
        self.q_norm, self.k_norm = norm(), norm()

    def forward(
        self, x: Tensor, cosines: Tensor, sines: Tensor, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Attend from new tokens to themselves and to the past.

        Args:
            x: ``[n, hidden]``.
            cosines: ``[n, dim / 2]`` of the new positions.
            sines: ``[n, dim / 2]`` of the new positions.
            past: Keys and values ``[kv, p, dim]``, or None at the start.

        Returns:
            The attended values ``[n, hidden]`` and the new cache, ``[kv, p + n, dim]`` twice.
        """
        q, k, v = (  # [heads, n, dim], [kv, n, dim], [kv, n, dim]
            projection(x).unflatten(1, (-1, self.head_dim)).transpose(0, 1)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        q = rotate(self.q_norm(q), cosines, sines)
        k = rotate(self.k_norm(k), cosines, sines)
        if past is not None:
            k, v = torch.cat((past[0], k), dim=1), torch.cat((past[1], v), dim=1)
        group = q.shape[0] // k.shape[0]
        grouped = q.unflatten(0, (k.shape[0], group))  # [kv, group, n, dim]
        scores = grouped @ k[:, None].transpose(2, 3) / math.sqrt(self.head_dim)
        n, total = scores.shape[2:]
        # Bottom right is the diagonal: the last new token sees everything.
        unseen = torch.ones(n, total, dtype=torch.bool).triu(total - n + 1)
        if self.window:
            unseen |= torch.ones(n, total, dtype=torch.bool).tril(total - n - self.window)
        weights = scores.masked_fill(unseen, -torch.inf).softmax(-1)  # [kv, group, n, p + n]
        attended = (weights @ v[:, None]).flatten(0, 1)  # [heads, n, dim]
        return self.o_proj(attended.transpose(0, 1).flatten(1)), (k, v)


class FeedForward(nn.Module):
    """Feed-forward network with a gate of SiLU or GELU (SwiGLU and GEGLU, Shazeer 2020)."""

    def __init__(self, config: DecoderConfig) -> None:
        """Make the three projections."""
        super().__init__()
        self.gelu = config.gelu
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[n, hidden]`` to ``[n, hidden]``."""
        gate = self.gate_proj(x)
        gate = functional.gelu(gate, approximate="tanh") if self.gelu else functional.silu(gate)
        gated: Tensor = self.down_proj(gate * self.up_proj(x))
        return gated


class Layer(nn.Module):
    """One transformer block: attention and feed-forward, each behind a norm, each added."""

    def __init__(self, config: DecoderConfig, window: int) -> None:
        """Make the block; its attention looks back at ``window`` tokens, 0 for all."""
        super().__init__()
        self.sandwich_norms = config.sandwich_norms
        norms = ["input_layernorm", "post_attention_layernorm"]
        if config.sandwich_norms:
            norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
        for name in norms:
            self.add_module(name, RMSNorm(config.hidden_size, config.norm_epsilon))
        self.self_attn = Attention(config, window)
        self.mlp = FeedForward(config)

    def forward(
        self, x: Tensor, cosines: Tensor, sines: Tensor, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Map ``[n, hidden]`` to ``[n, hidden]`` and the layer's new cache."""
        attended, present = self.self_attn(self.input_layernorm(x), cosines, sines, past)
        if self.sandwich_norms:
            x = x + self.post_attention_layernorm(attended)
            changed = self.mlp(self.pre_feedforward_layernorm(x))
            return x + self.post_feedforward_layernorm(changed), present
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x)), present


class _Model(nn.Module):
    """Embedding, layers and last norm; exists for the Hugging Face names (``model.…``)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, config.window(i)) for i in range(config.layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_epsilon)


class Decoder(nn.Module):
    """A causal language model."""

    def __init__(self, config: DecoderConfig) -> None:
        """Make a decoder whose parameters hold no memory until they are loaded."""
        super().__init__()
        self.config = config
        with torch.device("meta"):
            self.model = _Model(config)
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self._rotary = rotary_table(config, config.context_length)
        if config.windows:
            self._local_rotary = rotary_table(config, config.context_length, local=True)

    def embed(self, tokens: Tensor) -> Tensor:
        """Look tokens ``[n]`` up: ``[n, hidden]``."""
        x: Tensor = self.model.embed_tokens(tokens) * self.config.embedding_scale
        return x

    def run_layer(
        self, index: int, x: Tensor, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run one layer over ``[n, hidden]``, behind what is in its cache.

        Returns:
            ``[n, hidden]`` and the layer's new cache.
        """
        start = past[0].shape[1] if past else 0
        tables = self._local_rotary if self.config.window(index) else self._rotary
        cosines, sines = (table[start : start + len(x)] for table in tables)
        result: tuple[Tensor, tuple[Tensor, Tensor]] = self.model.layers[index](
            x, cosines, sines, past
        )
        return result

    def head(self, x: Tensor) -> Tensor:
        """Turn what the last layer gave, ``[k, hidden]``, into logits ``[k, vocab_size]``."""
        logits: Tensor = self.lm_head(self.model.norm(x))
        return logits

    def set_weight(self, name: str, weight: Tensor) -> None:
        """Give a parameter its value.

        Args:
            name: Hugging Face name. With a tied embedding the head follows the embedding.
            weight: Of the parameter's shape; kept, not copied.

        Raises:
            ValueError: No parameter has this name, or it has another shape.
        """
        module_name, _, leaf = name.rpartition(".")
        try:
            module = self.get_submodule(module_name)
            present = module.get_parameter(leaf)
        except AttributeError:
            raise ValueError(f"the decoder has no parameter {name}") from None
        if present.shape != weight.shape:
            raise ValueError(
                f"{name} has shape {tuple(weight.shape)}, expected {tuple(present.shape)}"
            )
        setattr(module, leaf, nn.Parameter(weight, requires_grad=False))
        if self.config.tied_embedding and name == "model.embed_tokens.weight":
            self.lm_head.weight = self.model.embed_tokens.weight

    def forget(self, prefix: str) -> None:
        """Give back the memory of the parameters whose names begin like this."""
        for name, parameter in list(self.named_parameters(remove_duplicate=False)):
            if name.startswith(prefix):
                module, _, leaf = name.rpartition(".")
                empty = nn.Parameter(
                    torch.empty_like(parameter, device="meta"), requires_grad=False
                )
                setattr(self.get_submodule(module), leaf, empty)

    def parameter_names(self) -> list[str]:
        """Names of the parameters that a checkpoint has to give."""
        names = [name for name, _ in self.named_parameters(remove_duplicate=False)]
        return [n for n in names if not (self.config.tied_embedding and n == "lm_head.weight")]

    def matrix_names(self) -> list[str]:
        """Names of the parameters that can be quantized: those of two dimensions."""
        return [name for name in self.parameter_names() if self.get_parameter(name).ndim == 2]

    def forward(
        self, tokens: Tensor, cache: Cache | None = None, positions: Tensor | None = None
    ) -> tuple[Tensor, Cache]:
        """Run the model over new tokens.

        Args:
            tokens: Token ids, int64 ``[n]``.
            cache: What an earlier call returned, or None at the start.
            positions: Which of the new tokens' logits are wanted, int64 ``[k]``; default all.

        Returns:
            Logits ``[k, vocab_size]`` and the cache with the new tokens in it.
        """
        x = self.embed(tokens)
        present: Cache = []
        for index in range(self.config.layers):
            x, layer_present = self.run_layer(index, x, cache[index] if cache else None)
            present.append(layer_present)
        return self.head(x if positions is None else x[positions]), present
