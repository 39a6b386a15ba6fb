"""Decoding under a grammar: a draft changes how many passes an answer takes, never the answer."""

from __future__ import annotations

from collections.abc import Sequence
import zlib

from hypothesis import example, given, settings
from hypothesis import strategies as st
import numpy as np
from numpy.typing import NDArray
import pytest
from scripted import make_tokenizer, ScriptedEngine, SKILLS_PATH

from quant_llm_ros.command.calls import Grammar
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.command.text import words
from quant_llm_ros.engine.decoding import Answer, compile_grammar, decode, Draft
from quant_llm_ros.engine.protocol import EngineInfo
from quant_llm_ros.engine.tokenizer import Tokenizer
from quant_llm_ros.errors import EngineError

GRAMMAR = Grammar(SkillRegistry.load(SKILLS_PATH))
SENTENCE = "bring me the red cup from the café and then turn left by 30 degrees"
WHOLE = "bring(object=red cup, source=café, destination=me); turn(direction=left, angle=30 deg)"
MAX_TOKENS = 200


class ModelEngine:
    """A model whose logits are a function of all tokens before, and lean to an answer.

    Attributes:
        lean: How much the next token of the answer is favoured over the noise of the others.
        passes: Number of tokens of each pass.
        cache: The tokens that it holds.
    """

    def __init__(self, tokenizer: Tokenizer, answer: str, lean: float) -> None:
        self.info = EngineInfo("model", "test", 0.0)
        self.vocab_size = tokenizer.vocab_size
        self.context_length = 4096
        self.lean = lean
        self.passes: list[int] = []
        self.cache: list[int] = []
        self._tokenizer = tokenizer
        self._answer = answer

    @property
    def length(self) -> int:
        return len(self.cache)

    def append(
        self, tokens: Sequence[int], *, last: int = 1, at: Sequence[int] | None = None
    ) -> NDArray[np.float32]:
        assert tokens
        before = len(self.cache)
        self.cache += tokens
        self.passes.append(len(tokens))
        asked = range(len(tokens) - last, len(tokens)) if at is None else at
        return np.stack([self._logits(self.cache[: before + index + 1]) for index in asked])

    def rollback(self, length: int) -> None:
        assert 0 <= length <= len(self.cache)
        del self.cache[length:]

    def mark(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _logits(self, context: list[int]) -> NDArray[np.float32]:
        seed = zlib.crc32(np.array(context, np.int64).tobytes())
        logits = np.random.default_rng(seed).normal(size=self.vocab_size).astype(np.float32)
        if self._tokenizer.turn_start not in context:
            return logits  # still in the prompt
        opened = len(context) - context[::-1].index(self._tokenizer.turn_start)
        said = self._tokenizer.decode(context[opened:])
        if self._answer.startswith(said):
            left = self._tokenizer.encode(self._answer[len(said) :])
            logits[left[0] if left else self._tokenizer.turn_end] += self.lean
        return logits


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def answer_with(
    engine: ModelEngine, tokenizer: Tokenizer, draft: Draft | None, sentence: str = SENTENCE
) -> Answer:
    matcher = compile_grammar(tokenizer, GRAMMAR.for_sentence(words(sentence)))
    prompt = [*tokenizer.encode(sentence), tokenizer.turn_start]
    prefilled: list[int] = []
    answer = decode(
        engine,
        tokenizer,
        matcher,
        prompt,
        max_tokens=MAX_TOKENS,
        before_pass=lambda: None,
        on_prefilled=lambda: prefilled.append(1),
        draft=draft,
    )
    assert prefilled == [1]
    # The engine holds the prompt and the beginning of what stands, and nothing else.
    held = tokenizer.decode(engine.cache[len(prompt) :])
    assert answer.text.startswith(held.rstrip("\ufffd"))
    return answer


@settings(max_examples=60, deadline=None)
@given(
    lean=st.sampled_from((0.0, 2.0, 4.0, 12.0)),
    meant=st.sampled_from((WHOLE, "unknown", "go_to(place=café); go_to(place=?)", "dock()")),
    guesses=st.lists(
        st.one_of(
            st.none(),
            st.just(WHOLE),
            st.sampled_from((WHOLE[:30], "", "unknown", "no answer at all", WHOLE + "; dock()")),
            st.builds(lambda cut, text: WHOLE[:cut] + text, st.integers(0, 60), st.text()),
        ),
        min_size=1,
        max_size=4,
    ),
    faithful=st.booleans(),
)
@example(lean=12.0, meant=WHOLE, guesses=[WHOLE], faithful=True)
def test_a_draft_never_changes_the_answer(
    tokenizer: Tokenizer, lean: float, meant: str, guesses: list[str | None], faithful: bool
) -> None:
    def draft(said: str) -> str | None:
        guess = guesses[len(said) % len(guesses)]
        # What goes on from what was said, or something that has nothing to do with it.
        return said + guess[len(said) :] if faithful and guess is not None else guess

    def run(draft: Draft | None) -> Answer | str:
        engine = ModelEngine(tokenizer, meant, lean)
        try:
            return answer_with(engine, tokenizer, draft)
        except EngineError as error:
            return str(error)

    plain, drafted = run(None), run(draft)
    if isinstance(plain, str) or isinstance(drafted, str):
        assert plain == drafted
        return
    assert (drafted.text, drafted.tokens, drafted.choices) == (
        plain.text,
        plain.tokens,
        plain.choices,
    )
    assert drafted.probability == pytest.approx(plain.probability, rel=1e-9)
    assert drafted.margin == plain.margin
    assert plain.drafted == 0
    assert drafted.accepted <= drafted.drafted <= drafted.choices


def test_a_right_draft_takes_one_pass(tokenizer: Tokenizer) -> None:
    engine = ModelEngine(tokenizer, WHOLE, lean=20.0)
    answer = answer_with(engine, tokenizer, lambda said: WHOLE)
    assert answer.text == WHOLE
    assert len(engine.passes) == 1
    assert answer.accepted == answer.drafted == answer.choices > 5


def test_without_a_draft_each_choice_takes_a_pass(tokenizer: Tokenizer) -> None:
    engine = ModelEngine(tokenizer, WHOLE, lean=20.0)
    answer = answer_with(engine, tokenizer, None)
    assert answer.text == WHOLE
    assert len(engine.passes) == answer.choices


@pytest.mark.parametrize(
    ("wrong", "passes"),
    [
        (WHOLE.replace("bring", "find"), 2),
        (WHOLE.replace("red cup", "cup"), 2),
        (WHOLE.replace("left", "right"), 2),
        (WHOLE.partition(";")[0], 2),
        (WHOLE + "; dock()", 1),  # the pass that refuses it ends the answer
    ],
)
def test_one_wrong_guess_costs_at_most_one_pass(
    tokenizer: Tokenizer, wrong: str, passes: int
) -> None:
    engine = ModelEngine(tokenizer, WHOLE, lean=20.0)

    def draft(said: str) -> str:
        return WHOLE if said and not wrong.startswith(said) else wrong

    assert answer_with(engine, tokenizer, draft).text == WHOLE
    assert len(engine.passes) == passes


def test_the_draft_is_asked_again_behind_a_wrong_guess(tokenizer: Tokenizer) -> None:
    engine = ModelEngine(tokenizer, WHOLE, lean=20.0)
    asked: list[str] = []

    def draft(said: str) -> str:
        asked.append(said)
        return "dock()" if not said else WHOLE

    assert answer_with(engine, tokenizer, draft).text == WHOLE
    assert len(asked) == len(engine.passes) == 2
    assert asked[0] == ""
    assert WHOLE.startswith(asked[1])


def test_passes_stay_short_enough_to_be_ended(tokenizer: Tokenizer) -> None:
    sentence = " ".join(["very"] * 300) + " far"
    engine = ModelEngine(tokenizer, "unknown", lean=20.0)
    long = "say(text=" + " ".join(["very"] * 300) + ")"
    assert answer_with(engine, tokenizer, lambda said: long, sentence).text == "unknown"
    assert max(engine.passes) <= 96
    assert len(engine.passes) > 5


def test_what_before_pass_raises_comes_through(tokenizer: Tokenizer) -> None:
    engine = ModelEngine(tokenizer, WHOLE, lean=20.0)
    passes = 0

    def before_pass() -> None:
        nonlocal passes
        passes += 1
        if passes == 2:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        decode(
            engine,
            tokenizer,
            compile_grammar(tokenizer, GRAMMAR.for_sentence(words(SENTENCE))),
            [*tokenizer.encode(SENTENCE), tokenizer.turn_start],
            max_tokens=MAX_TOKENS,
            before_pass=before_pass,
            on_prefilled=lambda: None,
            draft=lambda said: "dock()",
        )
    assert len(engine.passes) == 1


@pytest.mark.parametrize("draft", [None, lambda said: WHOLE])
def test_a_model_that_is_broken_is_noticed(tokenizer: Tokenizer, draft: Draft | None) -> None:
    engine = ModelEngine(tokenizer, WHOLE, lean=float("nan"))
    with pytest.raises(EngineError, match="output is not finite"):
        answer_with(engine, tokenizer, draft)


@pytest.mark.parametrize("draft", [None, lambda said: WHOLE])
def test_an_answer_that_does_not_end(
    tokenizer: Tokenizer, draft: Draft | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("test_decoding.MAX_TOKENS", 10)
    engine = ModelEngine(tokenizer, WHOLE, lean=20.0)
    with pytest.raises(EngineError, match="did not end within 10 tokens"):
        answer_with(engine, tokenizer, draft)


def test_an_engine_that_knows_only_the_last_position_serves_without_a_draft(
    tokenizer: Tokenizer,
) -> None:
    engine = ScriptedEngine(tokenizer, "dock()")
    answer = decode(
        engine,
        tokenizer,
        compile_grammar(tokenizer, GRAMMAR.for_sentence(["go", "home"])),
        [tokenizer.turn_start, *tokenizer.encode("assistant\n")],
        max_tokens=MAX_TOKENS,
        before_pass=lambda: None,
        on_prefilled=lambda: None,
    )
    assert answer.text == "dock()"
