"""The notation of answers: what the grammar lets through is what the parser reads."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from scripted import make_tokenizer, SKILLS_PATH
import yaml

from quant_llm_ros.command import calls as notation
from quant_llm_ros.command import text as reading
from quant_llm_ros.command.calls import Grammar, RawCall
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.command.validator import Validator
from quant_llm_ros.engine.decoding import compile_grammar
from quant_llm_ros.engine.tokenizer import Tokenizer
from quant_llm_ros.errors import CommandError

SENTENCE = "please, bring me the red cup's lid (2.5 litres) from the kitchen."


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Give a small tokenizer."""
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def skills():
    """Give the default registry."""
    return SkillRegistry.load(SKILLS_PATH)


def matches(tokenizer, grammar, answer):
    """Tell whether a grammar allows a whole answer."""
    matcher = compile_grammar(tokenizer, grammar)
    tokens = tokenizer.guide.tokenize_str(answer)
    return matcher.validate_tokens(tokens) == len(tokens) and (
        matcher.consume_tokens(tokens) and matcher.is_accepting()
    )


@pytest.mark.parametrize(
    ("answer", "allowed"),
    [
        ("unknown", True),
        ("bring(object=red cup's lid, source=kitchen, destination=me)", True),
        ("bring(object=red cup's lid, destination=me)", True),
        ("bring(object=red)", True),
        ("bring(object=?)", True),
        ("dock()", True),
        ("move(direction=forward, distance=2.5 m)", False),  # an amount has to be said
        ("move(direction=?, distance=?)", True),
        ("turn(direction=left)", True),
        ("dock(); dock(); dock(); dock()", True),
        ("bring(object=2.5 litres)", True),
        ("dock(); unserved(part=please bring me)", True),
        ("unserved(part=kitchen); dock()", True),
        ("dock(); unserved(part=water the plants)", False),  # not in the sentence
        ("dock(); unserved()", False),
        ("dock(); unserved(part=?)", False),
        ("", False),
        ("unknown; dock()", False),
        ("dock(); dock(); dock(); dock(); dock()", False),
        ("fly()", False),
        ("bring()", False),  # a required argument cannot be left out
        ("bring(object=)", False),
        ("bring(object=blue cup)", False),  # nor a thing be invented
        ("bring(object=ed cup's)", False),  # words are whole
        ("bring(object=cup)", False),
        ("bring(object= red)", False),
        ("bring(object=Red)", False),
        ("bring(object=red lid)", False),  # and contiguous
        ("bring(object=red, source=?)", False),  # what is optional is left out, not asked for
        ("place(object=red, destination=?)", True),  # but where it has a question of its own
        ("bring(destination=me, object=red)", False),
        ("move(direction=up, distance=2 m)", False),
        ("move(direction=forward, distance=2 parsec)", False),
        ("turn(direction=left, angle=30 deg)", False),
        ("move(direction=forward, distance=2)", False),
        ("move(direction=forward, distance=1e9 m)", False),
    ],
)
def test_grammar(tokenizer, skills, answer, allowed):
    """The grammar allows complete calls over the words of the sentence, and nothing else."""
    grammar = Grammar(skills).for_sentence(reading.words(SENTENCE))
    assert matches(tokenizer, grammar, answer) is allowed
    if allowed:
        notation.parse(answer)


def test_optional_arguments_may_come_first(tokenizer):
    """No comma is left over when the first arguments are absent."""
    skills = SkillRegistry.from_document(
        yaml.safe_load(
            """
            version: 1
            name: r
            skills:
              s:
                description: d
                arguments:
                  a: {type: text, required: false}
                  b: {type: text, required: false}
                  c: {type: text}
              t:
                description: d
                arguments:
                  a: {type: text, required: false}
                  b: {type: text, required: false}
            """
        ),
        source="test",
    )
    grammar = Grammar(skills).for_sentence(["x"])
    for answer in (
        "s(c=x)", "s(a=x, c=x)", "s(b=x, c=x)", "s(a=x, b=x, c=x)",
        "t()", "t(a=x)", "t(b=x)", "t(a=x, b=x)",
    ):  # fmt: skip
        assert matches(tokenizer, grammar, answer), answer
    for answer in ("s()", "s(a=x)", "s(, c=x)", "t(, b=x)", "t(b=x, a=x)", "t(a=x, )"):
        assert not matches(tokenizer, grammar, answer), answer


def test_amounts_are_those_of_the_sentence(tokenizer, skills):
    """An argument takes the amounts that were said, in its own measure."""
    said = reading.words("go 50 cm then two feet and turn 30 degrees")
    grammar = Grammar(skills).for_sentence(said)
    for amount, allowed in (("50 cm", True), ("2 ft", True), ("2 m", False), ("30 deg", False)):
        answer = f"move(direction=forward, distance={amount})"
        assert matches(tokenizer, grammar, answer) is allowed, amount
    assert matches(tokenizer, grammar, "turn(direction=left, angle=30 deg)")
    assert not matches(tokenizer, grammar, "turn(direction=left, angle=50 cm)")


def test_what_was_said_before_can_be_named(tokenizer, skills):
    """Pieces and amounts of the sentence before count too, but no piece reaches over both."""
    grammar = Grammar(skills).for_sentence(["and", "back"], [["drive", "two", "meters", "ahead"]])
    assert matches(tokenizer, grammar, "move(direction=backward, distance=2 m)")
    assert matches(tokenizer, grammar, "look(target=two meters)")
    assert not matches(tokenizer, grammar, "look(target=back drive)")


def test_parse():
    """Calls come apart into names and texts."""
    assert notation.parse("unknown") == ()
    assert notation.parse("a(b=c d, e=2.5 m); f()") == (
        RawCall("a", {"b": "c d", "e": "2.5 m"}),
        RawCall("f", {}),
    )
    for broken in ("", "a", "a(", "a(b)", "a(b=c,d=e)", "a(b=c, b=d)", "a();b()", "a(b=c(d))"):
        with pytest.raises(ValueError, match="is not a"):
            notation.parse(broken)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80), st.integers(0, 2**32 - 1))
def test_every_walk_through_the_grammar_is_a_valid_answer(text, seed):
    """Whatever is said and whatever the model prefers, the answer parses and checks."""
    tokenizer, skills, validator = _walk_tools()
    try:
        words = reading.words(reading.clean(text, max_chars=512))
    except CommandError:
        return
    if not words:
        return
    rng = np.random.default_rng(seed)
    matcher = compile_grammar(tokenizer, Grammar(skills).for_sentence(words))
    tokens: list[int] = []
    while not matcher.is_stopped() and len(tokens) < 400:
        mask = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
        token = int(rng.choice(np.flatnonzero(mask)))
        assert matcher.consume_token(token), matcher.get_error()
        tokens.append(token)
    if not matcher.is_stopped():
        return  # a long piece of a long text; the decoding loop has a limit for that
    assert not matcher.is_error()
    validator.check(notation.parse(tokenizer.decode(tokens)))


_TOOLS: list = []


def _walk_tools():
    if not _TOOLS:
        import pathlib
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            skills = SkillRegistry.load(SKILLS_PATH)
            _TOOLS.append((make_tokenizer(pathlib.Path(folder)), skills, Validator(skills)))
    return _TOOLS[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bring me the cup", ["bring", "me", "the", "cup"]),
        ("go (now); to=the, kitchen!", ["go", "now", "to", "the", "kitchen"]),
        ("the cat's t-shirt", ["the", "cat's", "t-shirt"]),
        ("2.5 m, 3.", ["2.5", "m", "3"]),
        ("50% of 30°", ["50%", "of", "30°"]),
        ("turn -90 - then +5", ["turn", "-90", "then", "+5"]),
        ("<|im_end|> _x_", ["im_end", "x"]),
        ("für Öl 走 到", ["für", "Öl", "走", "到"]),
        ("... -- ?!", []),
    ],
)
def test_words(text, words):
    """Words are what an argument can copy; marks of the notation are never among them."""
    assert reading.words(text) == words


def test_clean():
    """Text is normalized; what is too long or no Unicode is refused."""
    assert reading.clean("  go\tto\x00 the\nkitchen ", max_chars=80) == "go to the kitchen"
    assert reading.clean("cafe\u0301", max_chars=80) == "caf\u00e9"
    with pytest.raises(CommandError, match="100000 characters; the limit is 512"):
        reading.clean("x" * 100_000, max_chars=512)
    with pytest.raises(CommandError, match="not valid Unicode at character 3"):
        reading.clean(b"go \xff".decode("utf-8", "surrogateescape"), max_chars=80)


def test_added_tokens_of_every_kind_are_plain_text(tmp_path):
    """A token that a model adds without calling it special cannot be typed either."""
    make_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    description = json.loads(path.read_text())
    added = {**description["added_tokens"][0], "id": 1001, "content": "<tool>", "special": False}
    description["added_tokens"].append(added)
    path.write_text(json.dumps(description))
    tokenizer = Tokenizer(path)
    assert 1001 not in tokenizer.encode("<tool>")
    assert tokenizer.decode(tokenizer.encode("a <tool> b")) == "a <tool> b"
