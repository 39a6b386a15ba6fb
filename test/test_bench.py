"""The benchmark: its figures, and that drafts leave the default bundle's answers as they are."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from tiny_models import build_tiny, CART_SKILLS, make_folder

from quant_llm_ros.benchmark.machine import peak_memory_mb, read_bandwidth
from quant_llm_ros.benchmark.ours import MODES, Ours, PLAIN
from quant_llm_ros.benchmark.report import document, draw, table
from quant_llm_ros.benchmark.sample import compare, load_sentences, Result, Sample
from quant_llm_ros.cli import bench
from quant_llm_ros.errors import DatasetError, EngineError


def sample(sentence: str = "go", answer: str = "a", **changes: float) -> Sample:
    fields = {"total_ms": 10.0, "prefill_ms": 6.0, "decode_ms": 4.0, "passes": 2, "tokens": 5}
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
    results = [
        Result(PLAIN, 1.0, 2.0, (sample("one", "a"), sample("two", "b"))),
        Result("ours, drafts", 1.0, 2.0, (sample("one", "a"), sample("two", "c"))),
        Result("another runtime", 1.0, 2.0, (sample("one", "{}"), sample("two", "{}"))),
    ]
    figures = document(results)
    plain, drafts, other = figures["contenders"]
    assert plain["same_answers"] == 2
    assert (drafts["same_answers"], drafts["different_answers"]) == (1, ["two"])
    assert "same_answers" not in other
    Console(width=200).print(table(figures))
    printed = capsys.readouterr().out
    assert "1 of 2" in printed
    assert "another runtime" in printed


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


def test_a_run_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_folder(tmp_path / "model", max_position_embeddings=2048)
    bundle = build_tiny(tmp_path, model, context_length=2048)
    (tmp_path / "skills.yaml").write_text(CART_SKILLS)
    rows = [{"text": text} for text in ("go to the dock", "turn left by 30 degrees", "hello")]
    (tmp_path / "s.jsonl").write_text("\n".join(map(json.dumps, rows)))
    parser = argparse.ArgumentParser()
    bench.add_parser(parser.add_subparsers())
    arguments = parser.parse_args(
        [
            "bench",
            f"--bundle={bundle.path}",
            f"--skills={tmp_path / 'skills.yaml'}",
            f"--dataset={tmp_path / 's.jsonl'}",
            f"--output={tmp_path / 'b.json'}",
            "--threads=1",
            "--check",
        ]
    )
    assert arguments.run(arguments) == 0
    assert "from text to decision" in capsys.readouterr().out
    figures = json.loads((tmp_path / "b.json").read_text())
    assert [row["contender"] for row in figures["contenders"]] == list(MODES)[2:]
    for row in figures["contenders"]:
        assert row["same_answers"] == 3
        assert row["different_answers"] == []
        assert row["total_ms"]["p50"] > 0
        assert row["floor_ms"] > 0
        assert row["pass_ms_16"] > 0
    assert len(figures["samples"][PLAIN]) == 3


@pytest.mark.bundle
@pytest.mark.slow
def test_drafts_change_no_answer_of_the_default_bundle(
    bundle_path: Path, repository: Path
) -> None:
    data = [str(repository / "test" / "data" / f"{name}.jsonl")
            for name in ("mobile_robot", "statuses", "unseen_registry")]  # fmt: skip
    sentences = load_sentences(data, 200)
    results = []
    for mode in (PLAIN, "ours, drafts that learn"):
        ours = Ours(str(bundle_path), None, MODES[mode], threads=2)
        results.append([ours(sentence) for sentence in sentences])
        ours.close()
    plain, drafted = results
    found = compare(plain, drafted)
    assert found.same == len(sentences), (found.different, found.ties)
    # How tokens are divided into passes changes no bit of the logits.
    assert found.probability_error == 0.0
    assert sum(s.passes for s in drafted) < 0.7 * sum(s.passes for s in plain)
