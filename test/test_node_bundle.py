"""Another bundle while the node serves: over real DDS with the real bundle."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os
from pathlib import Path
import re
import shutil
import signal
import threading
import time

from node_harness import (
    ACTIVATE,
    CLEANUP,
    CONFIGURE,
    DEACTIVATE,
    Harness,
    LOAD_S,
    running,
    wait_for,
)
import pytest

from quant_llm_msgs.msg import Decision, KnownName, KnownNames

pytestmark = [pytest.mark.ros, pytest.mark.bundle]


@pytest.fixture(scope="module")
def harness(scripts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    folder = tmp_path_factory.mktemp("node")
    with running(scripts / "understanding_node", folder, dict(os.environ)) as harness:
        yield harness


@pytest.fixture(scope="module")
def other(bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default bundle under another name, with an accuracy of 50 %."""
    folder = tmp_path_factory.mktemp("other") / "bundle"
    shutil.copytree(bundle_path, folder, copy_function=os.link)
    text = (folder / "bundle.yaml").read_text()
    (folder / "bundle.yaml").unlink()  # the original behind a hard link stays as it is
    text = re.sub(r"(?m)^name: .*", "name: other", text)
    (folder / "bundle.yaml").write_text(re.sub(r"\baccuracy: .*", "accuracy: 0.5", text))
    return folder


def test_hot_swap_under_load_loses_no_command(
    harness: Harness, bundle_path: Path, other: Path
) -> None:
    process = harness.start(
        "/swap",
        f"bundle:={bundle_path}",
        "autostart:=true",
        "deadline_s:=600.0",
        "stall_timeout_s:=600.0",
    )
    probe = harness.probe("/swap")
    probe.wait_active()
    probe.known_names.publish(KnownNames(places=[KnownName(name="kitchen")]))
    wait_for(
        lambda: probe.ask("go to the garage").status == Decision.STATUS_CLARIFY,
        LOAD_S,
        "the names",
    )
    probe.ask("stop")
    before_mb = process.memory_mb()
    probe.decisions.clear()

    sent: list[str] = []
    done = threading.Event()

    def talk() -> None:
        while not done.is_set():
            sent.append(f"bring me the red cup number {len(sent)} from the kitchen")
            probe.send(sent[-1])
            wait_for(lambda: len(probe.decisions) > len(sent) - 4, LOAD_S, "the queue to empty")

    talker = threading.Thread(target=talk)
    talker.start()
    try:
        response = probe.load_bundle(str(other))
        asked = len(sent)
        wait_for(lambda: len(sent) > asked + 4, LOAD_S, "commands to the new bundle")
    finally:
        done.set()
        talker.join()
    assert (response.success, response.message) == (True, "")
    assert (response.info.name, response.info.path) == ("other", str(other))
    wait_for(lambda: probe.bundles[-1].name == "other", LOAD_S, "the topic bundle")
    decisions = probe.wait_decisions(len(sent))
    assert [d.text for d in decisions] == sent  # each once, in order
    assert not {d.status for d in decisions} & {Decision.STATUS_ERROR, Decision.STATUS_CANCELLED}
    assert [d.command_id for d in decisions] == list(
        range(decisions[0].command_id, decisions[0].command_id + len(sent))
    )
    assert probe.ask("go to the garage").status == Decision.STATUS_CLARIFY  # still knows the names
    # The old model is gone: two of them take over 200 MB more.
    wait_for(lambda: process.memory_mb() < before_mb + 120.0, LOAD_S, "the old model to be freed")

    # What fails leaves everything as it is, and says why.
    for path, reason in (
        ("/nowhere", "/nowhere does not exist"),
        (str(other / "bundle.yaml"), "bundle.yaml"),
    ):
        response = probe.load_bundle(path)
        assert not response.success
        assert reason in response.message
        assert response.info.name == "other"
    assert not probe.load_bundle("", "/nowhere/skills.yaml").success
    assert probe.ask("go to the kitchen").status == Decision.STATUS_ACCEPTED
    assert "Traceback" not in process.log

    # The parameters follow, so that the next configuration brings the same.
    assert probe.get_parameter("bundle") == str(other)
    assert probe.change_state(DEACTIVATE)
    assert probe.load_bundle(str(bundle_path)).success  # also while inactive
    assert probe.change_state(ACTIVATE)
    assert probe.get_parameter("bundle") == str(bundle_path)
    assert probe.change_state(DEACTIVATE)
    assert probe.change_state(CLEANUP)
    assert probe.set_parameter("min_accuracy", 0.8) == (True, "")
    assert probe.change_state(CONFIGURE)
    response = probe.load_bundle(str(other))  # the gate holds here too
    assert not response.success
    assert "got 50.0% of its own evaluation right" in response.message
    process.end(signal.SIGINT)


def test_signal_while_another_bundle_is_loaded(
    harness: Harness, bundle_path: Path, other: Path
) -> None:
    process = harness.start("/end", f"bundle:={bundle_path}", "autostart:=true")
    probe = harness.probe("/end")
    probe.wait_active()

    def call() -> None:
        with contextlib.suppress(AssertionError):  # nobody answers any more
            probe.load_bundle(str(other))

    threading.Thread(target=call, daemon=True).start()
    process.wait_log("beside the present one", LOAD_S)
    time.sleep(0.2)
    process.process.send_signal(signal.SIGINT)
    assert process.process.wait(10.0) == 0
    assert "Traceback" not in process.log
