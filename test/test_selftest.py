"""The device proves itself: reference decisions, the verdict, and what nodes refuse to serve."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
import shutil
from typing import Any

import numpy as np
import pytest
from target_graphs import INT4, WIDE
from tiny_models import build_tiny, CART_SKILLS, make_folder, recipe_text

from quant_llm_ros.cli import inspect, selftest
from quant_llm_ros.cli.quantize import _with_reference_decisions
from quant_llm_ros.command import reference_decisions
from quant_llm_ros.command.decision import Decision, SkillCall, Status
from quant_llm_ros.command.reference_decisions import ReferenceDecision
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.command.understander import Understander
from quant_llm_ros.engine.bundle import add_file, Bundle
from quant_llm_ros.engine.device import (
    available_memory_mb,
    describe_device,
    device_name,
    process_memory_mb,
)
from quant_llm_ros.engine.protocol import EngineInfo
from quant_llm_ros.engine.verdict import load_verdict, refuse_failed, Verdict, verdicts_of
from quant_llm_ros.errors import BundleError, ContextOverflowError, EngineError
from quant_llm_ros.quantize.build import build_bundle
from quant_llm_ros.quantize.graph_run import open_on_cpu
from quant_llm_ros.quantize.recipe import Recipe


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A random model with skills of its own, and the decisions that it really makes."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "skills.yaml").write_text(CART_SKILLS)
    model = make_folder(folder / "model", max_position_embeddings=2048)
    (folder / "recipe.yaml").write_text(recipe_text(model, context_length=2048))
    bundle = build_bundle(
        Recipe.load(folder / "recipe.yaml"),
        folder / "bundle",
        skills=folder / "skills.yaml",
        progress=lambda stage, part: None,
    )
    understander = Understander.open(bundle.path)
    assert understander.decided is None  # a bundle without reference decisions is served too
    references = [
        ReferenceDecision(text, understander.understand(text).answer)
        for text in ("go to the dock", "drive to the gate", "turn left", "how are you")
    ]
    understander.close()
    return reference_decisions.write(bundle, references)


@pytest.fixture
def bundle(built: Bundle, tmp_path: Path) -> Bundle:
    shutil.copytree(built.path, tmp_path / "bundle")
    return Bundle.load(tmp_path / "bundle")


def spoil(bundle: Bundle) -> Bundle:
    """Let a bundle expect another answer to its third reference command."""
    references = list(reference_decisions.load(bundle))
    references[2] = ReferenceDecision("turn left", "turn(direction=up)")
    return reference_decisions.write(bundle, references)


def run(module: Any, *arguments: str) -> int:
    parser = argparse.ArgumentParser()
    module.add_parser(parser.add_subparsers())
    given = parser.parse_args([module.__name__.rpartition(".")[2], *arguments])
    return int(given.run(given))


# --- Reference decisions -------------------------------------------------------------------------


def decide(text: str) -> Decision:
    """Give decisions of several kinds: sure, unsure, without the model."""
    if text == "halt":
        return Decision(text, Status.STOP, (SkillCall("stop", {}),), 1.0, "a stop phrase")
    return Decision(
        text,
        Status.UNKNOWN,
        confidence=0.5 if "maybe" in text else 0.99,
        message="no command",
        forward_passes=1,
        answer=f"<{text}>",
    )


def test_only_answers_that_the_model_is_sure_of_are_recorded() -> None:
    kept = reference_decisions.record(decide, ["one", "halt", "maybe", "two", "one"])
    assert kept == (ReferenceDecision("one", "<one>"), ReferenceDecision("two", "<two>"))
    many = reference_decisions.record(decide, map(str, range(1000)))
    assert len(many) == reference_decisions.MOST


def test_commands_come_in_turn_from_the_examples_of_all_skills(tmp_path: Path) -> None:
    (tmp_path / "skills.yaml").write_text(CART_SKILLS)
    registry = SkillRegistry.load(tmp_path / "skills.yaml")
    own = ["go to the dock", "turn left", "drive to the gate", "how are you"]
    assert list(reference_decisions.sentences(registry)) == own
    mixed = list(reference_decisions.sentences(registry, ["a", "b"]))
    assert mixed == ["a", own[0], "b", *own[1:]]


def test_a_difference_is_told() -> None:
    references = [ReferenceDecision(text, f"<{text}>") for text in ("one", "two", "three")]
    report = reference_decisions.check(decide, references)
    assert (report.passed, report.checked) == (True, 3)
    assert str(report) == "3 decisions are those of the reference"
    references[1] = ReferenceDecision("two", "<2>")
    report = reference_decisions.check(decide, references)
    assert not report.passed
    assert str(report) == (
        "1 of 3 decisions are not those of the reference: “two” gives <two>, expected <2>"
    )
    assert reference_decisions.check(decide, references, 2).checked == 2
    assert reference_decisions.check(decide, references, 0).passed


@pytest.mark.parametrize("content", ["no json", "[1]", '{"text": "a"}'])
def test_malformed_reference_decisions(bundle: Bundle, content: str) -> None:
    spoilt = add_file(bundle.path, reference_decisions.FILE, content.encode())
    with pytest.raises(BundleError, match=r"reference_decisions.jsonl cannot be read .*; rebuild"):
        reference_decisions.load(spoilt)


def test_the_build_records_what_the_bundle_decides(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference_decisions, "LEAST_CONFIDENCE", 1.1)
    with pytest.raises(BundleError, match="not sure of any command"):
        _with_reference_decisions(bundle, [])
    monkeypatch.setattr(reference_decisions, "LEAST_CONFIDENCE", 0.0)  # the model is random
    recorded = _with_reference_decisions(bundle, ["go to the dock"])
    understander = Understander.open(bundle.path, min_confidence=0.0)
    references = reference_decisions.load(recorded)
    assert [r.text for r in references][:2] == ["go to the dock", "turn left"]
    for reference in references:
        assert understander.understand(reference.text).answer == reference.answer
    understander.close()


def test_a_graph_for_tensorrt_decides_on_the_cpu_where_it_is_built(
    bundle: Bundle, tmp_path: Path
) -> None:
    model = make_folder(tmp_path / "model", max_position_embeddings=2048, **WIDE)
    built = build_tiny(
        tmp_path, model, "half", target="tensorrt", quantize=INT4, context_length=2048
    )
    engine = open_on_cpu(built)
    tokens = list(range(20, 40))
    every = engine.append(tokens, last=20)
    engine.rollback(0)
    np.testing.assert_allclose(engine.append(tokens, at=[3, 19]), every[[3, 19]], rtol=1e-3)
    engine.rollback(0)
    with pytest.raises(ContextOverflowError, match="exceed the context of 2048"):
        engine.append([5] * 2049)
    registry = SkillRegistry.load(bundle.file("skills.yaml"))
    understander = Understander.of_bundle(built, engine, registry)
    first, second = (understander.understand("turn left").answer for _ in range(2))
    assert first == second != ""
    engine.close()


# --- Before a bundle is served -------------------------------------------------------------------


def test_an_engine_that_decides_otherwise_is_not_served(bundle: Bundle) -> None:
    understander = Understander.open(bundle.path)
    assert understander.decided is not None
    assert understander.decided.checked == 3
    understander.close()
    spoil(bundle)
    with pytest.raises(
        EngineError,
        match=r"self-test failed on onnxruntime .* with CPUExecutionProvider: 1 of 4 decisions "
        r"are not .* “turn left” gives .*, expected turn\(direction=up\); rebuild .* cpu",
    ):
        Understander.open(bundle.path, selftest_commands=4)
    Understander.open(bundle.path, selftest_commands=0).close()


def test_decisions_of_other_skills_are_not_compared(bundle: Bundle, tmp_path: Path) -> None:
    spoil(bundle)
    (tmp_path / "other.yaml").write_text(CART_SKILLS.replace("drive to a place", "go somewhere"))
    understander = Understander.open(bundle.path, tmp_path / "other.yaml", selftest_commands=9)
    assert understander.decided is None
    understander.close()


def test_commands_too_long_for_the_settings_are_left_out(bundle: Bundle) -> None:
    understander = Understander.open(bundle.path, max_command_chars=11, selftest_commands=9)
    assert understander.decided is not None
    assert understander.decided.checked == 2  # «turn left» and «how are you»
    understander.close()


# --- The command and its verdict -----------------------------------------------------------------


def test_a_bundle_that_passes(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(selftest, str(bundle.path), "--threads=1") == 0
    printed = capsys.readouterr()
    assert "PASSED" in printed.out
    assert "verdict: " in printed.err
    (verdict,) = verdicts_of(bundle)
    assert verdict.passed
    assert verdict.problems == ()
    assert verdict.provider == "CPUExecutionProvider"
    assert verdict.device["name"] == device_name()
    assert verdict.figures["decisions"]["equal"] == 4
    assert verdict.figures["logits"]["relative_error"] <= verdict.figures["logits"]["limit"]
    for name in ("load", "ready", "prefill_per_token", "text_to_decision_p50"):
        assert verdict.figures["latency_ms"][name] > 0
    assert verdict.figures["memory_mb"]["peak"] > 50
    # It stays a whole bundle, and shows what was found.
    assert run(inspect, str(bundle.path), "--json") == 0
    assert json.loads(capsys.readouterr().out)["verdicts"][0]["passed"] is True
    Understander.open(bundle.path).close()


def test_a_bundle_that_fails_is_not_served_here(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = spoil(bundle)
    assert run(selftest, str(bundle.path), "--threads=1", "--json") == 1
    assert "turn(direction=up)" in json.loads(capsys.readouterr().out)["problems"][0]
    with pytest.raises(
        EngineError,
        match=r"failed its self-test here on 2.*turn left.*quant_llm selftest",
    ):
        Understander.open(bundle.path, selftest_commands=0)
    assert run(inspect, str(bundle.path)) == 0
    assert "FAILED" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle.path / "verdicts").write_text("in the way")
    assert run(selftest, str(bundle.path), "--threads=1") == 0
    assert "the verdict cannot be written to" in capsys.readouterr().err


def verdict(**changes: Any) -> Verdict:
    fields: dict[str, Any] = {
        "created": "2026-01-01T00:00:00+00:00",
        "generator": "test",
        "bundle_sha256": "ab",
        "runtime": "onnxruntime 1.0",
        "provider": "CUDAExecutionProvider",
        "device": {"name": "NVIDIA Jetson Orin Nano"},
        "passed": False,
        "problems": ("prompt 3 is 0.4 away",),
        "figures": {"decisions": {"checked": 2.0, "equal": 1.0}},
    }
    return Verdict(**{**fields, **changes})


def test_a_verdict_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = verdict().save(tmp_path)
    assert path.name == "onnxruntime_1.0-cudaexecutionprovider-nvidia_jetson_orin_nano.yaml"
    assert load_verdict(path) == verdict()
    assert str(verdict()).endswith("FAILED: prompt 3 is 0.4 away, 1 of 2 decisions equal")
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({}, True),
        ({"passed": True}, False),
        ({"bundle_sha256": "of another bundle"}, False),
        ({"runtime": "onnxruntime 2.0"}, False),
        ({"provider": "CPUExecutionProvider"}, False),
        ({"device": {"name": "another board"}}, False),
    ],
)
def test_only_the_same_bundle_runtime_provider_and_device_count(
    bundle: Bundle, changes: dict[str, Any], refused: bool
) -> None:
    verdict(**{"bundle_sha256": bundle.sha256, **changes}).save(bundle.path)
    info = EngineInfo("onnxruntime 1.0", "CUDAExecutionProvider", 1.0)
    if not refused:
        refuse_failed(bundle, info, "NVIDIA Jetson Orin Nano")
        return
    with pytest.raises(EngineError, match=r"failed its self-test here .*prompt 3 is 0.4 away"):
        refuse_failed(bundle, info, "NVIDIA Jetson Orin Nano")


@pytest.mark.parametrize(
    "content", ["", "[1", "- 1", "format_version: 2", "format_version: 1\npassed: true"]
)
def test_malformed_verdicts_are_named_and_left_out(bundle: Bundle, content: str) -> None:
    path = verdict(bundle_sha256=bundle.sha256).save(bundle.path)
    path.write_text(content)
    with pytest.raises(BundleError, match=r"; delete it"):
        load_verdict(path)
    assert verdicts_of(bundle) == []


# --- What machine this is ------------------------------------------------------------------------


def test_a_board_names_itself(tmp_path: Path) -> None:
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    assert device_name(tmp_path)  # the architecture, where nothing tells more
    (tmp_path / "proc/cpuinfo").write_text("processor : 0\nmodel name\t: A  CPU @ 2 GHz\n")
    assert device_name(tmp_path) == "A CPU @ 2 GHz"
    (tmp_path / "proc/device-tree/model").write_bytes(b"NVIDIA Jetson Orin Nano\0")
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3\n# more\n")
    described = describe_device(tmp_path)
    assert described["name"] == "NVIDIA Jetson Orin Nano"
    assert described["jetson_linux"] == "R36 (release), REVISION: 4.3"


def test_memory_is_read_or_left_out(tmp_path: Path) -> None:
    assert process_memory_mb()["peak"] >= process_memory_mb()["resident"] > 10
    assert (available_memory_mb() or 0) > 10
    assert process_memory_mb(tmp_path) == {}
    assert available_memory_mb(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8 kB\nMemAvailable:  2000 kB\nodd\n")
    assert available_memory_mb(tmp_path) == pytest.approx(2.048)


@pytest.mark.bundle
def test_reference_decisions_of_the_default_bundle(bundle_path: Path) -> None:
    bundle = Bundle.load(bundle_path, verify=False)
    references = reference_decisions.load(bundle)
    assert len(references) == reference_decisions.MOST
    assert len({reference.answer.partition("(")[0] for reference in references}) > 8
    understander = Understander.open(bundle_path, selftest_commands=6)
    assert understander.decided is not None
    assert understander.decided.passed
    understander.close()


def test_a_report_without_an_answer_says_why(bundle: Bundle) -> None:
    long = dataclasses.replace(reference_decisions.load(bundle)[0], text="x" * 600)
    understander = Understander.open(bundle.path, selftest_commands=0)
    report = reference_decisions.check(understander.understand, [long])
    understander.close()
    assert "gives the command has 600 characters" in str(report)
