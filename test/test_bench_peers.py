"""Other runtimes in the benchmark: what they are asked for, and that they compute the same."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import llguidance
import numpy as np
import onnxruntime
import pytest
from tiny_models import build_tiny, make_folder, recipe_text

from quant_llm_ros.benchmark import genai, json_calls, llama_cpp
from quant_llm_ros.benchmark.peers import genai_of, gguf_of, model_of, PEERS
from quant_llm_ros.benchmark.runner import contender, Settings
from quant_llm_ros.cli import bench
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.engine.bundle import Bundle
from quant_llm_ros.engine.onnxruntime_engine import OnnxRuntimeEngine
from quant_llm_ros.engine.tokenizer import Tokenizer
from quant_llm_ros.errors import EngineError, RecipeError

INSTALLED = importlib.util.find_spec("llama_cpp") is not None
GENAI_INSTALLED = importlib.util.find_spec("onnxruntime_genai") is not None
needs_llama_cpp = pytest.mark.skipif(not INSTALLED, reason="needs requirements/peers.txt")
needs_genai = pytest.mark.skipif(not GENAI_INSTALLED, reason="needs requirements/peers.txt")
STATUSES = ("ACCEPTED", "STOP", "CLARIFY", "UNKNOWN", "REJECTED", "ERROR", "INVALID")

SKILLS = """
version: 1
name: cart
skills:
  go_to: {description: drive to a place, arguments: {place: {type: place}}}
  turn: {description: turn, arguments: {direction: {type: choice, choices: [left, right]}}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("peers")
    model = make_folder(folder / "model", max_position_embeddings=2048)
    build_tiny(folder, model, context_length=2048)
    (folder / "other.yaml").write_text(recipe_text(model, context_length=128))
    (folder / "skills.yaml").write_text(SKILLS)
    return folder


@pytest.mark.bundle
def test_the_schema_takes_the_calls_of_the_registry_and_no_others(
    repository: Path, bundle_path: Path
) -> None:
    registry = SkillRegistry.load(repository / "config/skills/service_robot.yaml")
    tokenizer = Tokenizer(bundle_path / "tokenizer.json")
    grammar = llguidance.LLMatcher.grammar_from_json_schema(
        json_calls.schema(registry), overrides={"whitespace_flexible": False}
    )
    for text, taken in (
        ('{"calls":[]}', True),
        ('{"calls":[{"skill":"go_to","args":{"place":"kitchen"}}]}', True),
        ('{"calls":[{"skill":"move","args":{"direction":"left","distance_m":0.5}}]}', True),
        ('{"calls":[{"skill":"go_to","args":{}}]}', False),
        ('{"calls":[{"skill":"fly","args":{}}]}', False),
        ('{"calls":[{"skill":"move","args":{"direction":"up"', False),
    ):
        matcher = llguidance.LLMatcher(tokenizer.guide, grammar)
        assert not matcher.is_error(), matcher.get_error()
        tokens = tokenizer.encode(text)
        assert (matcher.validate_tokens(tokens) == len(tokens)) is taken, text
    assert "go_to(place" in json_calls.instruction(registry)


@pytest.mark.parametrize(
    ("answer", "decision"),
    [
        (
            '{"calls":[{"skill":"move","args":{"direction":"left","distance_m":0.5}}]}',
            "ACCEPTED move(direction=left, distance_m=0.5)",
        ),
        ('{"calls":[{"skill":"move","args":{"direction":"left","distance_m":2000}}]}', "REJECTED"),
        ('{"calls":[]}', "UNKNOWN"),
        ('{"calls":[{"skill":"move","args":{"dir', "INVALID"),
        ('{"calls":[{"skill":"fly","args":{}}]}', "INVALID"),
        ('{"calls":3}', "INVALID"),
    ],
)
def test_decisions_of_json(repository: Path, answer: str, decision: str) -> None:
    registry = SkillRegistry.load(repository / "config/skills/service_robot.yaml")
    assert json_calls.JsonDecisions(registry)(answer) == decision


def test_the_model_is_written_once_and_by_its_own_recipe(folder: Path) -> None:
    bundle = Bundle.load(folder / "bundle")
    with pytest.raises(RecipeError, match="was made by the recipe 'tiny' as it was then, not by"):
        gguf_of(bundle, folder / "other.yaml")
    path = gguf_of(bundle, folder / "bundle.yaml")
    written = path.stat().st_mtime_ns
    assert gguf_of(bundle, folder / "nowhere.yaml") == path
    assert path.stat().st_mtime_ns == written
    Bundle.load(folder / "bundle")  # still whole


@pytest.mark.parametrize("peers", ["llama", "llama_cpp,nothing", ""])
def test_unknown_peers(peers: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    bench.add_parser(parser.add_subparsers())
    with pytest.raises(SystemExit):
        parser.parse_args(["bench", "--dataset=x", f"--peers={peers}"])
    assert "is not one of llama_cpp" in capsys.readouterr().err


@pytest.mark.skipif(INSTALLED, reason="llama-cpp-python is installed")
def test_a_peer_that_is_not_installed() -> None:
    with pytest.raises(EngineError, match=r"pip install -r requirements/peers.txt"):
        llama_cpp.load_library()


@pytest.mark.skipif(GENAI_INSTALLED, reason="onnxruntime-genai is installed")
def test_the_other_peer_that_is_not_installed() -> None:
    with pytest.raises(EngineError, match=r"pip install -r requirements/peers.txt"):
        genai.load_library()


def test_the_graph_for_onnxruntime_genai_gives_the_last_logits(folder: Path) -> None:
    bundle = Bundle.load(folder / "bundle")
    path = genai_of(bundle, threads=1)
    session = onnxruntime.InferenceSession(str(path / "model.onnx"))
    assert next(value.name for value in session.get_inputs()) == "input_ids"
    assert "logit_positions" not in [value.name for value in session.get_inputs()]
    ours = OnnxRuntimeEngine.load(bundle, exact=True)
    tokens = list(range(20, 30))
    shape = (1, bundle.model.key_value_heads, 0, bundle.model.head_dim)
    empty = {v.name: np.zeros(shape, np.float32) for v in session.get_inputs()[1:]}
    (logits,) = session.run(["logits"], {"input_ids": np.array([tokens]), **empty})
    expected = ours.append(tokens)
    assert logits.shape == (1, 1, bundle.model.vocab_size)
    assert float(np.abs(logits[0] - expected).max() / np.abs(expected).max()) < 0.05
    ours.close()


@needs_genai
def test_onnxruntime_genai_computes_the_same_logits(folder: Path) -> None:
    bundle = Bundle.load(folder / "bundle")
    ours = OnnxRuntimeEngine.load(bundle, exact=True)
    theirs = genai.GenaiEngine(
        str(genai_of(bundle, threads=1)), vocab_size=bundle.model.vocab_size, context_length=2048
    )
    tokens = list(range(20, 60))
    for engine in (ours, theirs):
        engine.append(tokens)
        engine.rollback(10)
    expected, computed = ours.append(tokens[10:]), theirs.append(tokens[10:])
    assert float(np.abs(computed - expected).max() / np.abs(expected).max()) < 0.05
    with pytest.raises(ValueError, match="last token only"):
        theirs.append([1, 2], at=[0, 1])
    theirs.close()
    ours.close()


@needs_llama_cpp
def test_llama_cpp_computes_the_same_logits(folder: Path) -> None:
    bundle = Bundle.load(folder / "bundle")
    ours = OnnxRuntimeEngine.load(bundle, exact=True)
    theirs = llama_cpp.LlamaCppEngine(
        str(gguf_of(bundle, folder / "bundle.yaml")), threads=1, context_length=2048
    )
    assert theirs.vocab_size == ours.vocab_size
    tokens = list(range(20, 60))
    for engine in (ours, theirs):
        engine.append(tokens)
        engine.rollback(10)
    expected = ours.append(tokens[10:], at=[0, 7, 29])
    computed = theirs.append(tokens[10:], at=[0, 7, 29])
    assert float(np.abs(computed - expected).max() / np.abs(expected).max()) < 0.05
    theirs.close()
    ours.close()


@pytest.mark.parametrize(
    ("peer", "mode"),
    [
        pytest.param(peer, mode, marks=installed)
        for peer, installed in (("llama_cpp", needs_llama_cpp), ("onnxruntime_genai", needs_genai))
        for mode in PEERS[peer]
    ],
)
def test_every_contender_answers(folder: Path, peer: str, mode: str) -> None:
    bundle = Bundle.load(folder / "bundle")
    models = {peer: model_of(peer, bundle, folder / "bundle.yaml", threads=1)}
    settings = Settings(str(bundle.path), str(folder / "skills.yaml"), 1, models=models)
    asked = contender(settings, mode)
    for sentence in ("go to the dock", "turn left", "go to the dock"):
        sample = asked(sentence)
        assert sample.total_ms > 0
        assert sample.passes >= 1
        assert sample.answer
        assert sample.decision.split()[0] in STATUSES
    assert ("pass_ms_16" in asked.costs()) is (mode.endswith("best") or mode.endswith("too"))
    assert asked.runtime.startswith(("llama-cpp-python", "onnxruntime-genai"))
    asked.close()
