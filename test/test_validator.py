"""From the model's calls to a status: units, limits, places, questions."""

import pytest
from scripted import SKILLS_PATH
import yaml

from quant_llm_ros.command.amounts import find_amounts
from quant_llm_ros.command.calls import parse
from quant_llm_ros.command.decision import Decision, Safety, SkillCall, Status
from quant_llm_ros.command.names import KnownNames
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.command.text import words
from quant_llm_ros.command.validator import Validator

SKILLS = SkillRegistry.load(SKILLS_PATH)
DOCUMENT = yaml.safe_load(SKILLS_PATH.read_text())


def with_places(places):
    """Give a validator for the default skills in a building with known places."""
    return Validator(SkillRegistry.from_document({**DOCUMENT, "places": places}, source="test"))


@pytest.mark.parametrize(
    ("answer", "arguments"),
    [
        ("move(direction=forward, distance=2 m)", {"direction": "forward", "distance_m": 2.0}),
        ("move(direction=left, distance=50 cm)", {"direction": "left", "distance_m": 0.5}),
        ("move(direction=left, distance=3 ft)", {"direction": "left", "distance_m": 0.9144}),
        ("turn(direction=left)", {"direction": "left", "angle_deg": 90.0}),
        ("turn(direction=around)", {"direction": "around", "angle_deg": 180.0}),
        ("turn(direction=left, angle=0.5 turn)", {"direction": "left", "angle_deg": 180.0}),
        ("turn(direction=right, angle=360 deg)", {"direction": "right", "angle_deg": 360.0}),
        ("bring(object=mug)", {"object": "mug"}),
        ("go_to(place=anywhere)", {"place": "anywhere"}),
    ],
)
def test_accepted(answer, arguments):
    """Values come in the unit of the decision, defaults filled in."""
    outcome = Validator(SKILLS).check(parse(answer))
    assert outcome.status is Status.ACCEPTED
    assert outcome.message == ""
    assert dict(outcome.calls[0].arguments) == arguments


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        ("unknown", Status.UNKNOWN, "that is not a command for this robot"),
        ("stop()", Status.STOP, "the command says to stop"),
        ("stop(); go_to(place=hall)", Status.STOP, "the command says to stop"),
        (
            "move(direction=forward, distance=2 km)",
            Status.REJECTED,
            "move: distance 2000 m is more than the limit of 20 m",
        ),
        (
            "move(direction=forward, distance=1 mm)",
            Status.REJECTED,
            "move: distance 0.001 m is less than the limit of 0.01 m",
        ),
        ("move(direction=forward, distance=?)", Status.CLARIFY, "How far should I drive?"),
        (
            "turn(direction=left, angle=-90 deg)",
            Status.REJECTED,
            "turn: angle -90 deg is less than the limit of 1 deg",
        ),
        ("move(direction=?, distance=?)", Status.CLARIFY, "In which direction should I drive?"),
        ("go_to(place=hall); bring(object=?)", Status.CLARIFY, "What should I bring?"),
        (
            "go_to(place=?); turn(direction=left, angle=361 deg)",
            Status.REJECTED,
            "turn: angle 361 deg is more than the limit of 360 deg",
        ),
    ],
)
def test_refused(answer, status, message):
    """One call that does not hold, and none is carried out."""
    outcome = Validator(SKILLS).check(parse(answer))
    assert (outcome.status, outcome.message) == (status, message)
    assert [c.skill for c in outcome.calls] == (["stop"] if status is Status.STOP else [])


def test_known_places():
    """With known places a place has its own name, or is asked back."""
    validator = with_places({"kitchen": ["cooking area"], "hall": None})
    for said in ("kitchen", "Kitchen", "cooking area", "the kitchen"):
        outcome = validator.check(parse(f"go_to(place={said})"))
        assert outcome.calls[0].arguments["place"] == "kitchen"
    outcome = validator.check(parse("bring(object=cup, destination=me)"))
    assert outcome.calls[0].arguments["destination"] == "me"  # no list of places has the speaker
    outcome = validator.check(parse("go_to(place=moon)"))
    assert outcome.status is Status.CLARIFY
    assert outcome.message == "I know no 'moon'; I know kitchen, hall"


def test_known_objects():
    """With known things a name is mended or asked back, for the arguments that say so."""
    validator = Validator(SKILLS)
    validator.known = {**validator.known, "objects": KnownNames({"red cup": ["mug"]})}
    for said in ("red cup", "mug", "red cub", "the red cup on the table"):
        outcome = validator.check(parse(f"pick(object={said})"))
        assert outcome.calls[0].arguments["object"] == "red cup"
    assert validator.check(parse("pick(object=bottle)")).status is Status.CLARIFY
    assert validator.check(parse("look(target=bottle)")).status is Status.ACCEPTED


def test_a_stop_at_the_end_ends_a_sequence():
    """«Turn left, then stop» is a sequence; «stop, then turn left» is a stop."""
    outcome = Validator(SKILLS).check(parse("turn(direction=left); stop()"))
    assert [call.skill for call in outcome.calls] == ["turn"]
    assert Validator(SKILLS).check(parse("stop(); turn(direction=left)")).status is Status.STOP


@pytest.mark.parametrize(
    ("sentence", "answer", "status"),
    [
        ("forward two meters turn left ninety degrees", "move(direction=forward, distance=2 m)",
         Status.CLARIFY),
        ("forward two meters", "move(direction=forward, distance=2 m)", Status.ACCEPTED),
        ("forward one no two meters", "move(direction=forward, distance=2 m)", Status.ACCEPTED),
        ("look at the two meter stick", "look(target=two meter stick)", Status.ACCEPTED),
        ("sixty centimeters back, turn left, sixty centimeters forward",
         "move(direction=backward, distance=60 cm); turn(direction=left)", Status.CLARIFY),
        ("back sixty centimeters yes sixty centimeters",
         "move(direction=backward, distance=60 cm)", Status.ACCEPTED),
    ],
)  # fmt: skip
def test_no_amount_is_passed_over(sentence, answer, status):
    """A decision that lacks an amount which was said has lost a part of the command."""
    said = words(sentence)
    assert Validator(SKILLS).check(parse(answer), said, find_amounts(said)).status is status


@pytest.mark.parametrize(
    ("sentence", "answer", "times"),
    [
        ("go forward two meters", "move(direction=forward, distance=2 m)", 1),
        ("put the cup on the shelf", "place(object=cup, destination=shelf)", 1),
        ("forward two meters and again", "move(direction=forward, distance=2 m)", 2),
        ("forward two meters, forward two meters", "move(direction=forward, distance=2 m)", 2),
        ("forward two meters, then two meters", "move(direction=forward, distance=2 m)", 2),
        ("find the cup and find the cup", "find(object=cup)", 2),
        ("left and left", "turn(direction=left)", 2),
    ],
)
def test_what_is_said_once_is_done_once(sentence, answer, times):
    """A model that stutters does not make the robot drive twice as far."""
    said = words(sentence)
    outcome = Validator(SKILLS).check(
        parse(f"{answer}; {answer}; dock()"), said, find_amounts(said)
    )
    assert [call.skill for call in outcome.calls] == [answer.split("(")[0]] * times + ["dock"]


@pytest.mark.parametrize(
    ("sentence", "answer", "arguments"),
    [
        ("bring the cushions from the shed",
         "bring(object=cushions, source=shed, destination=cushions)",
         {"object": "cushions", "source": "shed"}),
        ("bring the box from the box to the box",
         "bring(object=box, source=box, destination=box)",
         {"object": "box", "source": "box", "destination": "box"}),
        ("put the cup on the shelf", "place(object=cup, destination=shelf)",
         {"object": "cup", "destination": "shelf"}),
        ("turn the lamp by the bed on", "switch(device=lamp by the bed on, state=on)",
         {"device": "lamp by the bed", "state": "on"}),
        ("turn on the lamp that is on", "switch(device=lamp that is on, state=on)",
         {"device": "lamp that is on", "state": "on"}),
        ("turn on on", "switch(device=on, state=on)", {"device": "on", "state": "on"}),
    ],
)  # fmt: skip
def test_words_said_once_are_one_argument(sentence, answer, arguments):
    """«From the doorstep» does not say to where, least of all to the doorstep."""
    said = words(sentence)
    (call,) = Validator(SKILLS).check(parse(answer), said, find_amounts(said)).calls
    assert dict(call.arguments) == arguments


def test_words_that_may_be_either_argument_are_asked_about():
    """«From» and «to» the doorstep are opposites."""
    said = words("bring the milk from the doorstep")
    answer = parse("bring(object=milk, source=doorstep, destination=doorstep)")
    outcome = Validator(SKILLS).check(answer, said)
    assert outcome.status is Status.CLARIFY
    assert outcome.message == "what is 'doorstep': source or destination?"


@pytest.mark.parametrize(
    ("sentence", "device", "known", "cut"),
    [
        ("the lamp on", "lamp on", [], "lamp"),
        ("the lamp on", "lamp on", ["lamp", "lamp on"], "lamp on"),
        ("turn the lamp on the left off", "lamp on the left", [], "lamp on the left"),
    ],
)
def test_a_name_is_cut_only_where_the_rest_is_one(sentence, device, known, cut):
    """A last word that is also a choice belongs to the name where it is known or would be torn."""
    document = yaml.safe_load(SKILLS_PATH.read_text())
    arguments = document["skills"]["switch"]["arguments"]
    arguments["device"]["known"] = "objects"
    arguments["side"] = {"type": "choice", "choices": ["left", "right"], "required": False}
    validator = Validator(SkillRegistry.from_document(document, source="test"))
    validator.known["objects"] = KnownNames(dict.fromkeys(known, ()))
    answer = parse(f"switch(device={device}, state={sentence.split()[-1]}, side=left)")
    (call,) = validator.check(answer, words(sentence)).calls
    assert call.arguments["device"] == cut


GOING = "go_to(place=hall)"
WATER = "unserved(part=water the plants)"


@pytest.mark.parametrize(
    ("answer", "status", "skills", "message"),
    [
        (f"{GOING}; {WATER}", Status.ACCEPTED, ["go_to"], "no skill serves 'water the plants'"),
        (
            f"{GOING}; {WATER}; unserved(part=sing)",
            Status.ACCEPTED,
            ["go_to"],
            "no skill serves 'water the plants' and 'sing'",
        ),
        (
            f"{WATER}; {GOING}",
            Status.CLARIFY,
            [],
            "no skill serves 'water the plants', and something comes after it; say the rest "
            "without it",
        ),
        (
            f"{GOING}; {WATER}; dock()",
            Status.CLARIFY,
            [],
            "no skill serves 'water the plants', and something comes after it; say the rest "
            "without it",
        ),
        (WATER, Status.UNKNOWN, [], "that is not a command for this robot"),
        (f"stop(); {WATER}", Status.STOP, ["stop"], "the command says to stop"),
        (
            f"{WATER}; bring(object=?)",
            Status.CLARIFY,
            [],
            "What should I bring? (no skill serves 'water the plants')",
        ),
        (
            f"move(direction=forward, distance=2 km); {WATER}",
            Status.REJECTED,
            [],
            "move: distance 2000 m is more than the limit of 20 m (no skill serves 'water the "
            "plants')",
        ),
        # A stop stays one, wherever it stands, unless it is the end of what is to be done.
        (f"{GOING}; stop(); {WATER}", Status.STOP, ["stop"], "the command says to stop"),
        (
            f"{GOING}; {WATER}; stop()",
            Status.ACCEPTED,
            ["go_to"],
            "no skill serves 'water the plants'",
        ),
        (f"{WATER}; stop()", Status.STOP, ["stop"], "the command says to stop"),
        (
            f"{GOING}; unserved(part=stop); {WATER}",
            Status.STOP,
            ["stop"],
            "the command says to stop",
        ),
        (
            f"{GOING}; unserved(part=halt and sing)",
            Status.STOP,
            ["stop"],
            "the command says to stop",
        ),
        (
            f"{GOING}; unserved(part=sing and then stop)",
            Status.ACCEPTED,
            ["go_to"],
            "no skill serves 'sing'",
        ),
        (
            f"{GOING}; unserved(part=stop the music)",
            Status.ACCEPTED,
            ["go_to"],
            "no skill serves 'stop the music'",
        ),
    ],
)
def test_what_no_skill_serves_is_said(answer, status, skills, message):
    outcome = Validator(SKILLS).check(parse(answer))
    assert (outcome.status, outcome.message) == (status, message)
    assert [call.skill for call in outcome.calls] == skills
    assert bool(outcome.unserved) == ("water" in answer or "sing" in answer or "music" in answer)


def test_an_amount_in_an_unserved_part_is_not_passed_over():
    sentence = words("drive two meters and wait five minutes")
    raw = parse("move(direction=forward, distance=2 m); unserved(part=wait five minutes)")
    outcome = Validator(SKILLS).check(raw, sentence, find_amounts(sentence, ("m", "min")))
    assert outcome.status is Status.ACCEPTED
    assert outcome.unserved == ("wait five minutes",)


def test_safety_comes_from_the_registry():
    """A skill that needs confirmation says so in the call."""
    outcome = Validator(SKILLS).check(parse("open(object=door); dock()"))
    assert [call.safety for call in outcome.calls] == [Safety.CONFIRM, Safety.SAFE]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("fly()", "no skill 'fly'"),
        ("dock(place=x)", "dock has no argument 'place'"),
        ("turn(direction=up)", "is not one of its choices"),
        ("move(direction=left, distance=2)", "is not a quantity"),
        ("move(direction=left, distance=2 kg)", "is not a quantity"),
        ("dock(); unserved()", "needs part="),
        ("dock(); unserved(part=?)", "needs part="),
        ("dock(); unserved(part=sing, tune=b)", "needs part="),
    ],
)
def test_what_the_grammar_rules_out_is_still_refused(answer, says):
    """The validator does not trust that the grammar was in force."""
    with pytest.raises(ValueError, match=says):
        Validator(SKILLS).check(parse(answer))


@pytest.mark.parametrize(
    "parts",
    [
        {"status": Status.ACCEPTED},
        {"status": Status.STOP, "message": "m"},
        {"status": Status.UNKNOWN, "calls": (SkillCall("s", {}),), "message": "m"},
        {"status": Status.UNKNOWN},
        {"status": Status.ACCEPTED, "calls": (SkillCall("s", {}),), "message": "m"},
        {"status": Status.ERROR, "message": "m", "confidence": 1.5},
        {"status": Status.ERROR, "message": "m", "confidence": float("nan")},
    ],
)
def test_contradictory_decisions_cannot_be_made(parts):
    """A decision checks itself."""
    with pytest.raises(ValueError):
        Decision(text="t", **parts)


def test_decisions_are_read_only():
    """Nobody changes a decision after it was checked."""
    call = SkillCall("s", {"a": 1.0})
    with pytest.raises(TypeError):
        call.arguments["a"] = 2.0
