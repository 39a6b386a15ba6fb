"""Our kernels as TensorRT plugins: the graph with them, the calls, ``build-engine --plugins``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import hashlib
from pathlib import Path
import re
import shutil
import sys

from fake_cuda import Gpu
from fake_tensorrt import installed
import fake_tensorrt_plugin
from fake_tensorrt_types import DataType
import numpy as np
import onnx_ir as ir
import pytest
from target_graphs import INT4, INT8, WIDE
from tiny_models import build_tiny, make_folder
import yaml

from quant_llm_ros.cli import main
from quant_llm_ros.engine.bundle import Bundle, MODEL, MODEL_DATA
from quant_llm_ros.engine.engine_cache import FOLDER
from quant_llm_ros.engine.onnxruntime_engine import OnnxRuntimeEngine
from quant_llm_ros.engine.selftest import self_test
from quant_llm_ros.engine.tensorrt_api import TensorRt
from quant_llm_ros.engine.tensorrt_engine import TensorRtEngine
from quant_llm_ros.engine.tensorrt_plugins import (
    DEFINITIONS,
    FORMAT_VERSION,
    plugin_module,
    Plugins,
    RECORD,
)
from quant_llm_ros.errors import EngineError
from quant_llm_ros.quantize.graph_plugins import packed_words, with_plugins
from quant_llm_ros.quantize.graph_run import HALF_LIMIT

CONSTANTS = {"BLOCK_N": 4, "BLOCK_K": 512, "GROUP": 64, "ROWS_PER_BOOK": 16, "BLOCK": 1024}
PRODUCTS = 2 * 7 + 1  # of two layers and the head


def make_kernels(folder: Path, chips: Sequence[int] = (87,)) -> Path:
    """Make what ``kernels/compile.py`` does, with kernels that do nothing."""
    folder.mkdir(parents=True)
    records = []
    for name, definition in DEFINITIONS.items():
        for chip in chips:
            kinds = ["u64" if pointer else "u32" for pointer in definition.pointers]
            entry = ",\n".join(f"\t.param .{kind} p{i}" for i, kind in enumerate(kinds))
            ptx = (
                f".target sm_{chip}\n.visible .entry {name}(\n{entry}\n)\n.reqntid 128\n{{ret;}}\n"
            )
            (folder / f"{name}.{chip}").write_text(ptx)
            records.append(
                {
                    "name": name,
                    "sm": chip,
                    "file": f"{name}.{chip}",
                    "sha256": hashlib.sha256(ptx.encode()).hexdigest(),
                    "pointers": list(definition.pointers),
                    "threads": 128,
                    "shared_bytes": 64,
                    "constants": CONSTANTS,
                }
            )
    write_record(folder, {"format_version": FORMAT_VERSION, "kernels": records})
    return folder


def write_record(folder: Path, fields: object) -> None:
    (folder / RECORD).write_text(yaml.safe_dump(fields))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """One tiny model for several targets, and one without a product for the plugin."""
    folder = tmp_path_factory.mktemp("bundles")
    model = make_folder(folder / "model", **WIDE)
    made = {
        target: build_tiny(folder, model, target, target=target, quantize=INT4, context_length=64)
        for target in ("ort", "tensorrt", "tensorrt-jp6")
    }
    made["int8"] = build_tiny(
        folder, model, "int8", target="tensorrt", quantize=INT8, context_length=64
    )
    return made


@pytest.fixture
def bundle(bundles: dict[str, Bundle], tmp_path: Path) -> Bundle:
    return Bundle.load(shutil.copytree(bundles["tensorrt"].path, tmp_path / "bundle"))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    monkeypatch.setenv("COLUMNS", "400")
    with installed(monkeypatch) as gpu:
        yield gpu


@pytest.fixture
def kernels(tmp_path: Path) -> Path:
    return make_kernels(tmp_path / "kernels")


# --- The graph -----------------------------------------------------------------------------------


def test_words_are_the_codes_in_the_order_of_the_kernel() -> None:
    codes = np.random.default_rng(1).integers(-8, 8, (64, 5)).astype(np.int8)
    words = packed_words(codes)
    assert (words.shape, words.dtype) == ((5, 8), np.int32)
    bytes_ = words.view(np.uint8).reshape(5, 32)
    low, high = (bytes_ & 15), (bytes_ >> 4)
    read = np.stack([low, high], axis=2).reshape(5, 64).astype(np.int8)
    assert (codes == ((read ^ 8) - 8).T).all()


def test_every_product_is_a_plugin(bundle: Bundle, tmp_path: Path) -> None:
    """And the copy stands alone, with nothing that it does not need; the bundle is unchanged."""
    folder = tmp_path / "graph"
    folder.mkdir()
    rewritten = with_plugins(bundle.file(MODEL), folder, "quant_llm_x")
    assert str(rewritten) == f"{PRODUCTS} products are plugins"
    Bundle.load(bundle.path)
    graph = ir.load(rewritten.path).graph
    kinds = [node.op_type for node in graph]
    assert kinds.count("gemv_w4a16") == PRODUCTS
    assert {"DequantizeLinear", "MatMul"}.isdisjoint(kinds)
    types = {value.dtype for value in graph.initializers.values()}
    assert types == {ir.DataType.INT32, ir.DataType.FLOAT16, ir.DataType.INT64}
    before, after = ((path / MODEL_DATA).stat().st_size for path in (bundle.path, folder))
    assert abs(after - before) < 64 * len(graph.initializers)  # the same weights, as many bytes
    assert graph.inputs[0].name == "input_ids"
    assert graph.outputs[0].name == "logits"


def test_what_is_left_is_named(bundle: Bundle, tmp_path: Path) -> None:
    """One weight of each kind that the kernel cannot take."""
    model = ir.load(bundle.file(MODEL))
    nodes = [node for node in model.graph if node.op_type == "DequantizeLinear"]
    nodes[0].attributes["block_size"] = ir.AttrInt64("block_size", 32)
    nodes[1].attributes["axis"] = ir.AttrInt64("axis", 1)
    product, _ = nodes[2].outputs[0].uses()[0]
    product.replace_input_with(0, nodes[2].outputs[0])
    zeros = ir.Value(name="zeros", const_value=nodes[3].inputs[0].const_value)
    model.graph.initializers.add(zeros)
    nodes[3].resize_inputs(3)
    nodes[3].replace_input_with(2, zeros)
    source = tmp_path / "changed"
    source.mkdir()
    shutil.copy(bundle.path / MODEL_DATA, source)
    ir.save(model, source / MODEL)
    (tmp_path / "graph").mkdir()
    rewritten = with_plugins(source / MODEL, tmp_path / "graph", "quant_llm_x")
    assert rewritten.products == PRODUCTS - 4
    assert rewritten.left == {
        "in blocks of 32": 1,
        "of another layout": 1,
        "read by something other than a product": 1,
        "with zero points": 1,
    }
    assert "; left: 1 in blocks of 32; left: 1 of another" in str(rewritten)


# --- The definitions -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shapes", "outputs", "grid", "scalars"),
    [
        ("gemv_w4a16", [(1, 7, 64), (130, 8), (130, 1)], [(1, 7, 130)], (33, 7), [130, 64]),
        ("gemv_w4a16", [(64,), (4, 8), (4, 1)], [(4,)], (1, 1), [4, 64]),
        ("gemv_codebook", [(3, 128), (35, 16), (3, 16)], [(3, 35)], (9, 3), [35, 128]),
        ("masked_argmax_parts", [(49152,), (1536,)], [(48,), (48,)], (48, 1), [49152]),
        ("masked_argmax_best", [(48,), (48,)], [(1,), (1,)], (1, 1), [48]),
    ],
)
def test_launches(
    gpu: Gpu,
    kernels: Path,
    name: str,
    shapes: list[tuple[int, ...]],
    outputs: list[tuple[int, ...]],
    grid: tuple[int, int],
    scalars: list[int],
) -> None:
    trt = TensorRt.load()
    trt.load_plugins(kernels, 87)
    plugins = trt.load_plugins(kernels, 87)  # a second build in the same process
    types = {"FP16": DataType.HALF, "FP32": DataType.FLOAT, "INT32": DataType.INT32}
    plugin = getattr(getattr(fake_tensorrt_plugin.op, plugins.namespace), name)
    inputs = [
        fake_tensorrt_plugin.TensorDesc(shape, types[kind])
        for shape, kind in zip(shapes, DEFINITIONS[name].inputs.values(), strict=True)
    ]
    made, launch, values = fake_tensorrt_plugin.launched(plugin, inputs)
    assert [tuple(one.shape_expr) for one in made] == outputs
    assert ((launch.grid_x, launch.grid_y), values) == (grid, scalars)
    assert (launch.block_x, launch.shared_mem) == (128, 64)


def test_every_set_of_kernels_has_a_name_of_its_own(tmp_path: Path) -> None:
    """So that an engine or a graph of one never passes for that of another."""
    both = make_kernels(tmp_path / "a", (87, 110))
    other = make_kernels(tmp_path / "b")
    record = yaml.safe_load((other / RECORD).read_text())
    record["kernels"][0]["shared_bytes"] = 128
    write_record(other, record)
    loaded = [Plugins.load(both, 87), Plugins.load(both, 110), Plugins.load(other, 87)]
    assert len({one.namespace for one in loaded}) == 3
    assert Plugins.load(make_kernels(tmp_path / "c"), 87).digest == loaded[0].digest


# --- The option ----------------------------------------------------------------------------------


def test_an_engine_with_plugins(
    bundle: Bundle,
    bundles: dict[str, Bundle],
    gpu: Gpu,
    kernels: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It computes what the CPU does, proves itself, and is told apart from one without."""

    def build(*options: str) -> str:
        assert main(["build-engine", str(bundle.path), *options]) == 0
        return capsys.readouterr().out

    def engines() -> list[str]:
        return sorted(path.name for path in (bundle.path / FOLDER).iterdir() if path.is_dir())

    digest = Plugins.load(kernels, 87).digest[:12]
    assert "with plugins" not in build()
    (plain,) = engines()
    out = build("--plugins", str(kernels))
    assert f"TensorRT 10.16.1.11 with plugins {digest} for Orin (SM87)" in out
    assert f"{PRODUCTS} products are plugins" in out
    assert engines() == [f"{plain}-plugins-{digest}"]  # nothing else is left, and one is served
    assert "nothing to do" in build("--plugins", str(kernels))
    Bundle.load(bundle.path)

    cpu = OnnxRuntimeEngine.load(bundles["ort"], threads=1, exact=True)
    engine = TensorRtEngine.open(bundle)
    assert engine.info.runtime == f"TensorRT 10.16.1.11 with plugins {digest}"
    assert self_test(engine, bundle).passed
    for tokens in ([5, 6, 7, 8, 9], [3], list(range(12))):
        computed, expected = (one.append(tokens)[-1] for one in (engine, cpu))
        assert np.abs(computed - expected).max() < HALF_LIMIT * np.abs(expected).max()
    engine.close()
    assert gpu.held == 0

    assert "engine:" in build()  # without again
    assert engines() == [plain]
    engine = TensorRtEngine.open(bundle)
    assert engine.info.runtime == "TensorRT 10.16.1.11"
    engine.close()


def missing(gpu: Gpu, kernels: Path) -> None:
    shutil.rmtree(kernels)


def no_record(gpu: Gpu, kernels: Path) -> None:
    (kernels / RECORD).write_text("kernels: [")


def newer_record(gpu: Gpu, kernels: Path) -> None:
    write_record(kernels, {"format_version": 99, "kernels": []})


def ptx_missing(gpu: Gpu, kernels: Path) -> None:
    (kernels / "gemv_w4a16.87").unlink()


def ptx_changed(gpu: Gpu, kernels: Path) -> None:
    (kernels / "gemv_w4a16.87").write_text("ret;")


def other_parameters(gpu: Gpu, kernels: Path) -> None:
    record = yaml.safe_load((kernels / RECORD).read_text())
    record["kernels"][0]["pointers"].append(True)
    write_record(kernels, record)


def kernel_missing(gpu: Gpu, kernels: Path) -> None:
    record = yaml.safe_load((kernels / RECORD).read_text())
    del record["kernels"][1]
    write_record(kernels, record)


def another_gpu(gpu: Gpu, kernels: Path) -> None:
    gpu.sm = 110


def no_plugin_module(gpu: Gpu, kernels: Path) -> None:
    sys.modules["tensorrt.plugin"] = None  # type: ignore[assignment]


def unknown_to_the_parser(gpu: Gpu, kernels: Path) -> None:
    """As where TensorRT's parser looks in another registry."""
    name = TensorRt.load().load_plugins(kernels, 87).namespace
    delattr(getattr(fake_tensorrt_plugin.op, name), "gemv_w4a16")


COMPILE = r"run python kernels/compile\.py --output FOLDER"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (missing, f"plugins.yaml does not exist; {COMPILE}"),
        (no_record, f"plugins.yaml cannot be used .*{COMPILE}"),
        (newer_record, f"cannot be used .format_version 99.*{COMPILE}"),
        (ptx_missing, f"gemv_w4a16.87 does not exist; {COMPILE}"),
        (ptx_changed, f"gemv_w4a16.87 is not the file that was written.*{COMPILE}"),
        (other_parameters, f"gemv_w4a16 takes other parameters.*{COMPILE}"),
        (kernel_missing, f"cannot be used .'gemv_codebook'.*{COMPILE}"),
        (another_gpu, r"has kernels for SM87, none for SM110; .*compile\.py --sm 110"),
        (no_plugin_module, "tensorrt 10.16.1.11 has no plugins of compiled kernels.*leave"),
        (unknown_to_the_parser, r"refuses .*gemv_w4a16\): Plugin not found"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_can_be_wrong(
    bundle: Bundle,
    gpu: Gpu,
    kernels: Path,
    capsys: pytest.CaptureFixture[str],
    fault: Callable[[Gpu, Path], None],
    message: str,
) -> None:
    fault(gpu, kernels)
    assert main(["build-engine", str(bundle.path), "--plugins", str(kernels)]) == 1
    said = capsys.readouterr().err.replace("\n", " ")
    assert re.search(message, said), said
    assert not list((bundle.path / FOLDER).glob("*"))
    assert gpu.held == 0


@pytest.mark.parametrize(
    ("name", "version"), [("tensorrt", "10.8.0.43"), ("tensorrt_rtx", "1.7.1.116")]
)
def test_versions_without_such_plugins(gpu: Gpu, name: str, version: str) -> None:
    with pytest.raises(EngineError, match=rf"{name} {version} has no plugins .*10\.9 or newer"):
        plugin_module(name, version)


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ("tensorrt-jp6", "is built for tensorrt-jp6, whose TensorRT has no plugins"),
        ("int8", "has no product that the plugin computes .*15 not INT4"),
    ],
)
def test_bundles_that_it_is_not_for(
    bundles: dict[str, Bundle],
    gpu: Gpu,
    kernels: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    which: str,
    message: str,
) -> None:
    copy = shutil.copytree(bundles[which].path, tmp_path / "copy")
    assert main(["build-engine", str(copy), "--plugins", str(kernels)]) == 1
    said = capsys.readouterr().err.replace("\n", " ")
    assert re.search(message, said), said
    assert not list((copy / FOLDER).glob("*"))
    assert gpu.held == 0
