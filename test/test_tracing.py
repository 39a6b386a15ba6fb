"""Tracepoints, as LTTng's agent sees them: records of a logger."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from quant_llm_ros.nodes import tracing


@pytest.fixture(autouse=True)
def _off() -> None:
    logging.getLogger("quant_llm_ros.trace").setLevel(logging.NOTSET)


def test_off_without_the_agent(caplog: pytest.LogCaptureFixture) -> None:
    assert not tracing.start("no_such_agent")
    tracing.point(1, "received")
    assert not caplog.records


def test_on_with_the_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The agent is a module that is imported, and listens to the logger."""
    (tmp_path / "agent_of_a_test.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert tracing.start("agent_of_a_test")
    tracing.point(7, "prefill")
    assert [r.getMessage() for r in caplog.records] == ["command=7 event=prefill"]
