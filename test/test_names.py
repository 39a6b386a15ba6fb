"""Known names: what is mended, what is asked back, what is accepted."""

import pytest

from quant_llm_ros.command.names import KnownNames

PLACES = KnownNames(
    {
        "kitchen": ["cooking area"],
        "living room": ["lounge"],
        "meeting room 12": ["conference room twelve"],
        "meeting room 13": [],
        "lab a": ["chemistry workshop"],
        "bathroom": ["restroom"],
        "bedroom": [],
    }
)


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("kitchen", "kitchen"),
        ("the Kitchen", "kitchen"),
        ("to the kichen", "kitchen"),
        ("kitchen over there", "kitchen"),
        ("Lounge", "living room"),
        ("living rom", "living room"),
        ("meeting room twelve", "meeting room 12"),
        ("meetng room 13", "meeting room 13"),
        ("bath room", "bathroom"),
        ("workshop", "lab a"),
        ("me", "me"),
    ],
)
def test_what_is_meant(said, name):
    """Slips, other names and more words than needed are no hindrance."""
    assert PLACES.match(said).name == name


@pytest.mark.parametrize(
    ("said", "options"),
    [
        ("meeting room 14", "meeting room"),  # one wrong digit is another room
        ("lab b", "lab a"),
        ("the room", "living room"),  # and others
        ("moon", ""),
    ],
)
def test_what_is_asked_back(said, options):
    """What could be several places, or none, is asked."""
    match = PLACES.match(said)
    assert match.name == ""
    question = PLACES.question(said, match)
    assert said in question
    assert options in question


def test_no_names_accept_every_name():
    """Without a list anything that is said is a name."""
    assert KnownNames({}).match("the moon").name == "the moon"


def test_a_name_of_two_is_refused():
    """A name that two places share could never be understood."""
    with pytest.raises(ValueError, match="'Den' names both 'cave' and 'study'"):
        KnownNames({"cave": ["den"], "study": ["Den"]})
