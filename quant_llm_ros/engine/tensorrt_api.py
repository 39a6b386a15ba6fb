"""The installed TensorRT: all that differs between its versions 10.3 to 11, in one place.

TensorRT for RTX (module ``tensorrt_rtx``) has the same API. It compiles for a GPU that is not
there, which is how builds are tried out on a computer without one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import importlib
import mmap
from pathlib import Path
from typing import Any, TypeAlias

from quant_llm_ros.engine import tensorrt_plugins
from quant_llm_ros.engine.tensorrt_cuda import CPU_PATH
from quant_llm_ros.engine.tensorrt_plugins import Plugins
from quant_llm_ros.errors import DeviceError, EngineError, EngineFileError

MODULES = ("tensorrt", "tensorrt_rtx")
# The oldest version, by module and target of the bundle: 10.3 is JetPack 6's; 10.15 has the
# operators for rotary embedding, norms and the update of the cache.
NEEDED: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "tensorrt": {"tensorrt": (10, 15), "tensorrt-jp6": (10, 3)},
    "tensorrt_rtx": {"tensorrt": (1, 7), "tensorrt-jp6": (1, 7)},
}
_NAMES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT for RTX"}
_MEBIBYTE = 2**20

Step = Callable[[str, int, int], bool]
"""Told of progress: name of the phase, steps done, all steps (both 0 at its end); False stops."""


Profile: TypeAlias = Mapping[str, tuple[int, int, int]]
"""Optimization profile: the least, the typical and the largest of each size that changes, by its
name in the graph (``n`` new tokens, ``k`` positions whose logits are wanted)."""


class TensorRt:
    """An installed TensorRT.

    Attributes:
        module: Its name, one of :data:`MODULES`.
        version: Its full version.
        title: Both, for people.
    """

    def __init__(self, name: str, trt: Any) -> None:
        """Wrap an imported module; use :meth:`load`."""
        self.module = name
        self.version = str(trt.__version__)
        self.title = f"{_NAMES[name]} {self.version}"
        self._trt = trt
        self._complaints: list[str] = []
        self._logger = _listener(trt, self._complaints)

    @classmethod
    def load(cls, module: str = "auto") -> TensorRt:
        """Import TensorRT.

        Args:
            module: One of :data:`MODULES`, or ``auto`` for the first that is installed.

        Raises:
            DeviceError: It is not installed or its libraries cannot be loaded.
        """
        reasons = []
        for name in MODULES if module == "auto" else (module,):
            if name not in MODULES:
                raise DeviceError(f"there is no TensorRT {name!r}: {', '.join(MODULES)}")
            try:
                return cls(name, importlib.import_module(name))
            except (ImportError, OSError, AttributeError) as error:
                reasons.append(f"{name}: {error}")
        raise DeviceError(
            f"TensorRT cannot be imported ({'; '.join(reasons)}); it comes with JetPack (a "
            f"virtual environment needs --system-site-packages), elsewhere "
            f"`pip install tensorrt`; {CPU_PATH}"
        )

    def check_target(self, target: str, bundle: Path) -> None:
        """Check that this version takes the graph of a bundle.

        Raises:
            EngineError: The bundle is for another runtime or a newer TensorRT.
        """
        needed = NEEDED[self.module].get(target)
        if needed is None:
            raise EngineError(
                f"{bundle} is built for {target}; TensorRT needs target tensorrt or tensorrt-jp6 "
                f"(quant_llm quantize --recipe config/recipes/tensorrt.yaml)"
            )
        installed = tuple(int(part) for part in self.version.split(".")[:2] if part.isdigit())
        if installed < needed:
            raise EngineError(
                f"{bundle} is built for TensorRT {needed[0]}.{needed[1]} or newer, installed is "
                f"{self.version}; build the bundle with config/recipes/tensorrt-jp6.yaml for "
                f"TensorRT 10.3 and newer"
            )

    def load_plugins(self, folder: Path, sm: int) -> Plugins:
        """Load kernels of our own and let TensorRT know them, before a graph has them.

        Args:
            folder: Output of ``kernels/compile.py``.
            sm: Compute capability of the GPU.

        Raises:
            EngineError: This TensorRT has no plugins of compiled kernels, or they do not fit.
        """
        module = tensorrt_plugins.plugin_module(self.module, self.version)
        plugins = Plugins.load(folder, sm)
        tensorrt_plugins.register(self._trt, module, plugins)
        return plugins

    # --- Building ---------------------------------------------------------------------------

    def build(
        self,
        graph: Path,
        profiles: Sequence[Profile],
        *,
        workspace_mib: int,
        timing_cache: bytes = b"",
        capability: str | None = None,
        progress: Step | None = None,
    ) -> tuple[Any, bytes]:
        """Compile an ONNX file, strongly typed: every precision is the graph's own.

        Args:
            graph: The ``.onnx`` file.
            profiles: The engine has kernels for each; none for a graph without sizes that change.
            workspace_mib: Memory that a kernel may use, MiB.
            timing_cache: What an earlier build has measured; another GPU's is ignored.
            capability: For which GPU, such as ``SM86``, where TensorRT can choose; None for the
                one that is there.
            progress: Told of it, from any thread.

        Returns:
            The engine, a buffer, and the timing cache.

        Raises:
            EngineError: TensorRT refused the graph or could not compile it.
        """
        trt = self._trt
        self._complaints.clear()
        builder = trt.Builder(self._logger)
        if builder is None:
            raise EngineError(f"{self.title} cannot start{self._why()}")
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = builder.create_network(flags)
        parser = trt.OnnxParser(network, self._logger)
        if not parser.parse_from_file(str(graph)):
            errors = [_parser_error(parser.get_error(i)) for i in range(parser.num_errors)]
            raise EngineError(f"{self.title} refuses {graph}: {'; '.join(errors)}")
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib * _MEBIBYTE)
        if capability is not None:
            self.check_capability(capability)
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
        for sizes in profiles:
            profile = builder.create_optimization_profile()
            for name, shapes in _shapes(network, sizes).items():
                profile.set_shape(name, *shapes)
            if config.add_optimization_profile(profile) < 0:
                raise EngineError(f"{self.title} refuses the sizes {sizes}{self._why()}")
        cache = config.create_timing_cache(timing_cache)
        if cache is None:  # made by another version
            cache = config.create_timing_cache(b"")
        if cache is not None:
            config.set_timing_cache(cache, ignore_mismatch=False)
        if progress is not None:
            config.progress_monitor = _monitor(trt, progress)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise EngineError(f"{self.title} cannot compile {graph}{self._why()}")
        measured = config.get_timing_cache()
        return plan, b"" if measured is None else bytes(measured.serialize())

    def check_capability(self, capability: str) -> None:
        """Check that this version compiles for a GPU that need not be there.

        Raises:
            EngineError: It does not.
        """
        known = getattr(self._trt, "ComputeCapability", None)
        if known is None:
            raise EngineError(
                f"{self.title} compiles for the GPU that is there; leave --capability out"
            )
        names = [name for name in known.__members__ if name.startswith("SM")]
        if capability not in names:
            raise EngineError(
                f"{self.title} does not know {capability}; known: {', '.join(names)}"
            )

    # --- Serving ----------------------------------------------------------------------------

    def deserialize(self, plan: Path) -> tuple[Any, Any]:
        """Load a compiled engine.

        Returns:
            TensorRT's runtime, which must outlive the engine, and the engine.

        Raises:
            EngineFileError: TensorRT refuses it.
        """
        self._complaints.clear()
        runtime = self._trt.Runtime(self._logger)
        if runtime is None:
            raise DeviceError(f"{self.title} cannot start{self._why()}; {CPU_PATH}")
        # Mapped: a board has not the memory for a second copy.
        with plan.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            engine = runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise EngineFileError(
                f"{self.title} cannot load {plan}{self._why()}; run `quant_llm build-engine "
                f"--force` on this computer, or, if it is memory that lacks, end other programs; "
                f"{CPU_PATH}"
            )
        return runtime, engine

    def context(self, engine: Any, profile: int, stream: int) -> Any:
        """Make an execution context of one profile, whose working memory the caller gives.

        Raises:
            DeviceError: There is not enough memory.
        """
        self._complaints.clear()
        managed = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = engine.create_execution_context(managed)
        if context is None or not context.set_optimization_profile_async(profile, stream):
            raise DeviceError(f"{self.title} cannot make an execution context{self._why()}")
        return context

    def aliased(self, engine: Any, output: str) -> str | None:
        """Name of the input whose memory an output must share; None where TensorRT has no such."""
        if not hasattr(engine, "get_aliased_input_tensor"):  # before 10.15
            return None
        name: str | None = engine.get_aliased_input_tensor(output)
        return name or None

    def on_host(self, engine: Any, name: str) -> bool:
        """Whether a tensor must be in host memory."""
        return bool(engine.get_tensor_location(name) == self._trt.TensorLocation.HOST)

    def why(self) -> str:
        """What TensorRT has complained about since the last question, as the end of a sentence."""
        said = self._why()
        self._complaints.clear()
        return said

    def _why(self) -> str:
        return f": {'; '.join(self._complaints[:3])}" if self._complaints else ""


def _listener(trt: Any, complaints: list[str]) -> Any:
    """Make a logger that notes what is wrong."""

    class Listener(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                complaints.append(" ".join(message.split()))

    return Listener()


def _monitor(trt: Any, progress: Step) -> Any:
    """Make a monitor that hands on the progress of a build."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self.steps[name] = steps
            progress(name, 0, steps)

        def step_complete(self, name: str, step: int) -> bool:
            return progress(name, step + 1, self.steps.get(name, step + 1))

        def phase_finish(self, name: str) -> None:
            self.steps.pop(name, None)
            progress(name, 0, 0)

    return Monitor()


def _shapes(network: Any, sizes: Profile) -> dict[str, list[tuple[int, ...]]]:
    """Least, typical and largest shape of each graph input whose shape changes.

    Raises:
        EngineError: It has a size that the profile does not give.
    """
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    for value in inputs:
        for axis, size in enumerate(value.shape):
            name = value.get_dimension_name(axis)
            if size == -1 and name not in sizes:
                raise EngineError(
                    f"the graph's input {value.name} has a size {name!r} that changes; only "
                    f"{' and '.join(sizes)} may, so this is no graph of target tensorrt or "
                    f"tensorrt-jp6"
                )
    return {
        value.name: [
            tuple(
                sizes[value.get_dimension_name(axis)][which] if size == -1 else int(size)
                for axis, size in enumerate(value.shape)
            )
            for which in range(3)
        ]
        for value in inputs
        if -1 in tuple(value.shape)
    }


def _parser_error(error: Any) -> str:
    node = error.node_name() or f"node {error.node()}"
    return f"{node} ({error.node_operator()}): {' '.join(error.desc().split())}"
