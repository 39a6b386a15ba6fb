"""Stop phrases: all of them, and nothing but them."""

import time

import pytest
from scripted import SKILLS_PATH

from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.command.stop_guard import StopGuard

GUARD = StopGuard(SkillRegistry.load(SKILLS_PATH))


@pytest.mark.parametrize(
    "text",
    [
        "STOP" + "!" * 200, "Stop!" + " " * 300, "stop " * 41, "dont move", "don 't move",
        "hold still", "would you stop", "please 'stop'", "that 's enough", "'Stop!'",
        "stop \ufffd",
        "stop", "STOP!", "Stop.", "please stop", "stop please", "stop now!", "stop stop stop",
        "robot, stop!", "hey robot stop right now", "halt", "freeze", "Don't move!", "don’t move",
        "do not move", "emergency stop", "stop moving", "  stop  ", "stop, please, immediately",
        "oh no, stop", "ＳＴＯＰ", "could you stop", "i said stop", "whoa", "that's enough",
    ],
)  # fmt: skip
def test_stops(text):
    """Whatever says nothing but «stop» is a stop."""
    assert GUARD(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "please", "robot", "stop the music", "stop at the door", "go to the bus stop",
        "do not stop", "don't stop", "never stop", "when should i stop", "stopping", "non stop",
        "find the stop sign", "hold the cup", "move", "freeze the peas", "unstoppable",
        "cancel my appointment", "stop" + " x" * 5000, "say stop",
    ],
)  # fmt: skip
def test_is_not_fooled(text):
    """A sentence that merely has such a word is left to the model."""
    assert not GUARD(text)


@pytest.mark.parametrize(
    "text",
    [
        "careful, the vase! stop", "look out your left foot stop now", "Danger! A car! Stop!",
        "hey, be careful: the dog, stop, it's under you", "stop! watch out, the wall",
    ],
)  # fmt: skip
def test_a_warning_may_stand_beside_a_stop(text):
    """What is warned of is no command of its own."""
    assert GUARD(text)


@pytest.mark.parametrize(
    "text",
    [
        "the vase stop", "careful, the vase", "careful, turn left and stop", "be careful the",
        "watch out for the bus stop", "careful, the door on the left and then stop",
        "attention the stop sign", "beware of the", "careful take the vase and stop",
    ],
)  # fmt: skip
def test_a_warning_hides_no_command(text):
    """Only a short name may stand behind a warning, and only where it is said to stop."""
    assert not GUARD(text)


def test_hostile_text_costs_no_time():
    """No text makes the pattern search for long (linear work, bounded length)."""
    start_s = time.process_time()
    for text in (
        "please " * 150 + "x",
        "no " * 60 + "!",
        "stop " * 39 + "y",
        "careful the " * 99,
        "x" * 10_000_000,
    ):
        assert not GUARD(text)
    assert time.process_time() - start_s < 1.0
