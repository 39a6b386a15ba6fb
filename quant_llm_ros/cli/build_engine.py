"""``quant_llm build-engine``: compile a bundle for the GPU of this computer."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import contextlib
from pathlib import Path
import signal
import threading
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from quant_llm_ros.engine.bundle import Bundle
from quant_llm_ros.engine.engine_cache import StoredEngine
from quant_llm_ros.engine.tensorrt_api import MODULES
from quant_llm_ros.engine.tensorrt_build import Build, BuildOptions, PluginOptions, Rewrite
from quant_llm_ros.errors import DeviceMemoryError, EngineError


def add_parser(subcommands: Any) -> None:
    """Declare the subcommand."""
    parser = subcommands.add_parser(
        "build-engine",
        help="compile a bundle with TensorRT for the GPU of this computer",
        description=(
            "Compile a bundle of target tensorrt or tensorrt-jp6 for the GPU of this computer. "
            "The engine is stored in the bundle and compiled again only where TensorRT, the GPU "
            "or the model has changed."
        ),
    )
    parser.add_argument("bundle", metavar="BUNDLE")
    default = BuildOptions()
    parser.add_argument(
        "--runtime",
        choices=["auto", *MODULES],
        default=default.runtime,
        help="which TensorRT (default: the one that is installed)",
    )
    parser.add_argument(
        "--capability",
        metavar="SM",
        help="compile for another GPU, such as SM86; TensorRT for RTX only",
    )
    parser.add_argument(
        "--prompt-tokens",
        type=int,
        default=default.prompt_tokens,
        help="most tokens of one pass (default: %(default)s)",
    )
    parser.add_argument(
        "--draft-tokens",
        type=int,
        default=default.draft_tokens,
        help="most tokens of a short pass, such as a draft (default: %(default)s)",
    )
    parser.add_argument(
        "--workspace-mib",
        type=int,
        default=default.workspace_mib,
        help="memory that a kernel may use, MiB (default: %(default)s)",
    )
    parser.add_argument(
        "--plugins",
        metavar="FOLDER",
        type=Path,
        help=(
            "let this project's own kernel do the INT4 products: the output of "
            "kernels/compile.py (default: TensorRT's kernels; the speed of ours is not measured)"
        ),
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="compile even if there is an engine already, or if the memory may not suffice",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compile a bundle."""
    bundle = Bundle.load(arguments.bundle)
    console = Console()
    options = BuildOptions(
        runtime=arguments.runtime,
        capability=arguments.capability,
        prompt_tokens=arguments.prompt_tokens,
        draft_tokens=arguments.draft_tokens,
        workspace_mib=arguments.workspace_mib,
        plugins=(
            None
            if arguments.plugins is None
            else PluginOptions(arguments.plugins, _rewrite(console))
        ),
    )
    with contextlib.closing(Build(bundle, options)) as build:
        console.print(f"{bundle.path}: {build.title} for {build.gpu}", highlight=False)
        existing = None if arguments.force else build.existing()
        if existing is not None:
            _show(console, existing, "nothing to do:")
            return 0
        console.print(f"needs about {build.estimate}", highlight=False)
        if not build.estimate.enough and not arguments.force:
            raise DeviceMemoryError(
                "that may not suffice; end other programs, add swap, lower --workspace-mib, or "
                "try it with --force"
            )
        stored = _run(build, console)
    _show(console, stored, "engine:")
    peaks = ", ".join(
        f"{name} {stored.figures[key]:.0f} MiB"
        for name, key in (("computer", "host_peak_mib"), ("GPU", "gpu_peak_mib"))
        if key in stored.figures
    )
    seconds = stored.figures["build_seconds"]
    console.print(f"took {seconds:.0f} s, most memory in use: {peaks}", highlight=False)
    return 0


def _rewrite(console: Console) -> Rewrite:
    """Give what puts plugins into a graph.

    Raises:
        EngineError: The onnx library is missing.
    """
    try:
        # onnx is an extra: a robot that only serves bundles lacks it.
        from quant_llm_ros.quantize.graph_plugins import with_plugins
    except ModuleNotFoundError as error:
        raise EngineError(
            f"--plugins needs the package {error.name!r}; install it on this computer: "
            f"pip install onnx onnx-ir"
        ) from error

    def rewrite(source: Path, folder: Path, namespace: str) -> Path:
        rewritten = with_plugins(source, folder, namespace)
        console.print(str(rewritten), highlight=False)
        return rewritten.path

    return rewrite


def _run(build: Build, console: Console) -> StoredEngine:
    """Compile, with a bar for every phase that TensorRT is in; Ctrl-C stops in order."""
    with _interruptible() as stopped, _Bars(console) as bars:

        def step(phase: str, done: int, steps: int) -> bool:
            bars.show(phase, done, steps)
            return not stopped.is_set()

        try:
            return build.run(step)
        except EngineError:
            if stopped.is_set():
                raise KeyboardInterrupt from None
            raise


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Let Ctrl-C set an event: an exception could not pass through TensorRT's own code."""
    stopped = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: stopped.set())
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)


class _Bars:
    """A bar for every phase of a build; phases are nested."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, phase: str, done: int, steps: int) -> None:
        """Show how far a phase is; no steps at all: it has ended."""
        with self._lock:
            if not steps:
                task = self._tasks.pop(phase, None)
                if task is not None:
                    self._progress.remove_task(task)
                return
            if phase not in self._tasks:
                self._tasks[phase] = self._progress.add_task(phase, total=steps)
            self._progress.update(self._tasks[phase], completed=done, total=steps)


def _show(console: Console, stored: StoredEngine, what: str) -> None:
    size = stored.plan_bytes / 1e6
    console.print(
        f"{what} {stored.path}, {size:.1f} MB, compiled {stored.created}", highlight=False
    )
