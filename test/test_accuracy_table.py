"""The table of accuracies that the README shows."""

import importlib.util
import json
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def tool(repository: Path):
    """Import the tool, which is no part of the package."""
    spec = importlib.util.spec_from_file_location(
        "accuracy_table", repository / "tools" / "accuracy_table.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.bundle
def test_measures_own_and_other_sets(tool, bundle_path, tmp_path, monkeypatch, capsys):
    """Own sets come first; a decision that is wrong counts against its set, not the other one."""
    own = tmp_path / "own"
    own.mkdir()
    _write(
        own / "mine.jsonl",
        {"text": "stop", "status": "STOP", "calls": [{"skill": "stop"}]},
        {"text": "go to the kitchen", "calls": [{"skill": "follow", "args": {}}]},
    )
    other = _write(tmp_path / "other.jsonl", {"text": "how are you today", "calls": []})
    monkeypatch.setattr(tool, "OWN", own)
    written = tmp_path / "predictions"

    assert (
        tool.main(["--bundle", str(bundle_path), "--predictions", str(written), str(other)]) == 0
    )

    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| mine | 2 | 50.0 % | 50.0 % | 100.0 % |")
    assert lines[3].startswith("| other | 1 | 100.0 % | 100.0 % |  | 0.0 % |")
    assert "1 of 1 stops, 0 of 2 other sentences" in lines[-1]
    predictions = [json.loads(line) for line in (written / "mine.jsonl").open()]
    assert [p["right"] for p in predictions] == [True, False]


def test_a_missing_set_is_one_line(tool, tmp_path, monkeypatch, capsys):
    """What is wrong is said without a traceback."""
    monkeypatch.setattr(tool, "OWN", tmp_path)
    _write(tmp_path / "mine.jsonl", {"text": "stop", "calls": [{"skill": "stop"}]})
    assert tool.main([str(tmp_path / "none.jsonl")]) == 2
    output = capsys.readouterr()
    assert "none.jsonl: No such file" in output.err
    assert not output.out  # it is noticed before anything was measured
