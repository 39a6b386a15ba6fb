"""The benchmark: its figures, and that drafts leave the default bundle's answers as they are."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
import subprocess
import sys

import numpy as np
from numpy.typing import NDArray
import pytest
from rich.console import Console
from tiny_models import build_tiny, CART_SKILLS, make_folder

from quant_llm_ros.benchmark import llama_cpp
from quant_llm_ros.benchmark.machine import peak_memory_mb, read_bandwidth
from quant_llm_ros.benchmark.ours import MODES, Ours, PLAIN, SERVED
from quant_llm_ros.benchmark.picture import draw
from quant_llm_ros.benchmark.profile import BETWEEN, profile
from quant_llm_ros.benchmark.report import document, tables
from quant_llm_ros.benchmark.runner import Settings
from quant_llm_ros.benchmark.sample import compare, load_sentences, Result, Sample
from quant_llm_ros.cli import bench
from quant_llm_ros.engine import decoding
from quant_llm_ros.errors import DatasetError, EngineError


def sample(sentence: str = "go", answer: str = "a", **changes: float | str) -> Sample:
    fields = {
        "decision": answer,
        "total_ms": 10.0,
        "prefill_ms": 6.0,
        "decode_ms": 4.0,
        "passes": 2,
        "tokens": 5,
    }
    return Sample(sentence, answer, **{**fields, **changes})  # type: ignore[arg-type]


def test_figures() -> None:
    samples = tuple(
        sample(total_ms=float(ms), passes=ms % 3, drafted=4, accepted=3) for ms in range(101)
    )
    figures = Result("ours", 12.34, 56.78, samples, {"floor_ms": 2.2}).figures()
    assert figures["n"] == 101
    assert figures["total_ms"] == {"p50": 50.0, "p90": 90.0, "p99": 99.0}
    assert figures["passes"]["mean"] == pytest.approx(1, abs=0.02)
    assert figures["acceptance"] == 0.75
    assert (figures["load_ms"], figures["peak_mb"], figures["floor_ms"]) == (12.3, 56.8, 2.2)


def test_only_ties_may_differ() -> None:
    plain = [
        sample("one", "a", probability=0.5),
        sample("two", "b", margin=1e-4),
        sample("three", "c", margin=0.1),
    ]
    other = [
        sample("one", "a", probability=0.5 + 1e-6),
        sample("two", "x"),
        sample("three", "x"),
    ]
    found = compare(plain, other)
    assert (found.same, found.ties, found.different) == (1, ("two",), ("three",))
    assert found.probability_error == pytest.approx(1e-6)


def test_a_report_names_what_differs(capsys: pytest.CaptureFixture[str]) -> None:
    costs = {"floor_ms": 2.0, "pass_ms_1": 4.0, "pass_ms_16": 10.0}
    results = [
        Result(PLAIN, 1.0, 2.0, (sample("one", "a"), sample("two", "b"))),
        Result(SERVED, 1.0, 2.0, (sample("one", "a"), sample("two", "c")), costs),
        Result(
            llama_cpp.USERS,
            1.0,
            2.0,
            (
                sample("one", "{}", decision="a", total_ms=100.0),
                sample("two", "{}", decision="INVALID", total_ms=100.0),
            ),
        ),
    ]
    figures = document(results, (2.5, 300.0))
    plain, served, other = figures["contenders"]
    assert plain["same_answers"] == 2
    assert (served["same_answers"], served["different_answers"]) == (1, ["two"])
    assert "same_answers" not in other
    assert (served["same_decisions"], other["same_decisions"]) == (1, 1)
    assert other["served_over_this"] == 0.1
    reached = {row["figure"]: row["measured"] <= row["target"] for row in figures["goals"]}
    assert reached == {
        f"p50 over {llama_cpp.USERS} (1 of 2 decisions the same)": False,
        "passes, median": True,
        "passes, p90": True,
        "decode ms/token over the bandwidth floor": False,
        "prefill of 16 new tokens over one decode step": True,
        "answers that drafts changed": False,
        "process start to first decision, s": True,
        "peak memory of that process, MB": True,
    }
    for table in tables(figures):
        Console(width=200).print(table)
    printed = capsys.readouterr().out
    assert "1 of 2" in printed
    assert "not reached" in printed
    assert llama_cpp.USERS in printed


def test_the_picture_needs_matplotlib_or_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "bench.png"
    try:
        import matplotlib  # noqa: F401 (is it there?)
    except ImportError:
        with pytest.raises(EngineError, match=r"needs matplotlib; run .*requirements/bench.txt"):
            draw([Result("ours", 1.0, 2.0, (sample(),))], path)
    else:
        draw([Result("ours", 1.0, 2.0, (sample(), sample(total_ms=20.0)))], path)
        assert path.read_bytes().startswith(b"\x89PNG")


def test_sentences_are_spread_over_the_files(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    rows = [{"text": f"go  to {index}"} for index in range(10)] + [{"text": "..."}]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert load_sentences([str(path)], 100) == [f"go to {index}" for index in range(10)]
    assert load_sentences([str(path)], 3) == ["go to 0", "go to 3", "go to 6"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("no json", r"s.jsonl:1: must be a JSON object with \"text\""),
        ("[1]", "s.jsonl:1: must be a JSON object"),
        ('{"say": "go"}', "s.jsonl:1: must be a JSON object"),
        ('{"text": "..."}', "no sentence has words"),
        ("", "no sentence has words"),
    ],
)
def test_wrong_sentences(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "s.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DatasetError, match=message):
        load_sentences([str(path)], 10)


def test_the_machine_is_measured() -> None:
    assert read_bandwidth(1) > 1e8
    held = np.ones(2_000_000)
    assert peak_memory_mb() > held.nbytes / 1e6


def test_the_memory_of_a_process_is_its_own() -> None:
    held = np.ones(20_000_000)
    with subprocess.Popen(
        [sys.executable, "-c", "print(input())"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as small:
        assert small.stdin is not None
        assert peak_memory_mb(small.pid) < held.nbytes / 1e6 < peak_memory_mb()
        small.stdin.write("\n")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a bundle, a registry and sentences."""
    folder = tmp_path_factory.mktemp("bench")
    model = make_folder(folder / "model", max_position_embeddings=2048)
    build_tiny(folder, model, context_length=2048)
    (folder / "skills.yaml").write_text(CART_SKILLS)
    rows = [
        {"text": text} for text in ("go to the dock", "turn left by 30 degrees", "stop", "hello")
    ]
    (folder / "s.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_a_run_from_end_to_end(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    bench.add_parser(parser.add_subparsers())
    arguments = parser.parse_args(
        [
            "bench",
            f"--bundle={tiny / 'bundle'}",
            f"--skills={tiny / 'skills.yaml'}",
            f"--dataset={tiny / 's.jsonl'}",
            f"--output={tmp_path / 'b.json'}",
            "--threads=1",
            "--check",
        ]
    )
    assert arguments.run(arguments) == 0
    assert "from text to decision" in capsys.readouterr().out
    figures = json.loads((tmp_path / "b.json").read_text())
    assert [row["contender"] for row in figures["contenders"]] == [PLAIN, SERVED]
    for row in figures["contenders"]:
        assert row["same_answers"] == 3  # «stop» needs no model
        assert row["different_answers"] == []
        assert row["total_ms"]["p50"] > 0
        assert row["floor_ms"] > 0
        assert row["pass_ms_16"] > 0
    assert len(figures["samples"][PLAIN]) == 3


def test_a_pass_is_profiled(tiny: Path) -> None:
    found = profile(Settings(str(tiny / "bundle"), str(tiny / "skills.yaml"), 1), 4)
    assert {"MatMulNBits", "Attention", BETWEEN} <= set(found)
    assert all(ms >= 0 for ms in found.values())


def test_each_step_gives_the_same_answers(tiny: Path) -> None:
    answers = []
    passes = []
    for features in MODES.values():
        ours = Ours(str(tiny / "bundle"), str(tiny / "skills.yaml"), features, threads=1)
        samples = [ours(text) for text in ("go to the dock", "turn left by 30 degrees", "hello")]
        answers.append([(s.answer, s.decision, s.probability) for s in samples])
        passes.append(sum(sample.passes for sample in samples))
        ours.close()
    assert answers == answers[:1] * len(MODES)
    assert passes[0] > passes[1] > passes[2] >= passes[3] == passes[4]


def test_a_changed_answer_is_noticed(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder that lets a wrong guess stand is what --check is for."""
    right = Ours(str(tiny / "bundle"), str(tiny / "skills.yaml"), MODES[SERVED], threads=1)
    wrong = Ours(str(tiny / "bundle"), str(tiny / "skills.yaml"), MODES[SERVED], threads=1)
    best = decoding._best

    def second(logits: NDArray[np.float32], allowed: NDArray[np.intp]) -> tuple[int, float, float]:
        return best(logits, allowed[:-1] if len(allowed) > 1 else allowed)

    sentences = ("go to the dock", "turn left by 30 degrees", "hello")
    expected = [right(text) for text in sentences]
    monkeypatch.setattr(decoding, "_best", second)
    assert compare(expected, [wrong(text) for text in sentences]).different
    right.close()
    wrong.close()


@pytest.mark.bundle
@pytest.mark.slow
def test_drafts_change_no_answer_of_the_default_bundle(
    bundle_path: Path, repository: Path
) -> None:
    data = [str(repository / "test" / "data" / f"{name}.jsonl")
            for name in ("mobile_robot", "statuses", "unseen_registry")]  # fmt: skip
    sentences = load_sentences(data, 200)
    results = []
    for mode in (PLAIN, SERVED):
        ours = Ours(str(bundle_path), None, MODES[mode], threads=2)
        results.append([ours(sentence) for sentence in sentences])
        ours.close()
    plain, drafted = results
    found = compare(plain, drafted)
    assert found.same == len(sentences), (found.different, found.ties)
    # How tokens are divided into passes changes no bit of the logits; the two multiply the
    # probabilities of their choices in another order.
    assert found.probability_error < 1e-12
    assert sum(s.passes for s in drafted) < 0.7 * sum(s.passes for s in plain)
