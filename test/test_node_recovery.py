"""A model that hangs, and a process that stood still: over real DDS with the real bundle."""

from __future__ import annotations

from collections.abc import Iterator
import os
from pathlib import Path
import signal
import time

from diagnostic_msgs.msg import DiagnosticStatus
from node_harness import ACTIVATE, CONFIGURE, Harness, LOAD_S, running, wait_for
import pytest

from quant_llm_msgs.msg import Decision, Heartbeat

pytestmark = [pytest.mark.ros, pytest.mark.bundle]

TEXTS = tuple(f"bring me the red cup number {n} from the kitchen table" for n in range(4))


@pytest.fixture(scope="module")
def flag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File that makes the engine hang while it exists."""
    return tmp_path_factory.mktemp("stall") / "stall"


@pytest.fixture(scope="module")
def harness(
    scripts: Path, tmp_path_factory: pytest.TempPathFactory, flag: Path
) -> Iterator[Harness]:
    env = {**os.environ, "QUANT_LLM_STALL": str(flag)}
    with running(scripts / "understanding_node", tmp_path_factory.mktemp("node"), env) as harness:
        yield harness


@pytest.fixture(autouse=True)
def _running_again(flag: Path) -> Iterator[None]:
    yield
    flag.unlink(missing_ok=True)


def test_a_stalled_engine_is_answered_reported_and_replaced(
    harness: Harness, bundle_path: Path, flag: Path
) -> None:
    process = harness.start(
        "/stall",
        f"bundle:={bundle_path}",
        "autostart:=true",
        "stall_timeout_s:=2.0",
        "deadline_s:=600.0",
        module="stalling_node",
    )
    probe = harness.probe("/stall")
    probe.wait_active()
    assert probe.ask("switch on the lamp").status == Decision.STATUS_ACCEPTED
    probe.decisions.clear()

    flag.touch()
    # Asked for at once, as every client does: the action is gone when the node starts anew.
    result = probe.send_goal(TEXTS[0]).get_result_async()
    for text in TEXTS[1:]:
        probe.send(text)
    decisions = probe.wait_decisions(len(TEXTS))
    assert [d.status for d in decisions] == [Decision.STATUS_ERROR] * len(TEXTS)
    assert {d.message for d in decisions} == {"the model stalled: no sign of life for 2 s"}
    wait_for(result.done, LOAD_S, "the goal's result")
    assert result.result().result.decision.status == Decision.STATUS_ERROR
    process.wait_log("recovering from the error: back to unconfigured", LOAD_S)
    # The fresh model hangs as well while it is loaded, which nothing can be done about.
    flag.unlink()
    wait_for(
        lambda: process.log.count("ready for commands") == 2, LOAD_S, "the node to be up again"
    )
    probe.wait_active()
    wait_for(lambda: probe.ask("stop").status == Decision.STATUS_STOP, LOAD_S, "an answer")
    assert probe.ask("switch on the lamp").status == Decision.STATUS_ACCEPTED
    assert sum(d.text in TEXTS for d in probe.decisions) == len(TEXTS)  # none answered twice

    def healthy() -> bool:
        engine = probe.status("Engine")
        values = {v.key: v.value for v in engine.values} if engine else {}
        return (values.get("stalls"), values.get("hanging threads")) == ("1", "0") and (
            engine.level == DiagnosticStatus.OK
        )

    wait_for(healthy, LOAD_S, "the thread that hung to have ended")
    process.end(signal.SIGINT)


def test_without_autostart_it_waits_for_a_person(
    harness: Harness, bundle_path: Path, flag: Path
) -> None:
    process = harness.start(
        "/person", f"bundle:={bundle_path}", "stall_timeout_s:=1.0", module="stalling_node"
    )
    probe = harness.probe("/person")
    assert probe.change_state(CONFIGURE)
    assert probe.change_state(ACTIVATE)
    probe.wait_active()
    wait_for(lambda: probe.heartbeats, LOAD_S, "a heartbeat")
    flag.touch()
    probe.send(TEXTS[0])
    assert probe.wait_decisions(1)[0].status == Decision.STATUS_ERROR
    wait_for(lambda: probe.state() == "unconfigured", LOAD_S, "the error to be processed")

    def reported() -> bool:
        lifecycle = probe.status("Lifecycle")
        return lifecycle is not None and lifecycle.level == DiagnosticStatus.ERROR

    wait_for(reported, LOAD_S, "the diagnostics")
    assert "the model stalled" in probe.status("Lifecycle").message
    assert probe.status("Engine").level == DiagnosticStatus.WARN  # one thread hangs
    probe.heartbeats.clear()
    # It ends in order all the same; a thread in the model does not keep the process.
    process.process.send_signal(signal.SIGINT)
    assert process.process.wait(10.0) == 0
    assert not probe.heartbeats
    flag.unlink()


def test_a_process_that_stood_still_has_not_stalled(harness: Harness, bundle_path: Path) -> None:
    process = harness.start(
        "/stopped",
        f"bundle:={bundle_path}",
        "autostart:=true",
        "stall_timeout_s:=4.0",
        "deadline_s:=600.0",
    )
    probe = harness.probe("/stopped")
    probe.wait_active()
    wait_for(lambda: probe.heartbeats, LOAD_S, "a heartbeat")
    assert probe.heartbeats[0].state == Heartbeat.STATE_IDLE
    for text in TEXTS:
        probe.send(text)
    wait_for(
        lambda: any(h.state == Heartbeat.STATE_BUSY for h in probe.heartbeats) or probe.decisions,
        LOAD_S,
        "the model to run",
    )
    process.process.send_signal(signal.SIGSTOP)
    time.sleep(6.0)
    process.process.send_signal(signal.SIGCONT)
    decisions = probe.wait_decisions(len(TEXTS))
    assert Decision.STATUS_ERROR not in {d.status for d in decisions}
    process.end(signal.SIGINT)
