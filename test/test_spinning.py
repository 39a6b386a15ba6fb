"""Callbacks beside the main thread: they end in order, many times, and survive a bad one."""

from __future__ import annotations

from collections.abc import Iterator
import subprocess
import sys
import threading
from typing import Any

from node_harness import wait_for
import pytest
import rclpy
from rclpy.executors import MultiThreadedExecutor, SingleThreadedExecutor
from std_msgs.msg import String

from quant_llm_ros.nodes.spinning import Spinner

pytestmark = pytest.mark.ros

LIMIT_S = 60.0

# Clients that come and go while somebody talks: a wrong order crashes the process now and then.
ROUNDS = """
import threading
from quant_llm_msgs.msg import Decision
from quant_llm_ros.nodes import qos
from quant_llm_ros.nodes.client import Client

over = threading.Event()
with Client() as talker:
    publisher = talker.node.create_publisher(Decision, "decision", qos.DECISION)

    def talk():
        while not over.wait(0.001):
            publisher.publish(Decision(text="go on"))

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        for number in range(25):
            with Client() as client:
                if number % 5 == 0:
                    assert client.receive(60.0) is not None
    finally:
        over.set()
        thread.join()
print("all rounds")
"""


def test_clients_come_and_go_in_order() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", ROUNDS],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert (done.returncode, done.stdout) == (0, "all rounds\n"), done.stderr


@pytest.fixture(params=[SingleThreadedExecutor, lambda **given: MultiThreadedExecutor(2, **given)])
def spun(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """A node whose callbacks are run, and what was told about them."""
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    told: dict[str, Any] = {"log": [], "lost": []}
    told["context"] = context
    told["spinner"] = Spinner(
        request.param(context=context), log=told["log"].append, on_lost=told["lost"].append
    )
    told["node"] = rclpy.create_node("spun", context=context)
    told["spinner"].add(told["node"])
    yield told
    told["spinner"].close()
    context.try_shutdown()


def test_a_bad_callback_does_not_end_the_others(spun: dict[str, Any]) -> None:
    heard: list[str] = []

    def hear(message: String) -> None:
        heard.append(message.data)
        if message.data == "bad":
            raise ZeroDivisionError("a mistake")

    node = spun["node"]
    node.create_subscription(String, "words", hear, 10)
    publisher = node.create_publisher(String, "words", 10)
    wait_for(publisher.get_subscription_count, LIMIT_S, "discovery")
    for text in ("good", "bad", "good"):
        publisher.publish(String(data=text))
    wait_for(lambda: heard == ["good", "bad", "good"], LIMIT_S, "all words")
    # A pool of threads tells it at the next occasion.
    wait_for(lambda: spun["log"] or publisher.publish(String(data="")), LIMIT_S, "the log")
    assert "ZeroDivisionError: a mistake" in spun["log"][0]
    assert not spun["lost"]


def test_ros_that_somebody_else_shuts_down_is_told_once(spun: dict[str, Any]) -> None:
    spun["context"].try_shutdown()
    wait_for(lambda: spun["lost"], LIMIT_S, "the loss")
    assert spun["spinner"].stop(LIMIT_S)
    (reason,) = spun["lost"]
    assert "ROS has been shut down" in reason


def test_a_callback_that_hangs_does_not_hold_up_the_end() -> None:
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    executor = SingleThreadedExecutor(context=context)
    spinner = Spinner(executor)
    go_on = threading.Event()
    entered = threading.Event()

    def hang() -> None:
        entered.set()
        go_on.wait(LIMIT_S)

    executor.create_task(hang)
    assert entered.wait(LIMIT_S)
    assert not spinner.stop(0.05)
    go_on.set()
    assert spinner.stop(LIMIT_S)
    spinner.close()
    context.try_shutdown()
