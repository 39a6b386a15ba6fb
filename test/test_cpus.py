"""CPU cores that a model keeps to: how they are said, and the threads that really keep to them."""

from __future__ import annotations

from collections.abc import Iterator
import os
from pathlib import Path
import subprocess
import sys
import threading

import pytest
from task_cores import cores_of_tasks
from tiny_models import build_tiny, make_folder

from quant_llm_ros.cli import main
from quant_llm_ros.engine import cpus
from quant_llm_ros.engine.onnxruntime_engine import OnnxRuntimeEngine
from quant_llm_ros.errors import EngineError

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system cannot keep threads to cores"
)
NOWHERE = 1023


@pytest.fixture
def last() -> Iterator[int]:
    """One core of this computer; this thread has its own again afterwards."""
    before = os.sched_getaffinity(0)
    yield max(cpus.allowed_cpus())
    os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ()),
        (" ", ()),
        ("0", (0,)),
        ("3,1", (1, 3)),
        ("4-7", (4, 5, 6, 7)),
        (" 0 , 2-3,2", (0, 2, 3)),
        ("1023", (1023,)),
        *((text, None) for text in ("a", "-1", "1,", "3-1", "1.5", "1024", "1;2", "0x1", "٣")),
    ],
)
def test_lists_of_cores(text: str, found: tuple[int, ...] | None) -> None:
    if found is not None:
        assert cpus.parse_cpus(text) == found
        return
    with pytest.raises(EngineError, match="is not a list of CPU cores; write their numbers"):
        cpus.parse_cpus(text)


def test_what_cannot_be_chosen_is_said(last: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cpus.check_cpus((), 64)
    cpus.check_cpus((last,), 1)
    cpus.check_cpus(sorted(cpus.allowed_cpus()), 1)
    with pytest.raises(EngineError, match=rf"cpus names core {NOWHERE}, but this process may use"):
        cpus.check_cpus((last, NOWHERE), 2)
    with pytest.raises(EngineError, match=r"1 of the cores for 2 threads.*set threads to 1"):
        cpus.check_cpus((last,), 2)
    # The cores of a thread that was kept to one are still those of the process.
    allowed = cpus.allowed_cpus()
    cpus.keep_to((last,))
    assert cpus.allowed_cpus() == allowed
    assert os.sched_getaffinity(0) == {last}
    with pytest.raises(EngineError, match=f"cannot keep to the CPU cores core {NOWHERE}"):
        cpus.keep_to((NOWHERE,))
    monkeypatch.delattr(os, "sched_setaffinity")
    with pytest.raises(EngineError, match="leave cpus empty"):
        cpus.check_cpus((last,), 1)


def test_a_model_that_is_loaded_so_keeps_its_threads_there(last: int, tmp_path: Path) -> None:
    """Those of ONNX Runtime's pool for ever, the calling one for a while, others never."""
    bundle = build_tiny(tmp_path, make_folder(tmp_path / "model"))
    ended = threading.Event()
    other = threading.Thread(target=ended.wait)
    other.start()
    before = cores_of_tasks(os.getpid())
    with cpus.kept_to((last,)):
        engine = OnnxRuntimeEngine.load(bundle, threads=3)
    after = cores_of_tasks(os.getpid())
    assert before.items() <= after.items()
    made = {after[task] for task in after if task not in before}
    assert made == {str(last)}
    assert sum(task not in before for task in after) == 2  # the third is the one that calls
    engine.close()
    ended.set()
    other.join()


@pytest.mark.bundle
def test_the_program_keeps_all_its_threads_there(last: int, bundle_path: Path) -> None:
    arguments = ["understand", f"--bundle={bundle_path}", "--threads=1", f"--cpus={last}"]
    with subprocess.Popen(
        [sys.executable, "-m", "quant_llm_ros.cli", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("go to the kitchen\n")
        process.stdin.flush()
        assert "go_to(place=kitchen)" in process.stdout.readline()
        assert set(cores_of_tasks(process.pid).values()) == {str(last)}
        process.stdin.close()


@pytest.mark.parametrize(
    ("chosen", "status", "says"),
    [
        ("one", 2, "'one' is not a list of CPU cores"),
        (f"{NOWHERE}", 1, f"cpus names core {NOWHERE}, but this process may use core"),
        ("0", 1, "set threads to 1, or name more cores"),
    ],
)
def test_wrong_options(
    chosen: str, status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if chosen == "0" and 0 not in cpus.allowed_cpus():
        says = "cpus names core 0"
    try:
        got = main(["understand", "--bundle=nowhere", f"--cpus={chosen}"])
    except SystemExit as error:
        got = int(str(error.code))
    assert got == status
    assert says in capsys.readouterr().err


def test_no_choice_changes_nothing() -> None:
    before = os.sched_getaffinity(0)
    cpus.keep_to(())
    cpus.keep_process_to(())
    with cpus.kept_to(()):
        assert os.sched_getaffinity(0) == before
    assert os.sched_getaffinity(0) == before
