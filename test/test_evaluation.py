"""Figures over a dataset: what counts as right, and which rows are refused."""

import json

import pytest
from scripted import SKILLS_PATH

from quant_llm_ros.command.decision import Decision, SkillCall, Status
from quant_llm_ros.command.evaluation import evaluate, fits, judge, load_dataset
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.command.text import bare_name
from quant_llm_ros.errors import DatasetError

SKILLS = SkillRegistry.load(SKILLS_PATH)


def rows(tmp_path, *objects):
    """Write a dataset and read it back."""
    path = tmp_path / "set.jsonl"
    path.write_text("\n".join(o if isinstance(o, str) else json.dumps(o) for o in objects))
    return load_dataset(path)


def accepted(*calls):
    """Make a decision of calls."""
    return Decision(
        text="t",
        status=Status.ACCEPTED,
        calls=tuple(SkillCall(skill, arguments) for skill, arguments in calls),
    )


def other(status):
    """Make a decision without calls."""
    return Decision(text="t", status=status, message="m")


BRING = {
    "text": "t",
    "calls": [
        {
            "skill": "bring",
            "args": {"object": {"any_of": ["mug", "red mug"]}, "destination": {"any_of": ["me"]}},
        }
    ],
}
MOVE = {
    "text": "t",
    "calls": [
        {"skill": "move", "args": {"direction": {"any_of": ["left"]}, "distance_m": {"near": 2}}}
    ],
}
NOTHING = {"text": "t", "calls": []}


@pytest.mark.parametrize(
    ("row", "decision", "skills_exact", "all_exact"),
    [
        (BRING, accepted(("bring", {"object": "the Red Mug", "destination": "to me"})), 1, 1),
        (BRING, accepted(("bring", {"object": "mug", "destination": "me", "source": "x"})), 1, 0),
        (BRING, accepted(("bring", {"object": "mug"})), 1, 0),
        (BRING, accepted(("bring", {"object": "cup", "destination": "me"})), 1, 0),
        (BRING, accepted(("pick", {"object": "mug"})), 0, 0),
        (BRING, accepted(("bring", {"object": "mug", "destination": "me"}), ("dock", {})), 0, 0),
        (BRING, other(Status.CLARIFY), 0, 0),
        (MOVE, accepted(("move", {"direction": "left", "distance_m": 2.01})), 1, 1),
        (MOVE, accepted(("move", {"direction": "left", "distance_m": 2.1})), 1, 0),
        (NOTHING, other(Status.UNKNOWN), 1, 1),
        (NOTHING, accepted(("dock", {})), 0, 0),
        ({**NOTHING, "status": "REJECTED"}, other(Status.REJECTED), 1, 1),
        ({**NOTHING, "status": "REJECTED"}, other(Status.UNKNOWN), 1, 0),
    ],
)
def test_judge(tmp_path, row, decision, skills_exact, all_exact):
    """Names compare without articles and case, numbers within 1 %, arguments one for one."""
    verdict = judge(rows(tmp_path, row)[0], decision, SKILLS)
    assert (verdict.skills_exact, verdict.all_exact) == (bool(skills_exact), bool(all_exact))


def test_unserved_parts_have_to_be_right_too(tmp_path):
    row = {**MOVE, "unserved": [{"any_of": ["the plants", "water the plants"]}]}
    (row,) = rows(tmp_path, row)
    call = SkillCall("move", {"direction": "left", "distance_m": 2.0})
    for parts, right in ((("plants",), True), (("dogs",), False), (("plants", "plants"), False)):
        decision = Decision("t", Status.ACCEPTED, (call,), unserved=parts, message="m")
        verdict = judge(row, decision, SKILLS)
        assert verdict.all_exact
        assert (verdict.unserved_exact, verdict.right) == (right, right)
    assert not judge(row, accepted(("move", dict(call.arguments))), SKILLS).right
    figures = evaluate([row], lambda _: decision, SKILLS)
    assert (figures["all_exact"], figures["unserved_exact"], figures["right"]) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("text", "same_as"),
    [
        ("the red mug", "red mug"),
        ("On  the Table", "table"),
        ("to my room", "room"),
        ("the", "the"),
    ],
)
def test_normalize(text, same_as):
    """Words that do not change which thing is meant are left out."""
    assert bare_name(text) == same_as


@pytest.mark.parametrize(
    ("call", "valid"),
    [
        (SkillCall("move", {"direction": "left", "distance_m": 2.0}), True),
        (SkillCall("move", {"direction": "left", "distance_m": 2000.0}), False),
        (SkillCall("move", {"direction": "left", "distance_m": "2"}), False),
        (SkillCall("move", {"direction": "up", "distance_m": 2.0}), False),
        (SkillCall("move", {"direction": "left"}), False),
        (SkillCall("fly", {}), False),
        (SkillCall("dock", {"x": "y"}), False),
        (SkillCall("say", {"text": " "}), False),
    ],
)
def test_fits(call, valid):
    """Validity is checked apart from the validator that made the decision."""
    assert fits(call, SKILLS) is valid


def test_figures(tmp_path):
    """Shares have the right denominators."""
    dataset = rows(tmp_path, BRING, NOTHING, NOTHING, {**NOTHING, "status": "CLARIFY"})
    decisions = iter(
        [
            accepted(("bring", {"object": "mug"})),
            accepted(("dock", {})),
            other(Status.UNKNOWN),
            other(Status.CLARIFY),
        ]
    )
    figures = evaluate(dataset, lambda text: next(decisions), SKILLS)
    assert figures["n"] == 4
    assert figures["skills_exact"] == 0.75
    assert figures["all_exact"] == 0.5
    assert figures["status_exact"] == 1.0
    assert figures["accepted_wrongly"] == pytest.approx(1 / 3, abs=1e-6)
    assert figures["missed"] == 0.0
    assert figures["valid"] == 1.0
    assert set(figures["latency_ms"]) == {"p50", "p90", "p99"}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "set.jsonl:1: not JSON"),
        ("[]", 'must be an object with "text"'),
        ({"text": "t"}, '"calls" must be a list'),
        ({"text": "t", "calls": [], "status": "OK"}, "unknown status 'OK'; known are ACCEPTED"),
        ({"text": "t", "calls": ["x"]}, 'each call must be an object with "skill"'),
        ({"text": "t", "calls": [{"skill": "s", "args": []}]}, '"args" of s must be an object'),
        ({"text": "t", "calls": [{"skill": "s", "args": {"a": "x"}}]}, 's.a must be {"any_of"'),
        ({"text": "t", "calls": [], "unserved": "sing"}, '"unserved" must be a list'),
        (
            {"text": "t", "calls": [], "unserved": ["sing"]},
            '"unserved" must be a list of {"any_of"',
        ),
        ("", "no rows"),
    ],
)
def test_malformed_rows_are_named(tmp_path, line, says):
    """A dataset that cannot be read says where and why."""
    with pytest.raises(DatasetError) as caught:
        rows(tmp_path, line)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({"skill": "mvoe", "args": {}}, "there is no skill 'mvoe' in .*; did you mean 'move'?"),
        (
            {"skill": "move", "args": {"distance": {"near": 2}}},
            "move has no argument 'distance' in .*; did you mean 'distance_m'?",
        ),
    ],
)
def test_what_the_registry_does_not_have_is_a_mistake_of_the_dataset(tmp_path, call, says):
    """A row that no decision can get right would count against every model."""
    dataset = rows(tmp_path, {"id": "7", "text": "t", "calls": [call]})
    with pytest.raises(DatasetError, match=f"row 7: {says}"):
        evaluate(dataset, lambda row: other(Status.UNKNOWN), SKILLS)
