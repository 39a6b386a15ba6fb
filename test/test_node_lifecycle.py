"""How the node comes up, goes down and fails, as a process, with the real bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import os
from pathlib import Path
import re
import shutil
import signal
import subprocess
import time

from node_harness import (
    ABORTED,
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

from quant_llm_msgs.msg import Decision

pytestmark = [pytest.mark.ros, pytest.mark.bundle]

BUSY = tuple(f"bring me the red cup number {n} from the kitchen table" for n in range(8))


@pytest.fixture(scope="module")
def harness(scripts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    folder = tmp_path_factory.mktemp("node")
    with running(scripts / "understanding_node", folder, dict(os.environ)) as harness:
        yield harness


def test_up_down_and_up_again(harness: Harness, bundle_path: Path) -> None:
    process = harness.start("/cycle")
    probe = harness.probe("/cycle")
    assert probe.state() == "unconfigured"
    assert probe.set_parameter("bundle", str(bundle_path)) == (True, "")

    assert probe.change_state(CONFIGURE)
    assert probe.state() == "inactive"
    wait_for(lambda: probe.bundles, 10.0, "the bundle")
    wait_for(probe.action.server_is_ready, 10.0, "the action")
    assert probe.send_goal("stop") is None  # refused: not active
    assert probe.command.get_subscription_count() == 0

    assert probe.change_state(ACTIVATE)
    probe.wait_active()
    loaded_mb = process.memory_mb()
    assert probe.ask("switch on the lamp").command_id == 1

    handles = [probe.send_goal(text) for text in BUSY]
    assert probe.change_state(DEACTIVATE)
    assert probe.state() == "inactive"
    results = [probe.result(handle) for handle in handles]
    statuses = [decision.status for _, decision in results]
    assert statuses[-4:] == [Decision.STATUS_CANCELLED] * 4
    assert [goal_status for goal_status, _ in results[-4:]] == [ABORTED] * 4
    assert len(probe.wait_decisions(1 + len(BUSY))) == 1 + len(BUSY)

    assert probe.change_state(CLEANUP)
    assert probe.state() == "unconfigured"
    assert process.memory_mb() < loaded_mb - 100  # the weights alone are 88 MB
    assert probe.set_parameter("threads", 1) == (True, "")

    assert probe.change_state(CONFIGURE)
    assert probe.change_state(ACTIVATE)
    probe.wait_active()
    probe.wait_publishers("decision")
    probe.decisions.clear()
    assert probe.ask("switch on the lamp").command_id == 1
    process.end(signal.SIGINT)


def no_folder(bundle: Path, folder: Path) -> dict[str, str]:
    return {"bundle": str(folder / "nothing")}


def no_bundle(bundle: Path, folder: Path) -> dict[str, str]:
    return {"bundle": ""}


def flipped_byte(bundle: Path, folder: Path) -> dict[str, str]:
    copy = linked_copy(bundle, folder)
    data = bytearray((bundle / "model.onnx.data").read_bytes())
    data[len(data) // 2] ^= 1
    replace(copy / "model.onnx.data", bytes(data))
    return {"bundle": str(copy)}


def shortened_file(bundle: Path, folder: Path) -> dict[str, str]:
    copy = linked_copy(bundle, folder)
    replace(copy / "tokenizer.json", (bundle / "tokenizer.json").read_bytes()[:-1])
    return {"bundle": str(copy)}


def missing_file(bundle: Path, folder: Path) -> dict[str, str]:
    copy = linked_copy(bundle, folder)
    (copy / "reference.npz").unlink()
    return {"bundle": str(copy)}


def broken_description(bundle: Path, folder: Path) -> dict[str, str]:
    copy = linked_copy(bundle, folder)
    replace(copy / "bundle.yaml", b"{]")
    return {"bundle": str(copy)}


def newer_format(bundle: Path, folder: Path) -> dict[str, str]:
    copy = linked_copy(bundle, folder)
    text = (bundle / "bundle.yaml").read_text()
    replace(
        copy / "bundle.yaml", re.sub("format_version: .*", "format_version: 99", text).encode()
    )
    return {"bundle": str(copy)}


def file_for_a_folder(bundle: Path, folder: Path) -> dict[str, str]:
    return {"bundle": str(bundle / "bundle.yaml")}


def no_skills_file(bundle: Path, folder: Path) -> dict[str, str]:
    return {"bundle": str(bundle), "skills": str(folder / "skills.yaml")}


def unknown_argument_type(bundle: Path, folder: Path) -> dict[str, str]:
    text = (bundle / "skills.yaml").read_text()
    assert "type: quantity" in text
    replace(folder / "skills.yaml", text.replace("type: quantity", "type: quandity", 1).encode())
    return {"bundle": str(bundle), "skills": str(folder / "skills.yaml")}


def linked_copy(bundle: Path, folder: Path) -> Path:
    return Path(shutil.copytree(bundle, folder / "bundle", copy_function=os.link))


def replace(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)  # the original behind a hard link stays as it is
    path.write_bytes(data)


WRONG: list[tuple[Callable[[Path, Path], dict[str, str]], str]] = [
    (no_bundle, "'bundle' is empty"),
    (no_folder, "does not exist"),
    (flipped_byte, "model.onnx.data has sha256"),
    (shortened_file, "tokenizer.json"),
    (missing_file, "reference.npz"),
    (broken_description, "bundle.yaml is not valid YAML"),
    (newer_format, "format"),
    (file_for_a_folder, "bundle.yaml"),
    (no_skills_file, "skills.yaml"),
    (unknown_argument_type, "quandity"),
]


def test_wrong_files_keep_it_unconfigured_until_corrected(
    harness: Harness, bundle_path: Path, tmp_path: Path
) -> None:
    process = harness.start("/wrong")
    probe = harness.probe("/wrong")
    for number, (make, reason) in enumerate(WRONG):
        folder = tmp_path / str(number)
        folder.mkdir()
        logged = len(process.log)
        for name, value in make(bundle_path, folder).items():
            assert probe.set_parameter(name, value) == (True, "")
        assert not probe.change_state(CONFIGURE), make.__name__
        assert probe.state() == "unconfigured"
        message = process.log[logged:]
        assert "cannot configure" in message
        assert reason in message, make.__name__
        assert "Traceback" not in message
    probe.set_parameter("skills", "")
    probe.set_parameter("bundle", str(bundle_path))
    assert probe.change_state(CONFIGURE), process.log
    assert probe.change_state(ACTIVATE)
    probe.wait_active()
    assert probe.ask("stop").status == Decision.STATUS_STOP


def test_a_bundle_below_the_accuracy_is_not_served(
    harness: Harness, bundle_path: Path, tmp_path: Path
) -> None:
    bundle = linked_copy(bundle_path, tmp_path)
    text = (bundle / "bundle.yaml").read_text()
    process = harness.start("/gate")
    probe = harness.probe("/gate")
    cases = (
        (
            re.sub(r"\baccuracy: .*", "accuracy: 0.5", text),
            "got 50.0% of its own evaluation right",
        ),
        (re.sub(r" *\baccuracy: [0-9.]+\n", "", text), "was never evaluated"),
    )
    for name, value in (("bundle", str(bundle)), ("min_accuracy", 0.8)):
        assert probe.set_parameter(name, value) == (True, "")
    for description, reason in cases:
        replace(bundle / "bundle.yaml", description.encode())
        assert not probe.change_state(CONFIGURE)
        assert reason in process.log
    assert probe.set_parameter("min_accuracy", 0.0) == (True, "")
    assert probe.change_state(CONFIGURE), process.log


def test_failed_autostart_says_what_to_do(harness: Harness, bundle_path: Path) -> None:
    process = harness.start(
        "/auto", "autostart:=true", "deadline_s:=-1.0", "queue_capacity:=7", "deadlin_s:=1.0"
    )
    process.wait_log("autostart failed", LOAD_S)
    assert "parameter 'deadline_s' is -1.0; expected a double from 0.01 to 600" in process.log
    assert "did you mean 'deadline_s'?" in process.log
    assert "ros2 lifecycle set /auto/understanding configure" in process.log
    probe = harness.probe("/auto")
    assert probe.state() == "unconfigured"
    assert probe.set_parameter("bundle", str(bundle_path)) == (True, "")
    assert not probe.change_state(CONFIGURE)  # the deadline is still wrong
    assert probe.set_parameter("deadline_s", 3.0) == (True, "")
    assert probe.change_state(CONFIGURE)
    assert probe.change_state(ACTIVATE)
    probe.wait_active()
    assert probe.get_parameter("queue_capacity") == 7
    assert probe.ask("switch on the lamp").status == Decision.STATUS_ACCEPTED


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_while_unconfigured(harness: Harness, number: signal.Signals) -> None:
    namespace = f"/{number.name.lower()}_idle"
    process = harness.start(namespace)
    assert harness.probe(namespace).state() == "unconfigured"
    process.end(number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_while_loading(harness: Harness, bundle_path: Path, number: signal.Signals) -> None:
    process = harness.start(
        f"/{number.name.lower()}_load", f"bundle:={bundle_path}", "autostart:=true"
    )
    process.wait_log("loading the bundle", LOAD_S)
    time.sleep(0.3)
    process.end(number)
    assert "ready for commands" not in process.log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_while_the_model_runs(
    harness: Harness, bundle_path: Path, number: signal.Signals
) -> None:
    namespace = f"/{number.name.lower()}_busy"
    process = harness.start(namespace, f"bundle:={bundle_path}", "autostart:=true")
    probe = harness.probe(namespace)
    probe.wait_active()
    for text in BUSY:
        probe.send(text)
    probe.wait_decisions(1)
    process.end(number)
    # Nobody is left without an answer.
    decisions = probe.wait_decisions(len(BUSY))
    assert decisions[-1].status == Decision.STATUS_CANCELLED


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--nonsense"], "unknown argument: --nonsense"),
        (["--ros-args", "-p", "nonsense"], "understanding_node: "),
        (["--ros-args", "--params-file", "/nowhere.yaml"], "/nowhere.yaml"),
    ],
)
def test_wrong_arguments_end_it_with_status_2(
    scripts: Path, arguments: list[str], says: str
) -> None:
    result = subprocess.run(
        [scripts / "understanding_node", *arguments], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 2
    assert says in result.stderr
    assert "Traceback" not in result.stderr
