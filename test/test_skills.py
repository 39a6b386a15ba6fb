"""The skill registry: what it reads, and what it says about a file that is wrong."""

import pytest
from scripted import SKILLS_PATH
import yaml

from quant_llm_ros.command.decision import Safety
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.command.validator import Validator
from quant_llm_ros.errors import SkillsError


def registry(text: str) -> SkillRegistry:
    """Read a registry from text."""
    return SkillRegistry.from_document(yaml.safe_load(text), source="skills.yaml")


def with_argument(fields: str, more: str = "") -> str:
    """Write a registry with one skill that has one argument."""
    return f"""
version: 1
name: r
skills:
  s:
    description: d
    arguments:
      a: {{{fields}}}
{more}
"""


def test_default_registry_is_complete_and_consistent():
    """The default set has the promised skills, and its own examples hold."""
    skills = SkillRegistry.load(SKILLS_PATH)
    Validator(skills)
    assert set(skills.names) == {
        "move", "turn", "go_to", "follow", "bring", "pick", "place", "find", "look", "switch",
        "open", "close", "say", "report", "dock", "stop",
    }  # fmt: skip
    names = {s.name: [a.decision_name for a in s.arguments] for s in skills.skills.values()}
    assert names["move"] == ["direction", "distance_m"]
    assert names["turn"] == ["direction", "angle_deg"]
    assert names["bring"] == ["object", "source", "destination"]
    assert skills.skills["open"].safety is Safety.CONFIRM
    assert all(skill.examples for skill in skills.skills.values())


def test_stop_is_always_there():
    """A registry that forgets «stop» gets it."""
    assert registry("{version: 1, name: r, skills: {s: {description: d}}}").names == ("s", "stop")


@pytest.mark.parametrize(
    ("unit", "said", "name"),
    [
        ("m", ["m", "cm", "ft"], "a_m"),
        ("deg", ["deg", "turn"], "a_deg"),
        ("mW", ["mW", "W"], "a_mW"),
        ("%", ["%"], "a_percent"),
        ("m/s", ["m/s", "km/h"], "a_m_per_s"),
        ("s", ["s", "min", "h"], "a_s"),
    ],
)
def test_units_are_part_of_the_name(unit, said, name):
    """A quantity is called by its unit in decisions."""
    skills = registry(with_argument(f"type: quantity, unit: '{unit}', units: {said}"))
    argument = skills.skills["s"].arguments[0]
    assert argument.decision_name == name
    assert argument.factors[unit] == 1.0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "the file must be a mapping"),
        ("{version: 2, name: r, skills: {}}", "version is 2; this release reads version 1"),
        ("{version: 1, name: r, skills: {}}", "skills is empty"),
        ("{version: 1, name: r, skils: {}}", "unknown key 'skils'; did you mean 'skills'?"),
        ("{version: 1, name: r, skills: {Go: {description: d}}}", "'Go' is not a name"),
        ("{version: 1, name: r, skills: {s: {}}}", "skills.s.description must be text"),
        ("{version: 1, name: r, skills: {on: {description: d}}}", "True must be text; put it in"),
        (
            "{version: 1, name: r, skills: {unserved: {description: d}}}",
            "skills.unserved: an answer says 'unserved' where no skill fits; choose another name",
        ),
        (
            "{version: 1, name: r, skills: {s: {description: d, safety: maybe}}}",
            "skills.s.safety is 'maybe'; use safe or confirm",
        ),
        (
            "{version: 1, name: r, skills: {stop: {description: d, arguments: {a: {type: text}}}}}",  # noqa: E501
            "skills.stop must have no arguments",
        ),
        (
            "{version: 1, name: r, skills: {stop: {description: d, safety: confirm}}}",
            "skills.stop.safety must be safe: nobody confirms a stop",
        ),
        ("{version: 1, name: r, stop_phrases: [], skills: {s: {description: d}}}", "is empty"),
        ("{version: 1, name: r, stop_phrases: ['!'], skills: {s: {description: d}}}", "no words"),
        ("{version: 1, name: r, skills: {s: {description: d, examples: 5}}}", "must be a list"),
        (with_argument("type: quantity, unit: µm"), "'µm' cannot be part of a name"),
        (
            "{version: 1, name: r, skills: {s: {description: d, arguments: "
            "{a: {type: quantity, unit: m}, a_m: {type: text}}}}}",
            "two arguments are called 'a_m' in decisions",
        ),
        (with_argument("type: choise"), "unknown type 'choise'; did you mean 'choice'?"),
        (with_argument("type: number"), "unknown type 'number'; known are quantity"),
        (with_argument("type: choice"), "skills.s.arguments.a.choices must be a list"),
        (with_argument("type: choice, choices: [on, off]"), "must be text, not True; put it in q"),
        (with_argument("type: choice, choices: ['a,b']"), "may have letters, digits"),
        (with_argument("type: choice, choices: [b, b]"), "must be different words"),
        (with_argument("type: text, unit: m"), "unknown key 'unit'"),
        (with_argument("type: quantity"), "skills.s.arguments.a.unit must be text"),
        (with_argument("type: quantity, unit: parsnip"), "'parsnip' is not defined"),
        (with_argument("type: quantity, unit: m, units: [s]"), "'s' cannot be converted to 'm'"),
        (with_argument("type: quantity, unit: degC, units: [degF]"), "have different zeros"),
        (with_argument("type: quantity, unit: m, units: ['m; x']"), "must be letters"),
        (with_argument("type: quantity, unit: m, min: 2, max: 1"), "min 2 is above max 1"),
        (with_argument("type: quantity, unit: m, max: .nan"), "max must be a number"),
        (with_argument("type: text, default: x"), "has a default and is required"),
        (
            with_argument("type: text, required: false, default: {b: {c: d}}"),
            "'b' is not a choice argument",
        ),
        (
            with_argument("type: text", "places: {hall: [k], kitchen: [k]}"),
            "'k' names both 'hall' and 'kitchen'",
        ),
        (with_argument("type: text", "places: {'a;b': []}"), "characters that no name can have"),
    ],
)
def test_errors_name_the_place_and_the_remedy(text, says):
    """A malformed file is refused with a message that a person can act on."""
    with pytest.raises(SkillsError, match=r"^skills\.yaml: ") as caught:
        registry(text)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            with_argument("type: quantity, unit: m, max: 1, required: false, default: 2 m"),
            "default '2 m' does not hold: s: a 2 m is more than the limit of 1 m",
        ),
        (
            with_argument("type: text", "    examples: [{say: x, calls: 't(a=b)'}]"),
            "'t(a=b)' does not hold: there is no skill 't'",
        ),
        (
            with_argument("type: text", "    examples: [{say: x, calls: 's(b=b)'}]"),
            "s has no argument 'b'",
        ),
        (
            with_argument("type: text", "    examples: [{say: x, calls: 's('}]"),
            "is not a call such as",
        ),
    ],
)
def test_examples_and_defaults_must_hold(text, says):
    """What the registry itself says is checked like what the model says."""
    # Indentation: the examples belong to the skill.
    skills = registry(text)
    with pytest.raises(SkillsError) as caught:
        Validator(skills)
    assert says in str(caught.value)


def test_missing_and_unreadable_files(tmp_path):
    """Files that are no YAML at all are named."""
    with pytest.raises(SkillsError, match=r"none\.yaml: No such file"):
        SkillRegistry.load(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    for content in (b"{a: [", b"\xff\xfe\x00", b"!!python/object:os.system {}"):
        broken.write_bytes(content)
        with pytest.raises(SkillsError, match=r"broken\.yaml: not readable as YAML"):
            SkillRegistry.load(broken)
