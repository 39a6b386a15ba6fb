"""A node that is to serve with TensorRT, on a pretended GPU: it does, or says why it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import re

from fake_cuda import Gpu
from fake_tensorrt import installed
import pytest
import rclpy
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from target_graphs import INT4, WIDE
from tensorrt_faults import compiled, CPU, Fault, FAULTS
from tiny_models import build_tiny, CART_SKILLS, make_folder

from quant_llm_ros.engine.bundle import Bundle, MODEL
from quant_llm_ros.nodes.health import Health, Level
from quant_llm_ros.nodes.understanding import UnderstandingNode

pytestmark = pytest.mark.ros

SUCCESS = TransitionCallbackReturn.SUCCESS
FAILURE = TransitionCallbackReturn.FAILURE


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of a tiny model for TensorRT, without an engine."""
    folder = tmp_path_factory.mktemp("original")
    model = make_folder(folder / "model", max_position_embeddings=2048, **WIDE)
    return build_tiny(folder, model, target="tensorrt", quantize=INT4, context_length=2048)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """A computer with TensorRT and a GPU."""
    with installed(monkeypatch) as gpu:
        yield gpu


@pytest.fixture
def bundle(original: Bundle, gpu: Gpu, tmp_path: Path) -> Bundle:
    """The bundle with its engine."""
    return compiled(original, tmp_path)


@pytest.fixture
def node(bundle: Bundle, tmp_path: Path) -> Iterator[UnderstandingNode]:
    """A node that is to serve the bundle."""
    (tmp_path / "skills.yaml").write_text(CART_SKILLS)
    settings = {"bundle": str(bundle.path), "skills": str(tmp_path / "skills.yaml")}
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    node = UnderstandingNode(
        context=context,
        parameter_overrides=[Parameter(name, value=value) for name, value in settings.items()],
    )
    yield node
    node.destroy_node()
    context.try_shutdown()


def lifecycle(node: UnderstandingNode) -> Health:
    """What the node says of itself on ``/diagnostics``."""
    return next(one for one in node._health() if one.name == "Lifecycle")


def graph_changed(gpu: Gpu, bundle: Bundle) -> None:
    path = bundle.path / MODEL
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("fault", "message", "remedy"),
    [
        *((fault, message, CPU) for fault, _, message in FAULTS),
        (graph_changed, "model.onnx has sha256", "rebuild the bundle or restore the file"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_it_stays_unconfigured_and_says_why(
    node: UnderstandingNode, gpu: Gpu, bundle: Bundle, fault: Fault, message: str, remedy: str
) -> None:
    fault(gpu, bundle)
    assert node.trigger_configure() == FAILURE
    assert node.phase == "unconfigured"
    said = lifecycle(node)
    assert said.level == Level.ERROR
    assert said.message.startswith("cannot configure: ")
    assert re.search(message, said.message), said.message
    assert remedy in said.message
    assert gpu.held == 0


def test_it_serves_and_gives_the_gpu_back(node: UnderstandingNode, gpu: Gpu) -> None:
    assert node.trigger_configure() == SUCCESS
    assert gpu.held > 0
    assert node.trigger_activate() == SUCCESS
    assert node.trigger_deactivate() == SUCCESS
    assert node.trigger_cleanup() == SUCCESS
    assert gpu.held == 0
