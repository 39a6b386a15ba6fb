"""Human sentences become examples: the sensible one of several accepted strings is taken."""

from __future__ import annotations

import json

import pytest

from quant_llm_ros.command.evaluation import GoldCall, Row
from quant_llm_ros.training.corpus import default_kind
from quant_llm_ros.training.human import as_example, best_option, load_human


def answer(text, *calls):
    row = Row("1", text, tuple(GoldCall(skill, args) for skill, args in calls), None)
    example = as_example(row, default_kind().registry)
    return None if example is None else example.answer


@pytest.mark.parametrize(
    ("options", "sentence", "expected"),
    [
        (("box", "box behind", "box behind the", "box behind the tv"), "see the box behind the tv",
         "box behind the tv"),
        (("it", "radio"), "go to the radio and start it", "radio"),
        (("it",), "can you bring it", "it"),
        (("for my keys", "keys"), "search for my keys", "keys"),
        (("some bread", "bread"), "bring some bread", "bread"),
        (("over here", "here"), "come over here", "here"),
        (("straight to the hall", "hall"), "go straight to the hall", "hall"),
        (("cup", "red cup"), "take the cup", "cup"),
        (("spoon",), "take the cup", None),
    ],
)  # fmt: skip
def test_best_option(options, sentence, expected):
    assert best_option(options, sentence.split()) == expected


@pytest.mark.parametrize(
    ("text", "calls", "expected"),
    [
        ("the door is white", [], "unknown"),
        ("go to the hall", [("go_to", {"place": ("hall",)})], "go_to(place=hall)"),
        ("put the cup down", [("place", {"object": ("cup",)})],
         "place(object=cup)"),
        ("take the cup", [("pick", {"object": ("cup",)})], "pick(object=cup)"),
        ("activate the fan", [("switch", {"device": ("fan",)})], None),
        ("wave", [("wave", {})], None),
        ("drive two feet ahead", [("move", {"direction": ("forward",), "distance_m": 0.6096})],
         "move(direction=forward, distance=2 ft)"),
        ("drive ahead a bit", [("move", {"direction": ("forward",)})],
         "move(direction=forward, distance=?)"),
        ("find the cup and take it",
         [("find", {"object": ("cup",)}), ("pick", {"object": ("it", "cup")})],
         "find(object=cup); pick(object=cup)"),
    ],
)  # fmt: skip
def test_rows(text, calls, expected):
    assert answer(text, *calls) == expected


def test_a_file_is_read(tmp_path):
    rows = [
        {
            "id": "1",
            "text": "Go to the hall",
            "calls": [{"skill": "go_to", "args": {"place": {"any_of": ["hall"]}}}],
        },
        {"id": "2", "text": "good day", "calls": []},
        {"id": "3", "text": "fly", "calls": [{"skill": "fly", "args": {}}]},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    examples = load_human(path, default_kind().registry)
    assert [(e.text, e.answer) for e in examples] == [
        ("Go to the hall", "go_to(place=hall)"),
        ("good day", "unknown"),
    ]
    assert {e.kind for e in examples} == {"human"}
