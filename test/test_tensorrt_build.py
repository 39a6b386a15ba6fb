"""``quant_llm build-engine``: what it stores, when it does so again, and what a kill leaves."""

from __future__ import annotations

from collections.abc import Iterator
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time

from fake_cuda import cudaError_t, Gpu
from fake_tensorrt import fake_module, installed
import pytest
from target_graphs import INT4, WIDE
from tiny_models import build_tiny, make_folder
import yaml

from quant_llm_ros.cli import main
from quant_llm_ros.engine import engine_cache
from quant_llm_ros.engine.bundle import Bundle
from quant_llm_ros.engine.engine_cache import FOLDER, PLAN, RECORD
from quant_llm_ros.engine.tensorrt_build import Build, BuildOptions, decoder_profiles, Estimate
from quant_llm_ros.errors import EngineError, EngineFileError
from quant_llm_ros.quantize.compile_gate import is_available

needs_compiler = pytest.mark.skipif(
    not is_available(),
    reason="TensorRT for RTX is not installed: pip install -r requirements/tensorrt.txt",
)
KEY = "tensorrt-10.16.1.11-sm87-"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of a tiny model."""
    folder = tmp_path_factory.mktemp("original")
    model = make_folder(folder / "model", **WIDE)
    return build_tiny(folder, model, target="tensorrt-jp6", quantize=INT4, context_length=64)


@pytest.fixture
def bundle(original: Bundle, tmp_path: Path) -> Bundle:
    """A copy of it."""
    return Bundle.load(shutil.copytree(original.path, tmp_path / "bundle"))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """A computer with TensorRT and a GPU."""
    monkeypatch.setenv("COLUMNS", "400")
    with installed(monkeypatch) as gpu:
        yield gpu


def engines(bundle: Bundle) -> list[str]:
    """Names of everything in the folder of the engines."""
    return sorted(path.name for path in (bundle.path / FOLDER).iterdir())


def test_profiles() -> None:
    step = {"n": (1, 1, 1), "k": (1, 1, 1)}
    assert decoder_profiles(prompt=128, drafts=16) == (
        step,
        {"n": (2, 9, 16), "k": (1, 4, 16)},
        {"n": (1, 64, 128), "k": (1, 1, 64)},
    )
    assert decoder_profiles(prompt=16, drafts=1) == (step, {"n": (1, 8, 16), "k": (1, 1, 8)})


def test_build_and_again(bundle: Bundle, gpu: Gpu, capsys: pytest.CaptureFixture[str]) -> None:
    """Built once; again only where something has changed, or when it must."""

    def build(*options: str) -> str:
        assert main(["build-engine", str(bundle.path), *options]) == 0
        assert gpu.held == 0
        return capsys.readouterr().out

    out = build()
    assert "TensorRT 10.16.1.11 for Orin (SM87)" in out
    assert "needs about" in out
    assert "most memory in use: computer" in out
    (folder,) = (bundle.path / FOLDER).glob(f"{KEY}*")
    record = yaml.safe_load((folder / RECORD).read_text())
    assert record["key"]["sm"] == 87
    assert record["plan"]["bytes"] == (folder / PLAN).stat().st_size
    assert set(record["figures"]) == {"build_seconds", "host_peak_mib", "gpu_peak_mib"}
    assert engines(bundle) == [folder.name, "timing-tensorrt-10.16.1.11-sm87.cache"]
    Bundle.load(bundle.path)  # which is as whole as before

    first = (folder / RECORD).read_text()
    assert "nothing to do" in build()
    assert (folder / RECORD).read_text() == first
    assert "engine:" in build("--force")
    timing = bundle.path / FOLDER / "timing-tensorrt-10.16.1.11-sm87.cache"
    assert timing.read_bytes() == b"measured" * 2  # the second build knew what the first measured
    assert "engine:" in build("--prompt-tokens", "8")  # other sizes
    (folder / PLAN).write_bytes(b"damaged")
    assert "engine:" in build("--prompt-tokens", "8")
    gpu.sm = 110
    assert "engine:" in build()
    sys.modules["tensorrt"] = fake_module(gpu, "11.4.0.106")
    assert "engine:" in build()
    assert len(list((bundle.path / FOLDER).glob("tensorrt-*"))) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--capability", "SM86"], "compiles for the GPU that is there"),
        (["--workspace-mib", "0"], "must be at least 1"),
        (["--runtime", "tensorrt_rtx"], "TensorRT cannot be imported"),
    ],
)
def test_wrong_options(
    bundle: Bundle,
    gpu: Gpu,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    assert main(["build-engine", str(bundle.path), *options]) == 1
    assert message in capsys.readouterr().err
    assert not (bundle.path / FOLDER).exists()
    assert gpu.held == 0


def test_not_enough_memory(bundle: Bundle, gpu: Gpu, capsys: pytest.CaptureFixture[str]) -> None:
    """Said beforehand where it is to be expected, and afterwards where TensorRT ran out of it."""
    gpu.integrated, gpu.total = False, 100 * 2**20
    assert main(["build-engine", str(bundle.path)]) == 1
    shown = capsys.readouterr()
    assert "on the GPU 512 MiB of 100 MiB free" in shown.out
    assert "lower --workspace-mib" in shown.err
    gpu.fail("build", cudaError_t.cudaErrorMemoryAllocation)
    assert main(["build-engine", str(bundle.path), "--force"]) == 1
    message = capsys.readouterr().err
    assert "cannot compile" in message
    assert "out of memory; the build needs about" in message
    assert engines(bundle) == []
    assert gpu.held == 0


@pytest.mark.parametrize(
    ("host_free", "gpu_free", "shared", "enough"),
    [
        (10, None, False, True),
        (9, None, False, False),
        (10, 4, False, False),
        (10, 5, False, True),
        (14, 14, True, False),
        (15, 1, True, True),
    ],
)
def test_estimate(host_free: int, gpu_free: int | None, shared: bool, enough: bool) -> None:
    estimate = Estimate(10, 5, host_free, gpu_free, shared)
    assert estimate.enough == enough


def test_a_graph_that_tensorrt_refuses(
    bundle: Bundle, gpu: Gpu, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle.file("model.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineError, match=r"refuses .*model\.onnx: node 0 \(Nothing\): the file"):
        Build(bundle, BuildOptions()).run(lambda *_: True)


def test_stopped(bundle: Bundle, gpu: Gpu) -> None:
    """Ctrl-C: the step that is told so is the last one, and nothing is stored."""
    build = Build(bundle, BuildOptions())
    seen = []

    def progress(phase: str, done: int, steps: int) -> bool:
        seen.append((phase, done, steps))
        return done < 1

    with pytest.raises(EngineError, match="cannot compile"):
        build.run(progress)
    assert seen == [("Building", 0, 2), ("Building", 1, 2), ("Building", 0, 0)]
    assert engines(bundle) == []


def test_what_a_kill_leaves_is_removed(bundle: Bundle, gpu: Gpu) -> None:
    folder = bundle.path / FOLDER
    (folder / ".part-tensorrt-1").mkdir(parents=True)
    (folder / ".part-tensorrt-1" / PLAN).write_bytes(b"half")
    (folder / ".part-timing").write_bytes(b"half")
    Build(bundle, BuildOptions()).run(lambda *_: True)
    assert [name for name in engines(bundle) if name.startswith(".")] == []


def test_two_builds_at_once(bundle: Bundle, gpu: Gpu) -> None:
    with engine_cache.locked(bundle), pytest.raises(EngineFileError, match="another build"):
        Build(bundle, BuildOptions()).run(lambda *_: True)


def test_an_engine_whose_folder_is_a_file(bundle: Bundle, gpu: Gpu) -> None:
    (bundle.path / FOLDER).write_bytes(b"")
    with pytest.raises(EngineFileError, match=r"cannot write to .*engines: File exists"):
        Build(bundle, BuildOptions()).run(lambda *_: True)


# --- With the real compiler ----------------------------------------------------------------------


def real_build(bundle: Bundle, scripts: Path) -> subprocess.Popen[str]:
    """Start a real build for a GPU that is not there."""
    command = [scripts / "quant_llm", "build-engine", bundle.path, "--runtime", "tensorrt_rtx"]
    return subprocess.Popen(
        [*map(str, command), "--capability", "SM86", "--prompt-tokens", "16"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "400"},
    )


@needs_compiler
@pytest.mark.slow
def test_killed_while_it_compiles(bundle: Bundle, scripts: Path) -> None:
    """After kill -9 nothing but an empty folder is there, and the next build is as the first."""
    build = real_build(bundle, scripts)
    try:
        while not (bundle.path / FOLDER).is_dir() and build.poll() is None:
            time.sleep(0.01)
    finally:
        build.send_signal(signal.SIGKILL)
        build.communicate()
    assert build.returncode == -signal.SIGKILL
    assert [name for name in engines(bundle) if not name.startswith(".part-")] == []
    build = real_build(bundle, scripts)
    out, _ = build.communicate(timeout=250)
    assert build.returncode == 0, out
    assert "TensorRT for RTX" in out
    (name,) = [name for name in engines(bundle) if not name.startswith("timing-")]
    assert name.startswith("tensorrt_rtx-")
    assert "-sm86-" in name
    assert (bundle.path / FOLDER / name / PLAN).stat().st_size > 10_000
