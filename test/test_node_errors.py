"""What the node does when its own parts break; without a model, so that they break on demand."""

from __future__ import annotations

from collections.abc import Iterator
import threading
from typing import Any

import pytest
import rclpy
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter

from quant_llm_ros.command.understander import Understander
from quant_llm_ros.errors import EngineError
from quant_llm_ros.nodes.health import Health, Level
from quant_llm_ros.nodes.understanding import UnderstandingNode

pytestmark = pytest.mark.ros

SUCCESS = TransitionCallbackReturn.SUCCESS
FAILURE = TransitionCallbackReturn.FAILURE
ERROR = TransitionCallbackReturn.ERROR


@pytest.fixture
def node() -> Iterator[UnderstandingNode]:
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    node = UnderstandingNode(
        context=context, parameter_overrides=[Parameter("bundle", value="/somewhere")]
    )
    yield node
    node.destroy_node()
    context.try_shutdown()


def opening(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(Understander, "open", broken)


@pytest.mark.parametrize(
    ("error", "traceback"),
    [
        (EngineError("the runtime is too old"), False),  # meant for people
        (MemoryError("no memory left"), True),  # meant for developers
        (ZeroDivisionError("a mistake"), True),
    ],
)
def test_failed_configuration_is_logged_and_can_be_repeated(
    node: UnderstandingNode,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: Exception,
    traceback: bool,
) -> None:
    opening(monkeypatch, error)
    for _ in range(2):
        assert node.trigger_configure() == FAILURE
        printed = capfd.readouterr().err
        assert f"cannot configure: {'' if not traceback else type(error).__name__}" in printed
        assert str(error) in printed
        assert ("Traceback" in printed) is traceback
    assert node.set_parameters([Parameter("bundle", value="/elsewhere")])[0].successful


def test_error_in_a_transition_leads_back_to_unconfigured(
    node: UnderstandingNode, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(node, "load", lambda: None)
    assert node.trigger_configure() == SUCCESS
    with monkeypatch.context() as broken:
        broken.setattr(node, "free", lambda: 1 / 0)
        assert node.trigger_cleanup() == ERROR  # finalized: even the recovery fails
    assert "recovering" in capfd.readouterr().err


def test_recovery_after_a_model_that_does_not_stop(
    node: UnderstandingNode, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def stuck() -> None:
        raise EngineError("the model did not stop")

    monkeypatch.setattr(node, "load", lambda: None)
    monkeypatch.setattr(node, "open", lambda: None)
    assert node.trigger_configure() == SUCCESS
    assert node.trigger_activate() == SUCCESS
    with monkeypatch.context() as broken:
        broken.setattr(node, "close", stuck)
        assert node.trigger_deactivate() == ERROR
    assert "the model did not stop" in capfd.readouterr().err
    # Unconfigured, from where everything is possible again.
    assert node.trigger_configure() == SUCCESS
    assert node.trigger_activate() == SUCCESS


def test_end_is_possible_from_every_state(
    node: UnderstandingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "load", lambda: None)
    monkeypatch.setattr(node, "open", lambda: None)
    node.trigger_configure()
    node.trigger_activate()
    assert node.end(1.0)
    assert node.end(1.0)


def test_loading_parameters_follow_what_the_node_serves(
    node: UnderstandingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "load", lambda: None)
    assert node.trigger_configure() == SUCCESS
    assert not node.set_parameters([Parameter("bundle", value="/other")])[0].successful
    node._table.adopt(bundle="/other", skills="/skills.yaml")
    assert node.get_parameter("bundle").value == "/other"
    assert (node._table.settings.bundle, node._table.settings.skills) == (
        "/other",
        "/skills.yaml",
    )
    assert not node.set_parameters([Parameter("bundle", value="/third")])[0].successful


def test_failure_is_in_the_diagnostics(
    node: UnderstandingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lifecycle() -> Health:
        return next(h for h in node._health() if h.name == "Lifecycle")

    assert lifecycle().level == Level.WARN  # nobody has asked for anything yet
    opening(monkeypatch, EngineError("the runtime is too old"))
    assert node.trigger_configure() == FAILURE
    assert lifecycle().level == Level.ERROR
    assert lifecycle().message == "cannot configure: the runtime is too old"
    monkeypatch.setattr(node, "load", lambda: None)
    assert node.trigger_configure() == SUCCESS
    assert lifecycle().message == "inactive: takes no commands"


def test_with_too_many_hanging_threads_it_asks_for_a_new_process(
    node: UnderstandingNode, capfd: pytest.CaptureFixture[str]
) -> None:
    go_on = threading.Event()
    node._hung = [threading.Thread(target=go_on.wait, args=(60,), daemon=True) for _ in range(3)]
    for thread in node._hung:
        thread.start()
    assert node.trigger_configure() == FAILURE
    assert "threads hang in the model and hold its memory, 3 of them" in capfd.readouterr().err
    assert not node.end(1.0)  # the process may not wait for them
    go_on.set()
    for thread in node._hung:
        thread.join()
    assert node._health()[1].values["hanging threads"] == "0"
