"""Pieces of a cache, moved to other places: what the model computes behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
import pytest
from tiny_models import build_tiny, GEMMA3, make_folder

from quant_llm_ros.engine.bundle import Bundle
from quant_llm_ros.engine.onnxruntime_engine import OnnxRuntimeEngine
from quant_llm_ros.engine.pieces import Pieces
from quant_llm_ros.engine.protocol import Gathering
from quant_llm_ros.errors import ContextOverflowError

TOKENS = list(range(20, 60))
DIM, HEADS = 16, 2


def turned(
    raw: NDArray[np.float64], start: int, turns: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Turn keys ``[kv, n, dim]`` for the positions from ``start`` on."""
    half = raw.shape[2] // 2
    angles = (start + np.arange(raw.shape[1]))[:, None] * turns
    pairs = (raw[..., :half] + 1j * raw[..., half:]) * np.exp(1j * angles)
    return np.concatenate([pairs.real, pairs.imag], axis=2)[None].astype(np.float32)


@pytest.mark.parametrize("thetas", [[1e5] * 3, [1e4, 1e6, 1e4]])
def test_keys_are_turned_to_their_new_places(thetas: list[float]) -> None:
    turns = [theta ** -(np.arange(DIM // 2) * 2 / DIM) for theta in thetas]
    rng = np.random.default_rng(1)
    pieces = Pieces(thetas, DIM)
    raw = [rng.normal(size=(HEADS, 9, DIM)) for _ in range(3)]
    values = [rng.normal(size=(1, HEADS, 9, DIM)).astype(np.float32) for _ in range(3)]
    keys = [turned(layer, 0, turn) for layer, turn in zip(raw, turns, strict=True)]
    first, second = pieces.add(keys, values, 0, 4), pieces.add(keys, values, 4, 9)
    for order, starts in (((first, second), (0, 0)), ((second, first, second), (-4, 5, 5))):
        got_keys, got_values = pieces.together(order)
        spans = {first: slice(0, 4), second: slice(4, 9)}
        for layer in range(3):
            expected = [
                turned(raw[layer], start, turns[layer])[0, :, spans[number]]
                for number, start in zip(order, starts, strict=True)
            ]
            np.testing.assert_allclose(got_keys[layer], np.concatenate(expected, 1), atol=0.01)
            expected = [values[layer][0, :, spans[number]] for number in order]
            np.testing.assert_allclose(got_values[layer], np.concatenate(expected, 1), atol=0.01)


@pytest.fixture(scope="module", params=["llama", "qwen3", "gemma3"])
def bundle(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Bundle:
    folder = tmp_path_factory.mktemp("bundle")
    shape: dict[str, Any] = GEMMA3 if request.param == "gemma3" else {}
    return build_tiny(folder, make_folder(folder / "model", request.param, **shape))


def test_pieces_in_their_places_are_the_cache_itself(bundle: Bundle) -> None:
    engine = OnnxRuntimeEngine.load(bundle, exact=True)
    assert isinstance(engine, Gathering)
    engine.append(TOKENS)
    expected = engine.append([7, 8, 9], last=3).copy()
    cuts = [(0, 11), (11, 12), (12, 40)]
    numbers = [engine.shelve(start, end) for start, end in cuts]
    engine.append([1, 2, 3, 4, 5])
    engine.gather(numbers)
    assert engine.length == len(TOKENS)
    for _ in range(2):
        logits = engine.append([7, 8, 9], last=3)
        assert np.abs(logits - expected).max() < 0.01 * np.abs(expected).max()
        engine.rollback(len(TOKENS))
    engine.close()


def test_a_piece_that_read_nothing_may_stand_anywhere(tmp_path: Path) -> None:
    """In a model of one layer keys and values depend on token and position alone."""
    model = make_folder(tmp_path / "model", num_hidden_layers=1)
    engine = OnnxRuntimeEngine.load(build_tiny(tmp_path, model), exact=True)
    engine.append(TOKENS)
    parts = [engine.shelve(0, 10), engine.shelve(10, 25), engine.shelve(25, 40)]
    for order in ((1, 0, 2), (2, 1), (0, 2), (2, 2, 0)):
        engine.gather([parts[index] for index in order])
        got = engine.append([7, 8], last=2).copy()
        engine.rollback(0)
        spans = [TOKENS[:10], TOKENS[10:25], TOKENS[25:]]
        engine.append([token for index in order for token in spans[index]])
        expected = engine.append([7, 8], last=2)
        assert np.abs(got - expected).max() < 0.01 * np.abs(expected).max()
    engine.close()


def test_wrong_pieces(tmp_path: Path) -> None:
    engine = OnnxRuntimeEngine.load(build_tiny(tmp_path, make_folder(tmp_path / "model")))
    with pytest.raises(ValueError, match="no pieces"):
        engine.gather([0])
    engine.append(TOKENS)
    for start, end in ((-1, 3), (3, 3), (0, 41)):
        with pytest.raises(ValueError, match="no tokens"):
            engine.shelve(start, end)
    piece = engine.shelve(0, 40)
    for wrong in ([], [1], [-1]):
        with pytest.raises(ValueError, match="piece"):
            engine.gather(wrong)
    with pytest.raises(ContextOverflowError):
        engine.gather([piece] * 7)
    assert engine.length == len(TOKENS)
    engine.close()
