"""The engine of a GPU: a bundle's graph, compiled by TensorRT."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant_llm_ros.engine import engine_cache
from quant_llm_ros.engine.bundle import Bundle
from quant_llm_ros.engine.engine_cache import EngineKey
from quant_llm_ros.engine.protocol import EngineInfo
from quant_llm_ros.engine.request import checked
from quant_llm_ros.engine.tensorrt_api import TensorRt
from quant_llm_ros.engine.tensorrt_cuda import CPU_PATH, Cuda
from quant_llm_ros.engine.tensorrt_memory import Inputs, KeyValueCache, Logits
from quant_llm_ros.errors import DeviceError, EngineError, EngineFileError


@dataclasses.dataclass
class _Profile:
    """Kernels for passes of certain sizes.

    Attributes:
        context: TensorRT's execution context.
        tokens: Least and most new tokens.
        wanted: Least and most of them whose logits are wanted.
        shape: Sizes of the last pass, (tokens, wanted).
        side: Which of two caches its addresses read from; None where they are not set.
    """

    context: Any
    tokens: tuple[int, int]
    wanted: tuple[int, int]
    shape: tuple[int, int] = (0, 0)
    side: int | None = None

    def takes(self, tokens: int, wanted: int) -> bool:
        """Whether a pass of these sizes can run here."""
        return (
            self.tokens[0] <= tokens <= self.tokens[1]
            and self.wanted[0] <= wanted <= self.wanted[1]
        )


class TensorRtEngine:
    """Runs the ``tensorrt`` or ``tensorrt-jp6`` graph of a bundle; has :class:`protocol.Engine`.

    The cache lies on the GPU and has the size of the whole context. A pass writes its rows from
    ``write_index`` on, so to roll back is to count from a smaller number, and a pass that failed
    has changed nothing that counts. With target ``tensorrt`` it is written in place; with
    ``tensorrt-jp6`` a pass reads one cache, writes another, and the two change roles.

    One stream does everything in order: the inputs go there from pinned memory in one copy, the
    logits come back in another. A step of one token is recorded once as a CUDA graph (one for
    each role of the caches) and then given to the GPU in one call. The contexts of the profiles
    share their working memory, since only one runs at a time.
    """

    def __init__(self, bundle: Bundle, trt: TensorRt, cuda: Cuda) -> None:
        """Take a GPU; use :meth:`open`."""
        self.vocab_size = bundle.model.vocab_size
        self.context_length = bundle.model.context_length
        self.info = EngineInfo(trt.title, f"{cuda.name} (SM{cuda.sm})", 0.0)
        self._bundle = bundle
        self._trt = trt
        self._cuda = cuda
        self._length = 0
        self._dead = ""
        self._graphs: dict[int, Any] = {}
        self._profiles: list[_Profile] = []
        self._loaded: tuple[Any, ...] = ()
        self._cache: KeyValueCache
        self._inputs: Inputs
        self._logits: Logits

    @classmethod
    def open(cls, bundle: Bundle, *, runtime: str = "auto") -> TensorRtEngine:
        """Load the engine that ``quant_llm build-engine`` has compiled.

        Args:
            bundle: With target ``tensorrt`` or ``tensorrt-jp6``.
            runtime: ``tensorrt``, ``tensorrt_rtx``, or ``auto`` for the one that is installed.

        Returns:
            The engine, with an empty cache.

        Raises:
            DeviceError: TensorRT, cuda-python, the GPU, its driver or its memory do not suffice.
            EngineFileError: There is no compiled engine for this computer, or it is damaged.
            EngineError: The bundle is for another runtime.
        """
        started = time.perf_counter()
        trt = TensorRt.load(runtime)
        trt.check_target(bundle.target, bundle.path)
        cuda = Cuda.open()
        engine = cls(bundle, trt, cuda)
        try:
            key = EngineKey(trt.module, trt.version, cuda.sm, engine_cache.model_sha256(bundle))
            key = next(iter(engine_cache.variants(bundle, key)), key)
            if key.plugins:
                title = f"{trt.title} with plugins {key.plugins[:12]}"
                engine.info = dataclasses.replace(engine.info, runtime=title)
            engine._load(engine_cache.find(bundle, key))
        except BaseException as error:
            engine.close()
            if isinstance(error, EngineError) and CPU_PATH not in str(error):
                raise type(error)(f"{error}; {CPU_PATH}") from error
            raise
        load_ms = (time.perf_counter() - started) * 1e3
        engine.info = dataclasses.replace(engine.info, load_ms=load_ms)
        return engine

    def _load(self, stored: engine_cache.StoredEngine) -> None:
        """Load a compiled engine, give it its memory, and run it once."""
        runtime, engine = self._trt.deserialize(stored.plan)
        self._loaded = (runtime, engine)
        for i in range(engine.num_optimization_profiles):
            tokens, wanted = (
                engine.get_tensor_profile_shape(name, i)
                for name in ("input_ids", "logit_positions")
            )
            self._profiles.append(
                _Profile(
                    self._trt.context(engine, i, self._cuda.stream),
                    (int(tokens[0][1]), int(tokens[2][1])),
                    (int(wanted[0][0]), int(wanted[2][0])),
                )
            )
        # Of those that take a pass, the one made for the smallest passes has the best kernels.
        self._profiles.sort(key=lambda profile: (profile.tokens[1], profile.wanted[1]))
        self._most_tokens, self._most_wanted = (
            self._profiles[-1].tokens[1],
            self._profiles[-1].wanted[1],
        )
        self._allocate(stored, engine)
        self._warm_up()

    def _allocate(self, stored: engine_cache.StoredEngine, engine: Any) -> None:
        """Allocate everything, so that a pass allocates nothing."""
        cuda, in_place = self._cuda, self._bundle.target == "tensorrt"
        self._cache = KeyValueCache(cuda, self._bundle.model, in_place=in_place)
        self._check(stored, engine, in_place)
        self._inputs = Inputs(cuda, most_tokens=self._most_tokens, most_wanted=self._most_wanted)
        self._logits = Logits(cuda, most_wanted=self._most_wanted, vocab_size=self.vocab_size)
        size = max(int(engine.device_memory_size_v2), 1)
        working = cuda.allocate(size, "the working memory")
        for profile in self._profiles:
            profile.context.set_device_memory(working, size)
            for name, address in self._inputs.addresses.items():
                self._bind(profile, name, address)
            self._bind(profile, "logits", self._logits.address)
        cuda.synchronize()

    def _check(self, stored: engine_cache.StoredEngine, engine: Any, in_place: bool) -> None:
        """Check that an engine has the tensors that this class serves, where it expects them."""
        pairs = {f"present_{name}": f"past_{name}" for name in self._cache.names}
        expected = {"input_ids", "logit_positions", "write_index", "logits", *pairs}
        names = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
        if (
            names != expected | set(pairs.values())
            or any(self._trt.on_host(engine, name) for name in names)
            or (in_place and any(self._trt.aliased(engine, to) != pairs[to] for to in pairs))
        ):
            raise EngineFileError(
                f"{stored.plan} has other inputs or outputs than this program serves; run "
                f"`quant_llm build-engine --force {self._bundle.path}` on this computer"
            )

    def _warm_up(self) -> None:
        """Run every profile once, which loads its kernels, and record the step of decoding."""
        for profile in self._profiles:
            for _ in range(self._cache.copies):
                ids = np.zeros(profile.tokens[1], dtype=np.int64)
                self._pass(ids, np.arange(profile.wanted[1]), 0)
        step = self._profiles[0]
        if step.takes(1, 1):
            # Where the GPU cannot record a pass, it is given anew every time.
            with contextlib.suppress(DeviceError):
                for _ in range(self._cache.copies):
                    self._shape(step, 1, 1)
                    side = self._cache.side
                    self._graphs[side] = self._cuda.capture(lambda: self._enqueue(step, 1))
                    self._cache.turn()
        self._cache.clear(0)
        self._cuda.synchronize()

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
            EngineError: The GPU failed or the engine is closed. The cache is unchanged, or, where
                the GPU does not recover, every later call fails too.
        """
        self._check_alive()
        ids, wanted = checked(self, tokens, last, at)
        rows = []
        for start, end in self._pieces(len(ids), wanted):
            inside = wanted[(start <= wanted) & (wanted < end)] - start
            asked = inside if len(inside) else np.array([end - start - 1])
            logits = self._pass(ids[start:end], asked, self._length + start)
            if len(inside):
                rows.append(logits)
        self._length += len(ids)
        return rows[0] if len(rows) == 1 else np.concatenate(rows)

    def rollback(self, length: int) -> None:
        """Forget every token after the first ``length``; costs nothing.

        Raises:
            ValueError: ``length`` is negative or more than the cache holds.
            EngineError: The engine is closed, or the GPU has failed.
        """
        self._check_alive()
        if not 0 <= length <= self._length:
            raise ValueError(f"cannot roll back to {length}: the cache holds {self._length}")
        self._length = length

    def mark(self) -> None:
        """Do nothing: every length can be rolled back to at no cost."""
        self._check_alive()

    def close(self) -> None:
        """Free the memory of the GPU; the engine cannot be used afterwards. May be repeated."""
        self._dead = "the engine is closed; load the bundle again"
        self._length = 0
        self._graphs, self._profiles = {}, []  # contexts go before their engine …
        self._loaded = ()
        self._cuda.close()  # … and both before the memory that they use

    def _pieces(self, count: int, wanted: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
        """Divide new tokens into passes that are not larger than the engine was compiled for."""
        start = 0
        while start < count:
            end = min(start + self._most_tokens, count)
            inside = wanted[(start <= wanted) & (wanted < end)]
            if len(inside) > self._most_wanted:
                end = int(inside[self._most_wanted])
            yield start, end
            start = end

    def _pass(
        self, ids: NDArray[np.int64], wanted: NDArray[np.int64], length: int
    ) -> NDArray[np.float32]:
        """Run the model over new tokens behind the first ``length`` of the cache."""
        count, rows = len(ids), len(wanted)
        self._inputs.fill(ids, wanted, length)
        try:
            graph = self._graphs.get(self._cache.side) if count == rows == 1 else None
            if graph is not None:
                self._cuda.launch(graph)
            else:
                profile = next(one for one in self._profiles if one.takes(count, rows))
                self._shape(profile, count, rows)
                self._enqueue(profile, rows)
            self._cuda.synchronize()
        except DeviceError as error:
            self._recover(error, count)
            state = "the engine must be loaded again" if self._dead else "the cache is unchanged"
            raise EngineError(f"the GPU failed on {count} tokens: {error}; {state}") from error
        logits = self._logits.rows(rows)
        if not np.isfinite(logits).all():
            # Rows that are not finite would spoil every later pass, even where it must not see
            # them: it multiplies them by zero.
            self._cache.clear(self._length)
            self._cuda.synchronize()
            raise EngineError(
                "the model's output is not finite, its numbers are too large for FP16; the cache "
                "is unchanged; build the bundle with target ort for this model"
            )
        self._cache.turn()
        return logits

    def _shape(self, profile: _Profile, count: int, rows: int) -> None:
        """Tell a context the sizes of the next pass, and which cache is read."""
        context = profile.context
        if profile.shape != (count, rows):
            profile.shape = (0, 0)
            if not (
                context.set_input_shape("input_ids", (1, count))
                and context.set_input_shape("logit_positions", (rows,))
            ):
                raise DeviceError(f"TensorRT refuses {count} tokens{self._trt.why()}")
            profile.shape = (count, rows)
        if profile.side != self._cache.side:
            profile.side = None
            for name, address in self._cache.addresses():
                self._bind(profile, name, address)
            profile.side = self._cache.side

    def _bind(self, profile: _Profile, name: str, address: int) -> None:
        if not profile.context.set_tensor_address(name, address):
            raise DeviceError(f"TensorRT refuses the address of {name}{self._trt.why()}")

    def _enqueue(self, profile: _Profile, rows: int) -> None:
        """Give a pass to the stream: inputs there, the model, logits back."""
        self._inputs.send()
        if not profile.context.execute_async_v3(self._cuda.stream):
            raise DeviceError(f"TensorRT could not start the pass{self._trt.why()}")
        self._logits.fetch(rows)

    def _recover(self, error: DeviceError, count: int) -> None:
        """After a failed pass, bring the cache back, or find that the GPU does not recover."""
        try:
            self._cuda.synchronize()
            self._cache.clear(self._length)
            self._cuda.synchronize()
        except DeviceError:
            self._dead = (
                f"the GPU failed on {count} tokens ({error}) and does not recover; load the "
                f"bundle again, and if that fails too, restart the program"
            )

    def _check_alive(self) -> None:
        if self._dead:
            raise EngineError(self._dead)
