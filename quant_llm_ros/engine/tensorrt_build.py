"""Compiles the graph of a bundle on the computer that will serve it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
from pathlib import Path
import resource
import shutil
import threading
import time
from typing import TypeAlias

from quant_llm_ros.engine import engine_cache
from quant_llm_ros.engine.bundle import Bundle, MODEL, MODEL_DATA
from quant_llm_ros.engine.engine_cache import EngineKey, StoredEngine
from quant_llm_ros.engine.tensorrt_api import Profile, Step, TensorRt
from quant_llm_ros.engine.tensorrt_cuda import Cuda
from quant_llm_ros.engine.tensorrt_plugins import Plugins
from quant_llm_ros.errors import DeviceError, DeviceMemoryError, EngineError, EngineFileError

_MEBIBYTE = 2**20
# Peak of the process, measured with TensorRT for RTX 1.7 and FP16 weights: 255 MiB for 1 MiB of
# weights, 1219 MiB for 192 MiB, so 5 times the weights. TensorRT itself loads more libraries.
_LIBRARIES_BYTES = 700 * _MEBIBYTE
_COPIES = 5

Rewrite: TypeAlias = Callable[[Path, Path, str], Path]
"""Writes a graph with plugins into a folder: source, folder, TensorRT's namespace of the plugins;
gives its file. ``quantize.graph_plugins`` has it, which needs the onnx library."""


@dataclasses.dataclass(frozen=True)
class PluginOptions:
    """Which kernels of our own become part of an engine.

    Attributes:
        folder: Output of ``kernels/compile.py``.
        rewrite: Puts them into a graph.
    """

    folder: Path
    rewrite: Rewrite


@dataclasses.dataclass(frozen=True)
class BuildOptions:
    """How to compile.

    Attributes:
        runtime: ``tensorrt``, ``tensorrt_rtx``, or ``auto`` for the one that is installed.
        capability: Compile for this GPU, such as ``SM86``, which need not be there (TensorRT for
            RTX only); None for the one that is.
        prompt_tokens: Most new tokens of a pass; longer prompts take several.
        draft_tokens: Most tokens of a short pass, as when a draft is verified.
        workspace_mib: Memory that a kernel may use, MiB; what needs more is not tried.
        plugins: Kernels of our own; None for an engine of TensorRT's.
    """

    runtime: str = "auto"
    capability: str | None = None
    prompt_tokens: int = 128
    draft_tokens: int = 16
    workspace_mib: int = 512
    plugins: PluginOptions | None = None


def decoder_profiles(*, prompt: int, drafts: int) -> tuple[Profile, ...]:
    """Make the profiles of a decoder: one token, a short pass such as a draft's, a long one.

    The long one takes every smaller pass too, so there is always one that fits.

    Args:
        prompt: Most new tokens of a pass, at least 1.
        drafts: Most tokens of a short pass, at least 1.
    """
    one = (1, 1, 1)
    step: Profile = {"n": one, "k": one}
    long: Profile = {"n": (1, max(1, prompt // 2), prompt), "k": (1, 1, max(1, prompt // 2))}
    drafts = min(drafts, prompt)
    if drafts < 2:
        return step, long
    short = {"n": (2, (2 + drafts) // 2, drafts), "k": (1, max(1, drafts // 4), drafts)}
    return step, short, long


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Memory that a build will need at most, and what there is; bytes.

    Attributes:
        host: Needed of the computer's memory.
        gpu: Needed of the GPU's.
        host_free: Memory of the computer that is free or can be freed.
        gpu_free: The GPU's; None where no GPU takes part.
        shared: The two are one memory, as on a Jetson.
    """

    host: int
    gpu: int
    host_free: int
    gpu_free: int | None
    shared: bool

    @property
    def enough(self) -> bool:
        """Whether it should fit."""
        if self.shared:
            return self.host + self.gpu <= self.host_free
        return self.host <= self.host_free and (self.gpu_free is None or self.gpu <= self.gpu_free)

    def __str__(self) -> str:
        host, gpu, host_free = (
            f"{value / _MEBIBYTE:.0f} MiB" for value in (self.host, self.gpu, self.host_free)
        )
        if self.shared:
            return f"{host} and {gpu} for the GPU, of one memory with {host_free} free"
        if self.gpu_free is None:
            return f"{host} of {host_free} free"
        gpu_free = f"{self.gpu_free / _MEBIBYTE:.0f} MiB"
        return f"{host} of {host_free} free, and on the GPU {gpu} of {gpu_free} free"


class Build:
    """One compilation.

    Attributes:
        title: TensorRT and its version.
        gpu: For which GPU, in words.
        key: What the engine is made for.
        profiles: Sizes of a pass.
        estimate: Memory that it will need.
    """

    def __init__(self, bundle: Bundle, options: BuildOptions) -> None:
        """Look at the computer.

        Raises:
            DeviceError: TensorRT, cuda-python, the GPU or its driver are missing or too old.
            EngineError: The bundle is for another runtime, or an option is impossible.
        """
        if options.prompt_tokens < 1 or options.draft_tokens < 1 or options.workspace_mib < 1:
            raise EngineError("prompt tokens, draft tokens and workspace must be at least 1")
        trt = TensorRt.load(options.runtime)
        trt.check_target(bundle.target, bundle.path)
        self._bundle, self._options, self._trt = bundle, options, trt
        self._cuda: Cuda | None = None
        if options.capability is None:
            self._cuda = Cuda.open()
            sm, self.gpu = self._cuda.sm, f"{self._cuda.name} (SM{self._cuda.sm})"
        else:
            trt.check_capability(options.capability)
            sm, self.gpu = int(options.capability[2:]), options.capability
        self.title = trt.title
        self.key = EngineKey(trt.module, trt.version, sm, engine_cache.model_sha256(bundle))
        self._plugins: Plugins | None = None
        if options.plugins is not None:
            self._use_plugins(options.plugins.folder)
        self.profiles = decoder_profiles(
            prompt=min(options.prompt_tokens, bundle.model.context_length),
            drafts=options.draft_tokens,
        )
        self.estimate = self._estimate()

    def _use_plugins(self, folder: Path) -> None:
        """Load plugins and let TensorRT know them.

        Raises:
            EngineError: The graph is for a TensorRT without such, or they do not fit.
        """
        bundle = self._bundle
        try:
            if bundle.target != "tensorrt":
                raise EngineError(
                    f"{bundle.path} is built for {bundle.target}, whose TensorRT has no plugins "
                    f"of compiled kernels; leave --plugins out, or build the bundle with "
                    f"config/recipes/tensorrt.yaml"
                )
            self._plugins = self._trt.load_plugins(folder, self.key.sm)
        except EngineError:
            self.close()
            raise
        self.key = dataclasses.replace(self.key, plugins=self._plugins.digest)
        self.title += f" with plugins {self._plugins.digest[:12]}"

    @contextlib.contextmanager
    def _graph(self) -> Iterator[Path]:
        """Give the graph to compile, a passing copy of the bundle's where plugins go into it."""
        source = self._bundle.file(MODEL)
        if self._options.plugins is None or self._plugins is None:
            yield source
            return
        folder = self._bundle.path / engine_cache.FOLDER / engine_cache.PART_GRAPH
        try:
            try:
                folder.mkdir()
                graph = self._options.plugins.rewrite(source, folder, self._plugins.namespace)
            except OSError as error:
                raise EngineFileError(
                    f"cannot write the graph with plugins to {folder}: {error.strerror or error}; "
                    f"make room or give yourself the right to write there"
                ) from error
            yield graph
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def existing(self) -> StoredEngine | None:
        """Give the engine that is there already, whole and with the same sizes; None without."""
        try:
            stored = engine_cache.find(self._bundle, self.key)
        except EngineFileError:
            return None
        return stored if stored.profiles == self.profiles else None

    def run(self, progress: Callable[[str, int, int], bool]) -> StoredEngine:
        """Compile and store the engine.

        Args:
            progress: Told of it, from any thread; see :data:`tensorrt_api.Step`.

        Returns:
            The engine, with ``build_seconds``, ``host_peak_mib`` and ``gpu_peak_mib`` among its
            figures.

        Raises:
            DeviceMemoryError: The memory did not suffice.
            EngineFileError: The engine cannot be written, or another build is under way.
            EngineError: TensorRT refuses the graph, or it was stopped.
        """
        started = time.perf_counter()
        watch = _Watch(self._cuda, progress)
        with engine_cache.locked(self._bundle):
            cache = engine_cache.timing_cache(self._bundle, self.key)
            try:
                with self._graph() as graph:
                    plan, measured = self._trt.build(
                        graph,
                        self.profiles,
                        workspace_mib=self._options.workspace_mib,
                        timing_cache=cache.read_bytes() if cache.is_file() else b"",
                        capability=self._options.capability,
                        progress=watch.step,
                    )
            except (MemoryError, EngineError) as error:
                if isinstance(error, MemoryError) or "memory" in str(error).lower():
                    raise DeviceMemoryError(
                        f"{error}; the build needs about {self.estimate}: end other programs, add "
                        f"swap, or lower --workspace-mib and --prompt-tokens"
                    ) from error
                raise
            figures = {
                "build_seconds": round(time.perf_counter() - started, 1),
                **watch.peaks(),
            }
            stored = engine_cache.store(self._bundle, self.key, plan, self.profiles, figures)
            if measured:
                engine_cache.replace(cache, measured)
            return stored

    def close(self) -> None:
        """Give the GPU back."""
        if self._cuda is not None:
            self._cuda.close()

    def _estimate(self) -> Estimate:
        """Guess the memory from the size of the model.

        The parser holds the weights, the builder their copies in other layouts, and the plan is
        written as a whole.
        """
        weights = sum(self._bundle.files[name].bytes for name in (MODEL, MODEL_DATA))
        cuda = self._cuda
        return Estimate(
            host=_LIBRARIES_BYTES + _COPIES * weights,
            gpu=2 * weights + self._options.workspace_mib * _MEBIBYTE if cuda else 0,
            host_free=_available(),
            gpu_free=cuda.memory()[0] if cuda else None,
            shared=cuda is not None and cuda.integrated,
        )


class _Watch:
    """Looks at the memory at every step of a build."""

    def __init__(self, cuda: Cuda | None, progress: Step) -> None:
        self._cuda, self._progress = cuda, progress
        self._lock = threading.Lock()
        self._free_before = self._least_free = cuda.memory()[0] if cuda is not None else 0

    def step(self, phase: str, done: int, steps: int) -> bool:
        """Be told of progress."""
        self._look()
        return self._progress(phase, done, steps)

    def peaks(self) -> dict[str, float]:
        """Most memory in use, MiB: of this process, and of the GPU."""
        self._look()
        peaks = {"host_peak_mib": round(_process_peak() / _MEBIBYTE, 1)}
        if self._cuda is not None:
            used = self._free_before - self._least_free
            peaks["gpu_peak_mib"] = round(used / _MEBIBYTE, 1)
        return peaks

    def _look(self) -> None:
        if self._cuda is None:
            return
        try:
            free, _ = self._cuda.memory()
        except DeviceError:
            return
        with self._lock:
            self._least_free = min(self._least_free, free)


def _available() -> int:
    """Memory of the computer that is free or can be freed, bytes."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return 0


def _process_peak() -> int:
    """Most memory that this process has had, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
