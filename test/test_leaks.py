"""A measured sentence among training sentences is found, however it is written."""

from __future__ import annotations

import json

import pytest

from quant_llm_ros.errors import DatasetError
from quant_llm_ros.training.leaks import LeakCheck, normalized


@pytest.fixture
def measured(tmp_path):
    path = tmp_path / "measured.jsonl"
    texts = ["Bring me the red cup.", "come here", "there 's a box on the table"]
    path.write_text("\n".join(json.dumps({"text": text, "calls": []}) for text in texts))
    return path


@pytest.mark.parametrize(
    "text",
    [
        "bring me the red cup",
        "BRING ME THE RED CUP!!",
        "bring me, the red-cup",
        "bring  me the redcup",
        "there's a box on the table",
    ],
)
def test_found(measured, text):
    assert [said for said, _ in LeakCheck([measured]).find(["go away now", text])] == [text]


@pytest.mark.parametrize("text", ["bring me the blue cup", "bring me the red cup please"])
def test_not_found(measured, text):
    assert LeakCheck([measured]).find([text]) == []


def test_where_it_is_measured_is_named(measured):
    found = LeakCheck([measured]).find(["good morning", "Come here!"])
    assert found == [("Come here!", f"{measured}: {measured}:2")]


def test_without_measured_sets_nothing_leaks():
    assert LeakCheck([]).find(["bring me the red cup"]) == []


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(DatasetError):
        LeakCheck([tmp_path / "none.jsonl"])


def test_normalized():
    assert normalized("  It's  10 m, ok?") == "its10mok"


def test_allows(measured):
    """What training leaves out is exactly what is measured."""
    check = LeakCheck([measured])
    texts = ["Come here!", "come back", "bring me the red cup", "bring me the red cups"]
    assert [text for text in texts if check.allows(text)] == ["come back", "bring me the red cups"]
