"""The engine without what its inner loop spares: what that is worth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from quant_llm_ros.engine.bundle import Bundle
from quant_llm_ros.engine.onnxruntime_engine import OnnxRuntimeEngine
from quant_llm_ros.engine.request import checked


class ArraysEngine(OnnxRuntimeEngine):
    """ONNX Runtime as its documentation shows it: a dictionary of arrays in, arrays out.

    The cache is copied out of the runtime after every pass, and cut where tokens are taken back;
    the logits of all new tokens are computed. The numbers are the same.
    """

    def __init__(self, session: object, info: object, bundle: Bundle) -> None:
        """Wrap a session; use ``load``."""
        super().__init__(session, info, bundle)  # type: ignore[arg-type]
        model = bundle.model
        empty = np.zeros((1, model.key_value_heads, 0, model.head_dim), np.float32)
        self._arrays: list[NDArray[np.float32]] = [empty] * (2 * model.layers)

    @property
    def length(self) -> int:
        """Number of tokens in the cache."""
        return int(self._arrays[0].shape[2]) if self._arrays else 0

    def append(
        self, tokens: Sequence[int], *, last: int = 1, at: Sequence[int] | None = None
    ) -> NDArray[np.float32]:
        """Run the model over new tokens; see ``engine.protocol.Engine.append``."""
        session = self._open_session()
        ids, wanted = checked(self, tokens, last, at)
        count = len(ids)
        # A single token runs as two for the reason that the engine gives.
        ids = np.repeat(ids, 2) if count == 1 and self.length + 1 < self.context_length else ids
        values = [ids.reshape(1, -1), np.arange(count), *self._arrays]
        logits, *present = session.run(
            self._fetch_names, dict(zip(self._feed_names, values, strict=True))
        )
        kept = self.length + count
        self._arrays = [array[:, :, :kept] for array in present]
        result: NDArray[np.float32] = logits[wanted]
        return result

    def rollback(self, length: int) -> None:
        """Forget every token after the first ``length``."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot roll back to {length}: the cache holds {self.length}")
        self._arrays = [np.ascontiguousarray(array[:, :, :length]) for array in self._arrays]

    def mark(self) -> None:
        """Keep nothing: each roll back copies."""
