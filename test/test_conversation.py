"""What was said before: how long it counts, and what the model sees of it."""

import pytest
from scripted import make_tokenizer, ScriptedEngine, SKILLS_PATH

from quant_llm_ros.command.conversation import Conversation
from quant_llm_ros.command.decision import Decision, SkillCall, Status
from quant_llm_ros.command.service import CommandService
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.command.understander import Understander

MOVE = (SkillCall("dock", {}),)


def decided(status, text="go home", answer="dock()"):
    """Make a decision."""
    accepted = status in (Status.ACCEPTED, Status.STOP)
    return Decision(
        text, status, MOVE if accepted else (), message="" if status == 0 else "x", answer=answer
    )


def test_the_last_exchange_is_remembered():
    """One exchange back, and a question counts as much as a decision."""
    conversation = Conversation()
    assert conversation.before() == ()
    conversation.note(decided(Status.ACCEPTED, "a", "dock()"))
    conversation.note(decided(Status.CLARIFY, "b", "go_to(place=?)"))
    assert conversation.before() == (("b", "go_to(place=?)"),)


@pytest.mark.parametrize(
    "status", [Status.UNKNOWN, Status.ERROR, Status.TIMEOUT, Status.CANCELLED]
)
def test_what_is_no_command_changes_nothing(status):
    """«Thank you» does not end what was spoken about."""
    conversation = Conversation()
    conversation.note(decided(Status.ACCEPTED))
    conversation.note(decided(status, answer="unknown"))
    assert conversation.before() == (("go home", "dock()"),)


def test_a_stop_ends_it_and_time_does():
    """After a stop «again» means nothing."""
    conversation = Conversation()
    conversation.note(decided(Status.ACCEPTED))
    conversation.note(decided(Status.STOP))
    assert conversation.before() == ()
    conversation.note(decided(Status.ACCEPTED))
    conversation.lasts_s = 0.0
    assert conversation.before() == ()


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Give a tokenizer and the skills."""
    return make_tokenizer(tmp_path_factory.mktemp("t")), SkillRegistry.load(SKILLS_PATH)


def test_a_sentence_can_take_names_from_the_one_before(parts):
    """A pronoun becomes what it stands for; alone, the same sentence cannot name it."""
    tokenizer, skills = parts
    engine = ScriptedEngine(tokenizer, "bring(object=red cup, destination=me)")
    understander = Understander(engine, tokenizer, skills)
    before = [("find the red cup", "find(object=red cup)")]
    together = understander.understand("bring it to me", before=before)
    assert together.calls[0].arguments == {"object": "red cup", "destination": "me"}
    alone = understander.understand("bring it to me")
    assert "red cup" not in str(alone.calls)


def test_a_conversation_that_is_too_long_is_left_out(parts):
    """A sentence is understood by itself rather than not at all."""
    tokenizer, skills = parts
    engine = ScriptedEngine(tokenizer, "dock()")
    understander = Understander(engine, tokenizer, skills)
    before = [(" ".join(["word"] * 100), "look(target=word)")] * 30
    assert understander.understand("go home", before=before).status is Status.ACCEPTED


def test_the_service_keeps_the_conversation(parts):
    """Commands of a service see the one before them, until a stop."""
    tokenizer, skills = parts
    seen = []

    class Recording(Understander):
        def understand(self, text, *, before=(), **others):
            seen.append((text, tuple(before)))
            return super().understand(text, before=before, **others)

    engine = ScriptedEngine(tokenizer, "dock()")
    service = CommandService(
        Recording(engine, tokenizer, skills), lambda command, decision: None, conversation_s=60.0
    )
    try:
        for text in ("go home", "again", "stop", "once more"):
            done = []
            service.submit(text, on_decision=done.append)
            while not done:
                pass
    finally:
        service.close()
    assert seen == [
        ("go home", ()),
        ("again", (("go home", "dock()"),)),
        ("once more", ()),
    ]
