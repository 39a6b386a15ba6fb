"""The engine that needs no GPU: ONNX Runtime, on the CPU or where a GPU provider is wanted."""

from __future__ import annotations

from collections.abc import Sequence
import contextlib
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import OrtDevice, OrtValueVector

from quant_llm_ros.engine.bundle import Bundle, MODEL
from quant_llm_ros.engine.pieces import Pieces
from quant_llm_ros.engine.protocol import EngineInfo
from quant_llm_ros.engine.providers import (
    check_in_use,
    CPU,
    ENGINE_CACHE,
    RECORD_PLACEMENT,
    resolve,
    session_providers,
)
from quant_llm_ros.engine.request import checked
from quant_llm_ros.errors import ContextOverflowError, EngineError

# The first with the operators of opset 23, and with MatMulNBits at 8 bits.
_NEEDED_VERSION = (1, 23)


class OnnxRuntimeEngine:
    """Runs the ``ort`` graph of a bundle; implements :class:`protocol.Engine`.

    The cache is a list of OrtValues, keys and values of each layer, ``[1, kv, held, dim]``. A
    pass reads them and makes new, longer ones, so the cache of an earlier length stays valid:
    that is how the marked one is kept, and why a failed pass changes nothing. After a rollback it
    holds more than it should, until the next pass copies what is left.

    The logits of a token do not depend on how the tokens are divided into passes. ONNX Runtime
    has kernels of its own for a single row. They add in another order, and where activations are
    rounded to INT8 that grows to a few percent of the logits' range over the layers. So a single
    token is run as two, and the second is forgotten.

    Values go in and out as vectors in a fixed order. An IO binding names each of the many anew in
    every pass, which costs a few percent of a decode step of a small model.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        info: EngineInfo,
        bundle: Bundle,
    ) -> None:
        """Wrap a session; use :meth:`load`."""
        self.info = info
        self.vocab_size = bundle.model.vocab_size
        self.context_length = bundle.model.context_length
        self._session: onnxruntime.InferenceSession | None = session
        past_names = [i.name for i in session.get_inputs() if i.name.startswith("past_")]
        self._feed_names = ["input_ids", "logit_positions", *past_names]
        self._fetch_names = [output.name for output in session.get_outputs()]
        # The logits are read here; the cache stays where the model runs.
        self._device = "cpu" if session.get_providers()[0] == "CPUExecutionProvider" else "cuda"
        kind = OrtDevice.cpu() if self._device == "cpu" else OrtDevice.cuda()
        on_cpu = OrtDevice(OrtDevice.cpu(), OrtDevice.default_memory(), 0)
        there = OrtDevice(kind, OrtDevice.default_memory(), 0)
        self._devices = [on_cpu] + [there] * (len(self._fetch_names) - 1)
        self._run_options = onnxruntime.RunOptions()
        empty = np.zeros(
            (1, bundle.model.key_value_heads, 0, bundle.model.head_dim), dtype=np.float32
        )
        self._empty = [onnxruntime.OrtValue.ortvalue_from_numpy(empty)] * len(past_names)
        self._cache = self._empty
        self._held = self._length = 0
        self._marked = (self._length, self._cache)
        self._pieces = Pieces(bundle.model.rope_thetas, bundle.model.head_dim)

    @classmethod
    def load(
        cls,
        bundle: Bundle,
        *,
        provider: str = CPU,
        threads: int = 2,
        exact: bool = False,
        allow_fallback: bool = False,
        profile: str | None = None,
    ) -> OnnxRuntimeEngine:
        """Load a bundle's model.

        Args:
            bundle: With target ``ort``.
            provider: One of ``providers.PROVIDERS``.
            threads: CPU threads of a pass, at least 1.
            exact: Compute in FP32 throughout; slower, to check the export.
            allow_fallback: Let ONNX Runtime fall back to a slower provider; else that is an error.
            profile: Where to write a profile, see ``end_profile``; None: none is taken.

        Returns:
            The engine, with an empty cache.

        Raises:
            EngineError: The bundle is for another runtime, ONNX Runtime cannot load it, or the
                provider does not run it.
        """
        started = time.perf_counter()
        if threads < 1:
            raise EngineError(f"threads must be at least 1, not {threads}")
        if bundle.target != "ort":
            raise EngineError(
                f"{bundle.path} is built for {bundle.target}; ONNX Runtime needs target ort"
            )
        provider = resolve(provider)
        options = session_options(threads, exact)
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = profile
        session = _session(bundle, provider, options, allow_fallback)
        engine_inputs = {value.name for value in session.get_inputs()}
        expected = {"input_ids", "logit_positions"} | {
            f"past_{part}_{i}" for i in range(bundle.model.layers) for part in ("key", "value")
        }
        if engine_inputs != expected:
            raise EngineError(
                f"{bundle.file(MODEL)} has other inputs than its bundle.yaml describes; "
                f"rebuild the bundle"
            )
        info = EngineInfo(
            runtime=f"onnxruntime {onnxruntime.__version__}",
            provider=check_in_use(session, provider, allow_fallback=allow_fallback),
            load_ms=(time.perf_counter() - started) * 1e3,
        )
        return cls(session, info, bundle)

    @property
    def length(self) -> int:
        """Number of tokens in the cache."""
        return self._length

    def append(
        self, tokens: Sequence[int], *, last: int = 1, at: Sequence[int] | None = None
    ) -> NDArray[np.float32]:
        """Run the model over new tokens and keep them in the cache.

        Args:
            tokens: Token ids, at least one.
            last: For how many of the last new tokens the logits are wanted.
            at: Indices of the new tokens whose logits are wanted, ascending, in place of ``last``.

        Returns:
            Logits of the wanted tokens, ``[last or len(at), vocab_size]``.

        Raises:
            ValueError: No token, a token outside of the vocabulary, or wrong positions.
            ContextOverflowError: The cache would exceed the context; it is unchanged.
            EngineError: The runtime failed or is closed; the cache is unchanged.
        """
        session = self._open_session()
        asked, positions = checked(self, tokens, last, at)
        ids, count = asked.reshape(1, -1), len(asked)
        self._trim()
        if count == 1 and self._length + 1 < self.context_length:
            ids = np.repeat(ids, 2, axis=1)
        feeds, fetches = OrtValueVector(), OrtValueVector()
        feeds.reserve(len(self._feed_names))
        # Vectors hold the runtime's own values; the memory of an array is its OrtValue's to keep.
        new = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in (ids, positions)]
        for value in (*new, *self._cache):
            feeds.push_back(value._ortvalue)
        try:
            session.run_with_ortvaluevector(
                self._run_options,
                self._feed_names,
                feeds,
                self._fetch_names,
                fetches,
                self._devices,
            )
        except Exception as error:  # ONNX Runtime's errors share no narrower base
            raise EngineError(f"ONNX Runtime failed on {count} tokens: {error}") from error
        logits, *self._cache = (onnxruntime.OrtValue(value) for value in fetches)
        self._held += ids.shape[1]
        self._length += count
        result: NDArray[np.float32] = logits.numpy()
        return result

    def rollback(self, length: int) -> None:
        """Forget every token after the first ``length``.

        To the marked length and to 0 it costs nothing; after another length the next pass copies
        what is kept.

        Raises:
            ValueError: ``length`` is negative or more than the cache holds.
            EngineError: The engine is closed.
        """
        self._open_session()
        if not 0 <= length <= self._length:
            raise ValueError(f"cannot roll back to {length}: the cache holds {self._length}")
        marked_length, marked_cache = self._marked
        if length == marked_length:
            self._cache, self._held = marked_cache, length
        elif length == 0:
            self._cache, self._held = self._empty, 0
        self._length = length
        if length < marked_length:
            self._marked = (0, self._empty)

    def mark(self) -> None:
        """Keep the present cache, so that rolling back to its length costs no copy."""
        self._open_session()
        self._trim()
        self._marked = (self._length, self._cache)

    def shelve(self, start: int, end: int) -> int:
        """Put a part of the cache aside; see ``engine.protocol.Gathering.shelve``.

        Raises:
            EngineError: The engine is closed.
        """
        self._open_session()
        if not 0 <= start < end <= self._length:
            raise ValueError(f"no tokens {start} to {end} in a cache of {self._length}")
        arrays = [value.numpy() for value in self._cache]
        return self._pieces.add(arrays[::2], arrays[1::2], start, end)

    def gather(self, pieces: Sequence[int]) -> None:
        """Make the cache of pieces; see ``engine.protocol.Gathering.gather``.

        Raises:
            EngineError: The engine is closed.
        """
        self._open_session()
        known = self._pieces.count
        if not pieces or min(pieces) < 0 or max(pieces) >= known:
            raise ValueError(f"no pieces {list(pieces)}: {known} were kept")
        count = self._pieces.length(pieces)
        if count > self.context_length:
            raise ContextOverflowError(
                f"pieces of {count} tokens exceed the context of {self.context_length}"
            )
        # On the CPU the values below are no copies: the cache of the last call is overwritten now.
        self._cache, self._held, self._length = self._empty, 0, 0
        self._marked = (0, self._empty)
        keys, values = self._pieces.together(pieces)
        self._cache = [
            onnxruntime.OrtValue.ortvalue_from_numpy(layer[None], self._device)
            for pair in zip(keys, values, strict=True)
            for layer in pair
        ]
        self._held = self._length = count
        self._marked = (self._length, self._cache)

    def end_profile(self) -> str:
        """Write the profile of all passes so far, and give its file (JSON of trace events)."""
        return str(self._open_session().end_profiling())

    def _trim(self) -> None:
        """Bring the cache to its length."""
        if self._held == self._length:
            return
        self._cache = [
            onnxruntime.OrtValue.ortvalue_from_numpy(
                np.ascontiguousarray(value.numpy()[:, :, : self._length]), self._device
            )
            for value in self._cache
        ]
        self._held = self._length

    def close(self) -> None:
        """Release the memory; the engine cannot be used afterwards."""
        self._session = None
        self._empty, self._cache = [], []
        self._pieces.clear()
        self._held = self._length = 0
        self._marked = (0, [])

    def _open_session(self) -> onnxruntime.InferenceSession:
        if self._session is None:
            raise EngineError("the engine is closed; load the bundle again")
        return self._session


def _session(
    bundle: Bundle, provider: str, options: Any, allow_fallback: bool
) -> onnxruntime.InferenceSession:
    """Load a model; ``provider`` is what ``providers.resolve`` gave."""
    if provider != CPU:
        options.add_session_config_entry(RECORD_PLACEMENT, "1")
        # CUDA and cuDNN may come as wheels, which the loader does not find by itself. What is
        # missing is printed, where JSON may be expected.
        with contextlib.redirect_stdout(sys.stderr):
            getattr(onnxruntime, "preload_dlls", lambda: None)()
    providers = session_providers(provider, bundle.path / ENGINE_CACHE / "onnxruntime-tensorrt")
    try:
        return onnxruntime.InferenceSession(
            str(bundle.file(MODEL)),
            options,
            providers=providers,
            enable_fallback=0,  # of its Python layer, which would say so on standard output
        )
    except Exception as error:  # ONNX Runtime's errors share no narrower base
        # Without TensorRT's libraries the provider raises; the others are only left out.
        if provider == "tensorrt" and allow_fallback:
            return _session(bundle, "cuda", options, allow_fallback)
        raise EngineError(_load_failure(bundle, provider, error)) from error


def session_options(threads: int, exact: bool) -> Any:
    """Make the session options that suit a decoder on a CPU that has other work too.

    Args:
        threads: CPU threads of a pass.
        exact: Compute in FP32 throughout.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Patterns are kept for each combination of input lengths, and here every pass has its own.
    options.enable_mem_pattern = False
    for key, value in {
        # Level 4 multiplies quantized weights with activations rounded to INT8, level 1 in FP32.
        "session.qdq_matmulnbits_accuracy_level": "1" if exact else "4",
        # Between two operators the threads wait busily, but only this long. Measured on 2 cores,
        # decoding at 300 tokens, ms per token, idle / beside another process on every core:
        # always 7.1 / 23.9, 20 µs 7.0 / 15.8, never 9.4 / 13.7. Always would also keep a core of
        # the robot busy between commands.
        "session.intra_op.spin_duration_us": "20",
        "session.prepack.enable_parallel": "1",
    }.items():
        options.add_session_config_entry(key, value)
    return options


def _load_failure(bundle: Bundle, provider: str, error: Exception) -> str:
    """Say why a model did not load: most often ONNX Runtime is too old for it."""
    installed = onnxruntime.__version__
    needed = ".".join(map(str, _NEEDED_VERSION))
    version = tuple(int(part) for part in installed.split(".")[:2] if part.isdigit())
    if version < _NEEDED_VERSION:
        return (
            f"{bundle.path} needs ONNX Runtime {needed} or newer, installed is {installed}; "
            f"run `pip install 'onnxruntime>={needed}'`"
        )
    reason = " ".join(str(error).split()).rstrip(".")
    failure = f"ONNX Runtime {installed} cannot load {bundle.file(MODEL)}: {reason}"
    if provider == CPU:
        return failure
    return f"provider {provider}: {failure}. Correct that, or set provider to {CPU}"
