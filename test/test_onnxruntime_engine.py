"""The ONNX Runtime engine: its cache, its errors, the self-test."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import itertools
from pathlib import Path
import shutil
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
from numpy.typing import NDArray
import onnxruntime
import pytest
from tiny_models import build_tiny, CONTEXT_LENGTH, make_folder

from quant_llm_ros.engine.bundle import Bundle
from quant_llm_ros.engine.onnxruntime_engine import OnnxRuntimeEngine
from quant_llm_ros.engine.protocol import Engine
from quant_llm_ros.engine.selftest import limit_of, self_test
from quant_llm_ros.errors import BundleError, ContextOverflowError, EngineError

TOKENS = list(range(20, 60))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundle")
    return build_tiny(folder, make_folder(folder / "model"))


@pytest.fixture(scope="module")
def loaded(bundle: Bundle) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine.load(bundle)


@pytest.fixture
def engine(loaded: OnnxRuntimeEngine) -> OnnxRuntimeEngine:
    loaded.rollback(0)
    loaded.mark()
    return loaded


def assert_near(logits: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    assert logits.shape == expected.shape
    assert float(np.abs(logits - expected).max() / np.abs(expected).max()) < 1e-3


def test_engine_describes_itself(engine: OnnxRuntimeEngine) -> None:
    protocol: Engine = engine
    assert protocol.info.runtime == f"onnxruntime {onnxruntime.__version__}"
    assert protocol.info.provider == "CPUExecutionProvider"
    assert protocol.info.load_ms > 0
    assert (protocol.vocab_size, protocol.context_length) == (320, CONTEXT_LENGTH)
    assert protocol.length == 0


def test_logits_of_the_asked_positions(engine: OnnxRuntimeEngine) -> None:
    every = engine.append(TOKENS, last=len(TOKENS)).copy()
    assert every.shape == (len(TOKENS), 320)
    for last in (1, 2, 17):
        engine.rollback(0)
        assert_near(engine.append(TOKENS, last=last), every[-last:])
    for at in ([0], [39], [3, 4, 20], list(range(40))):
        engine.rollback(0)
        assert_near(engine.append(TOKENS, at=at), every[at])


@settings(max_examples=40, deadline=None)
@given(cuts=st.sets(st.integers(1, len(TOKENS) - 1)), data=st.data())
def test_pieces_and_rollbacks_do_not_change_the_logits(
    loaded: OnnxRuntimeEngine, cuts: set[int], data: st.DataObject
) -> None:
    loaded.rollback(0)
    expected = loaded.append(TOKENS, last=len(TOKENS)).copy()
    loaded.rollback(0)
    edges = [0, *sorted(cuts), len(TOKENS)]
    for begin, end in itertools.pairwise(edges):
        # A wrong guess first, taken back at once, as in speculative decoding.
        guess = data.draw(st.lists(st.integers(0, 319), max_size=5))
        if guess:
            loaded.append(guess)
            loaded.rollback(begin)
        if data.draw(st.booleans()):
            loaded.mark()
        if begin > 2 and data.draw(st.booleans()):
            back = data.draw(st.integers(0, begin))
            loaded.rollback(back)
            loaded.append(TOKENS[back:begin] or TOKENS[begin:end])
            loaded.rollback(begin)
        assert_near(loaded.append(TOKENS[begin:end], last=end - begin), expected[begin:end])
        assert loaded.length == end


def test_rolling_back_to_the_mark_gives_what_was_there(engine: OnnxRuntimeEngine) -> None:
    engine.append(TOKENS[:30])
    engine.mark()
    expected = engine.append(TOKENS[30:]).copy()
    for _ in range(3):
        engine.append(TOKENS[:9])
        engine.rollback(30)
        assert engine.length == 30
        assert_near(engine.append(TOKENS[30:]), expected)


def test_the_mark_is_forgotten_below_it(engine: OnnxRuntimeEngine) -> None:
    engine.append(TOKENS[:30])
    engine.mark()
    engine.rollback(10)
    engine.append(TOKENS[20:40])  # other tokens than those that were marked
    engine.rollback(30)
    fresh = engine.append(TOKENS[:5]).copy()
    engine.rollback(0)
    engine.append(TOKENS[:10])
    engine.append(TOKENS[20:40])
    assert_near(engine.append(TOKENS[:5]), fresh)


def test_a_kept_result_is_not_overwritten(engine: OnnxRuntimeEngine) -> None:
    first = engine.append(TOKENS[:10])
    copy = first.copy()
    for _ in range(5):
        engine.append(TOKENS)
    np.testing.assert_array_equal(first, copy)


@pytest.mark.parametrize(
    ("tokens", "last"),
    [([], 1), ([5], 0), ([5], 2), ([5], -1), ([-1], 1), ([320], 1), ([5, 10**9], 2)],
)
def test_wrong_tokens(engine: OnnxRuntimeEngine, tokens: list[int], last: int) -> None:
    engine.append(TOKENS[:3])
    with pytest.raises(ValueError, match=r"last is|token id"):
        engine.append(tokens, last=last)
    assert engine.length == 3


@pytest.mark.parametrize("at", [[], [-1], [2], [1, 0], [0, 0], [0, 2]])
def test_wrong_positions(engine: OnnxRuntimeEngine, at: list[int]) -> None:
    with pytest.raises(ValueError, match="ascending indices from 0 to 1"):
        engine.append([5, 6], at=at)
    assert engine.length == 0


@pytest.mark.parametrize("length", [-1, 4, 1000])
def test_wrong_rollback(engine: OnnxRuntimeEngine, length: int) -> None:
    engine.append(TOKENS[:3])
    with pytest.raises(ValueError, match=f"roll back to {length}: the cache holds 3"):
        engine.rollback(length)


def test_overflow_changes_nothing(engine: OnnxRuntimeEngine) -> None:
    engine.append(TOKENS)
    expected = engine.append(TOKENS[:5]).copy()
    engine.rollback(len(TOKENS))
    too_many = [7] * (CONTEXT_LENGTH - len(TOKENS) + 1)
    with pytest.raises(ContextOverflowError, match=r"40 \+ 217 tokens exceed the context of 256"):
        engine.append(too_many)
    assert engine.length == len(TOKENS)
    assert_near(engine.append(TOKENS[:5]), expected)
    engine.rollback(len(TOKENS))
    engine.append(too_many[1:])
    assert engine.length == CONTEXT_LENGTH
    with pytest.raises(ContextOverflowError):
        engine.append([1])


def test_a_failed_pass_changes_nothing(
    engine: OnnxRuntimeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FailingSession:
        def run_with_ortvaluevector(self, *arguments: Any) -> None:
            raise RuntimeError("out of memory")

    engine.append(TOKENS)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_session", FailingSession())
        with pytest.raises(EngineError, match="failed on 2 tokens: out of memory"):
            engine.append(TOKENS[:2])
    assert engine.length == len(TOKENS)
    assert engine.append([5]).shape == (1, 320)


def test_a_closed_engine_says_so(bundle: Bundle) -> None:
    engine = OnnxRuntimeEngine.load(bundle, threads=1)
    engine.append(TOKENS)
    engine.close()
    engine.close()
    uses: list[Callable[[], Any]] = [
        lambda: engine.append([1]),
        lambda: engine.rollback(0),
        engine.mark,
    ]
    for use in uses:
        with pytest.raises(EngineError, match="engine is closed"):
            use()


@pytest.mark.parametrize(
    ("change", "threads", "message"),
    [
        ({"target": "tensorrt"}, 2, "built for tensorrt; ONNX Runtime needs target ort"),
        ({}, 0, "threads must be at least 1, not 0"),
    ],
)
def test_wrong_load(bundle: Bundle, change: dict[str, Any], threads: int, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        OnnxRuntimeEngine.load(dataclasses.replace(bundle, **change), threads=threads)


def test_a_bundle_that_describes_another_model(bundle: Bundle) -> None:
    model = dataclasses.replace(bundle.model, layers=3)
    with pytest.raises(EngineError, match=r"other inputs than its bundle.yaml describes"):
        OnnxRuntimeEngine.load(dataclasses.replace(bundle, model=model))


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("1.31.1", "ONNX Runtime 1.31.1 cannot load .*model.onnx"),
        ("1.20.0", "needs ONNX Runtime 1.23 or newer, installed is 1.20.0"),
    ],
)
def test_a_model_that_does_not_load(
    tmp_path: Path,
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    message: str,
) -> None:
    shutil.copytree(bundle.path, tmp_path / "copy")
    (tmp_path / "copy" / "model.onnx").write_bytes(b"no model")
    monkeypatch.setattr(onnxruntime, "__version__", version)
    with pytest.raises(EngineError, match=message):
        OnnxRuntimeEngine.load(dataclasses.replace(bundle, path=tmp_path / "copy"))


def test_self_test_passes_and_empties_the_cache(engine: OnnxRuntimeEngine, bundle: Bundle) -> None:
    engine.append(TOKENS)
    report = self_test(engine, bundle)
    assert report.passed
    assert 0 < report.relative_error < report.limit
    assert engine.length == 0


def test_self_test_in_fp32_is_exact(bundle: Bundle) -> None:
    report = self_test(OnnxRuntimeEngine.load(bundle, exact=True), bundle)
    assert report.relative_error < 1e-5


@pytest.mark.parametrize(
    ("figures", "limit"),
    [
        ({}, 0.25),
        ({"engine_relative_error": "low"}, 0.25),
        ({"engine_relative_error": 0.001}, 0.02),
        ({"engine_relative_error": 0.04}, 0.08),
        ({"engine_relative_error": 3.0}, 0.25),
    ],
)
def test_self_test_allows_twice_what_the_build_measured(
    bundle: Bundle, figures: dict[str, Any], limit: float
) -> None:
    assert limit_of(dataclasses.replace(bundle, figures=figures)) == pytest.approx(limit)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 100.0])
def test_self_test_finds_one_wrong_logit(
    engine: OnnxRuntimeEngine, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    append = engine.append
    calls = []

    def wrong(tokens: list[int], *, last: int = 1) -> NDArray[np.float32]:
        logits = append(tokens, last=last).copy()
        calls.append(tokens)
        if len(calls) == 5:  # the first pass is what all prompts share
            logits[0, 17] += value
        return logits

    monkeypatch.setattr(engine, "append", wrong)
    report = self_test(engine, bundle)
    assert not report.passed
    assert report.worst_prompt == 3


def test_self_test_needs_its_reference(
    tmp_path: Path, engine: OnnxRuntimeEngine, bundle: Bundle
) -> None:
    shutil.copytree(bundle.path, tmp_path / "copy")
    (tmp_path / "copy" / "reference.npz").write_bytes(b"no archive")
    with pytest.raises(BundleError, match=r"reference.npz cannot be read .*; rebuild the bundle"):
        self_test(engine, dataclasses.replace(bundle, path=tmp_path / "copy"))


@pytest.mark.bundle
def test_default_bundle_self_test_and_cache(bundle_path: Path) -> None:
    bundle = Bundle.load(bundle_path)
    engine = OnnxRuntimeEngine.load(bundle)
    assert self_test(engine, bundle).passed
    tokens = list(range(1000, 1080))
    whole = engine.append(tokens, last=80).copy()
    engine.rollback(0)
    pieces = [engine.append(tokens[i : i + 16], last=16).copy() for i in range(0, 80, 16)]
    assert_near(np.concatenate(pieces), whole)
    engine.rollback(64)
    assert_near(engine.append(tokens[64:], last=16), whole[64:])
    # A cache that was copied is read as often as one that the runtime made.
    engine.rollback(70)
    for _ in range(3):
        engine.rollback(70)
        engine.mark()
        assert_near(engine.append(tokens[70:], last=10), whole[70:])
