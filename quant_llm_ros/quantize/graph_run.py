"""Runs a graph made for TensorRT on the CPU, to prove it where no GPU is at hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
import time

import numpy as np
from numpy.typing import NDArray
import onnx
import onnxruntime
import torch

from quant_llm_ros.engine.bundle import Bundle, MODEL
from quant_llm_ros.engine.onnxruntime_engine import OnnxRuntimeEngine
from quant_llm_ros.engine.protocol import Engine, EngineInfo
from quant_llm_ros.errors import ContextOverflowError, EngineError
from quant_llm_ros.quantize.calibration import Passages
from quant_llm_ros.quantize.graph_lint import lint
from quant_llm_ros.quantize.reference import relative_error

# FP16 against FP32 of the same weights, largest difference of a logit by the largest logit: 0.002
# measured with the default model, up to 0.01 with random ones of large weights. A single token at
# the wrong position moves the logits by more than 0.1.
HALF_LIMIT = 0.03


class FixedCacheRunner:
    """Runs a graph of target ``tensorrt`` or ``tensorrt-jp6`` with ONNX Runtime on the CPU.

    Implements :class:`engine.protocol.Engine`; slowly, since it copies the cache in every pass.

    Attributes:
        info: What runs the graph.
        vocab_size: Number of tokens of the vocabulary.
        length: Number of tokens in the cache.
        context_length: Most tokens in it.
    """

    def __init__(self, path: Path, *, threads: int = 2) -> None:
        """Load a graph.

        Args:
            path: The ``.onnx`` file.
            threads: CPU threads of a pass.

        Raises:
            EngineError: ONNX Runtime cannot load it.
        """
        started = time.perf_counter()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's errors share no narrower base
            raise EngineError(f"ONNX Runtime cannot load {path}: {error}") from error
        inputs = self._session.get_inputs()
        caches = [value for value in inputs if value.name.startswith("past_")]
        self._names = [value.name for value in caches]
        self._cache = [np.zeros(value.shape, dtype=np.float16) for value in caches]
        self.context_length = int(caches[0].shape[2])
        self.vocab_size = int(self._session.get_outputs()[0].shape[-1])
        self.length = 0
        self.info = EngineInfo(
            runtime=f"onnxruntime {onnxruntime.__version__}",
            provider=self._session.get_providers()[0],
            load_ms=(time.perf_counter() - started) * 1e3,
        )

    def append(
        self, tokens: Sequence[int], *, last: int = 1, at: Sequence[int] | None = None
    ) -> NDArray[np.float32]:
        """Run the graph over new tokens.

        Args:
            tokens: Token ids.
            last: For how many of the last new tokens the logits are wanted.
            at: Indices of the new tokens whose logits are wanted, ascending, in place of ``last``.

        Returns:
            Logits, float32 ``[last or len(at), vocab]``.

        Raises:
            ContextOverflowError: The tokens do not fit any more.
        """
        count = len(tokens)
        if self.length + count > self.context_length:
            raise ContextOverflowError(
                f"{self.length} + {count} tokens exceed the context of {self.context_length}"
            )
        logits, *self._cache = self._session.run(
            None,
            {
                "input_ids": np.array([tokens], dtype=np.int64),
                "logit_positions": np.array(
                    range(count - last, count) if at is None else at, dtype=np.int64
                ),
                "write_index": np.array([self.length], dtype=np.int64),
                **dict(zip(self._names, self._cache, strict=True)),
            },
        )
        self.length += count
        result: NDArray[np.float32] = logits
        return result

    def rollback(self, length: int) -> None:
        """Forget every token after the first ``length``."""
        self.length = length

    def mark(self) -> None:
        """Do nothing: a fixed cache rolls back to any length for nothing."""

    def close(self) -> None:
        """Release the memory."""
        self._cache = []
        del self._session


def open_on_cpu(bundle: Bundle) -> Engine:
    """Open a bundle of any target on the CPU of the machine that builds it.

    Raises:
        EngineError: ONNX Runtime cannot load it.
    """
    if bundle.target == "ort":
        return OnnxRuntimeEngine.load(bundle)
    return FixedCacheRunner(bundle.file(MODEL))


def engine_error(engine: Engine, texts: Passages, logits: Sequence[torch.Tensor]) -> float:
    """Compare an engine with the decoder on all positions behind a prefix.

    Args:
        engine: Its cache is emptied before.
        texts: Token ids.
        logits: The decoder's for them, float32 ``[n, vocab]`` each.

    Returns:
        The largest relative error of a logit; NaN where one is no number.
    """
    engine.rollback(0)
    if texts.prefix:
        engine.append(list(texts.prefix))
        engine.mark()
    errors = []
    for text, expected in zip(texts.texts, logits, strict=True):
        engine.rollback(len(texts.prefix))
        computed = torch.from_numpy(engine.append(text, last=len(text)))
        errors.append(relative_error(computed, expected))
    # Not the built-in max, which forgets a NaN that is not the first.
    return float(np.max(errors))


def check_graph(
    path: Path,
    target: str,
    texts: Passages,
    logits: Sequence[torch.Tensor],
    limit: float = HALF_LIMIT,
) -> float | None:
    """Prove a graph for TensorRT: it breaks no rule, and computes what the decoder does.

    Args:
        path: The ``.onnx`` file.
        target: ``tensorrt`` or ``tensorrt-jp6``.
        texts: Token ids.
        logits: The decoder's for them, FP32 ``[n, vocab]`` each.
        limit: Largest relative error that is allowed.

    Returns:
        The largest relative error of a logit, in FP16; None for a graph with FP4, which only the
        rules are checked of: ONNX Runtime cannot run it.

    Raises:
        EngineError: It breaks a rule of the target, or computes something else.
    """
    findings = lint(path, target)
    if findings:
        raise EngineError(
            f"{path} breaks {len(findings)} rules of target {target}; the first: {findings[0]}"
        )
    graph = onnx.load(path, load_external_data=False).graph
    if any(tensor.data_type == onnx.TensorProto.FLOAT4E2M1 for tensor in graph.initializer):
        return None
    error = engine_error(FixedCacheRunner(path), texts, logits)
    if not error <= limit:
        raise EngineError(
            f"{path} differs from the torch decoder by {error:.1e} (limit {limit}) on "
            f"ONNX Runtime; where FP16 is too narrow for this checkpoint, use target ort"
        )
    return error
