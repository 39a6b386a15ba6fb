"""The projection for boards that nobody here has: it is what its inputs give."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import yaml


@pytest.fixture(scope="module")
def projection(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("projection", repository / "tools/projection.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_its_inputs_give(repository: Path, projection: ModuleType) -> None:
    inputs = yaml.safe_load((repository / "docs/projection.yaml").read_text())
    assert projection.text(inputs) == (repository / "docs/projection.md").read_text()


def test_the_sums(projection: ModuleType) -> None:
    """100 tokens a second: 10 ms a token; one later pass of 1.5 such, or 10 more tokens."""
    both = {"p50": 2, "p90": 3}
    row = {"board": "B", "model": "M", "precision": "P", "prefill_ms": 20, "decode_tok_s": 100}
    page = projection.text(
        {
            "published": {"source": "s", "prefill_tokens": 9, "rows": [{**row, "memory_mb": 7}]},
            "measured": {
                "source": "m",
                "passes": both,
                "tokens": {"p50": 11, "p90": 21},
                "json_tokens": {"p50": 31, "p90": 41},
                "new_tokens": both,
            },
            "assumed": {"source": "a", "pass_over_decode": 1.5},
        }
    )
    assert "| B | M | P | 35/50 ms | 120/220 ms | 320/420 ms | 3.4 × | 7 MB |" in page
    assert "not a measurement. Not run on hardware" in page
