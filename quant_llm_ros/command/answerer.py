"""The model's part of a decision: from a sentence to an answer in the notation of calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import os
from typing import Protocol

import llguidance

from quant_llm_ros.command import text as reading
from quant_llm_ros.command.amounts import Amount
from quant_llm_ros.command.calls import Grammar, MAX_CALLS
from quant_llm_ros.command.conversation import MAX_EXCHANGES
from quant_llm_ros.command.decision import Stage
from quant_llm_ros.command.drafter import Drafter
from quant_llm_ros.command.prompt import Prompt
from quant_llm_ros.command.shelf import append_in_chunks, keeps_lines_apart, Shelf
from quant_llm_ros.command.shortlist import DEFAULT_SHORTLIST, LARGE, Learned, Shortlist
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.engine import decoding
from quant_llm_ros.engine.decoding import Answer, compile_grammar, Draft
from quant_llm_ros.engine.protocol import Engine, Gathering
from quant_llm_ros.engine.tokenizer import Tokenizer
from quant_llm_ros.errors import CommandError

MAX_ANSWER_TOKENS = 384
"""Enough for four calls that each copy a good part of the longest command."""


class Decode(Protocol):
    """How an answer is decoded; see ``engine.decoding.decode``."""

    def __call__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        matcher: llguidance.LLMatcher,
        prompt: Sequence[int],
        *,
        max_tokens: int,
        before_pass: Callable[[], None],
        on_prefilled: Callable[[], None],
        draft: Draft | None = None,
    ) -> Answer:
        """Append a prompt to what the engine has in its cache and decode the answer."""


class Answerer:
    """Asks one model about one skill registry.

    What the prompt says before the sentence goes through the model once, here: the whole of it, or
    the lines of a large registry, from which each sentence gets those of its shortlist.

    Attributes:
        engine: The engine that runs the model.
        decode: How an answer is decoded. A benchmark puts another way here to compare.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        skills: SkillRegistry,
        *,
        max_command_chars: int,
        examples_in_prompt: bool = True,
        drafts: bool = True,
        drafter_file: str | os.PathLike[str] | None = None,
        shortlist: int = DEFAULT_SHORTLIST,
        learned: Learned | None = None,
    ) -> None:
        """Run the registry's prompt through the model.

        Args:
            engine: Engine that runs the model; the answerer is its only user.
            tokenizer: The model's tokenizer.
            skills: The registry to answer from.
            max_command_chars: Longest sentence, in characters.
            examples_in_prompt: Whether the model needs examples to be shown what to do.
            drafts: Whether answers are guessed, for the model to confirm in fewer passes.
            drafter_file: What the drafter has learned before; None: the registry's examples.
            shortlist: Number of skills that the model is shown for a sentence where the registry
                is large, the engine can gather and the tokenizer keeps lines apart; 0: always all.
                See ``command.shortlist``.
            learned: What the shortlist knows of some skills beside what the registry says.

        Raises:
            CommandError: The prompt does not fit into the model's context.
            EngineError: The registry's grammar does not compile, or the engine failed.
        """
        self.engine = engine
        self.decode: Decode = decoding.decode
        self._tokenizer = tokenizer
        self._grammar = Grammar(skills)
        # A registry whose grammar does not compile should fail here and not at the first command.
        compile_grammar(tokenizer, self._grammar.for_sentence(["word"]))
        self._prompt = Prompt(skills, tokenizer, examples=examples_in_prompt)
        self._drafter = Drafter(skills, drafter_file) if drafts else None
        self._shortlist: Shortlist | None = None
        self._among: tuple[str, ...] | None = None  # what the last sentence was answered from
        if shortlist > 0 and len(skills.skills) > LARGE and isinstance(engine, Gathering):
            choice = Shortlist(skills, shortlist, learned)
            if keeps_lines_apart(self._prompt, choice.common, skills.names):
                self._shortlist = choice
                longest = self._longest(skills, choice.common, shortlist)
                self._check_room(skills, max_command_chars, longest)
                self._shelf = Shelf(self._prompt, engine, choice.common, skills.names)
                return
        self._check_room(skills, max_command_chars, skills.names)
        engine.rollback(0)
        append_in_chunks(engine, self.prefix)
        engine.mark()

    @property
    def prefix(self) -> tuple[int, ...]:
        """Tokens before the sentence where all skills are shown."""
        return self._prompt.prefix

    @property
    def shortens(self) -> bool:
        """Whether each sentence is answered with a shortlist of the skills."""
        return self._shortlist is not None

    def amounts(self, sentence_words: Sequence[str]) -> tuple[Amount, ...]:
        """Find the amounts in a sentence that some argument of the registry can take."""
        return self._grammar.amounts(sentence_words)

    def answer(
        self,
        sentence: str,
        before: Sequence[tuple[str, str]],
        *,
        enter: Callable[[Stage], None],
        before_pass: Callable[[], None],
    ) -> Answer:
        """Answer one sentence.

        Args:
            sentence: The cleaned sentence; it has words.
            before: Cleaned sentences before it with their answers; left out where the context
                has no room for them.
            enter: Told each stage as it begins.
            before_pass: Called before every pass of the model; may raise to end decoding.

        Raises:
            EngineError: The model's output is of no use, or the engine failed. Whatever
                ``before_pass`` raises also comes through.
        """
        enter(Stage.GRAMMAR)
        among = self._among = self._shortlist(sentence, before) if self._shortlist else None
        # Whatever the last sentence left behind, even after an error, is forgotten here.
        if among is None:
            self.engine.rollback(len(self.prefix))
            opening: list[int] = []
        else:
            opening = self._shelf.gather(among)
        tokens = [*opening, *self._prompt.after_prefix(sentence, before)]
        if self.engine.length + len(tokens) + MAX_ANSWER_TOKENS > self.engine.context_length:
            # What was said before is worth less than an answer.
            before, tokens = (), [*opening, *self._prompt.after_prefix(sentence)]
        words_before = [reading.words(said) for said, _ in before]
        grammar = self._grammar.for_sentence(reading.words(sentence), words_before, among)
        matcher = compile_grammar(self._tokenizer, grammar)
        enter(Stage.PREFILL)
        return self.decode(
            self.engine,
            self._tokenizer,
            matcher,
            tokens,
            max_tokens=MAX_ANSWER_TOKENS,
            before_pass=before_pass,
            on_prefilled=lambda: enter(Stage.DECODE),
            draft=(self._drafter.for_sentence(sentence, before, among) if self._drafter else None),
        )

    def learn(self, sentence: str, answer: Answer, before: Sequence[tuple[str, str]]) -> None:
        """Let the drafter learn the last answer, which it did not guess, after the decision."""
        if self._drafter and answer.accepted < answer.choices:
            self._drafter.learn(sentence, answer.text, before, self._among)

    def _longest(
        self, skills: SkillRegistry, common: Sequence[str], count: int
    ) -> tuple[str, ...]:
        """Give the shortlist with the longest prompt."""
        always = self._prompt.examples(())

        def tokens(name: str) -> int:
            own = [pair for pair in self._prompt.examples([name]) if pair not in always]
            examples = sum(len(self._prompt.example(*pair)) for pair in own)
            return len(self._prompt.line(name)) + examples

        others = sorted(set(skills.names) - set(common), key=tokens, reverse=True)
        count = max(count, len(common) + MAX_CALLS * MAX_EXCHANGES)
        return (*common, *others[: count - len(common)])

    def _check_room(
        self, skills: SkillRegistry, max_command_chars: int, names: Sequence[str]
    ) -> None:
        prefix = len(self._prompt.prefix_of(names))
        needed = prefix + len(self._prompt.suffix) + MAX_ANSWER_TOKENS
        if needed + max_command_chars > self.engine.context_length:
            # A character is at most a few tokens and mostly a fraction of one: a rough bound that
            # tells the person before the first command does.
            skills_less = "fewer skills or examples"
            if self._shortlist:
                skills_less = "a smaller shortlist, shorter descriptions or fewer examples"
            elif len(names) > LARGE and isinstance(self.engine, Gathering):
                skills_less = f"{skills_less}, a shortlist ({DEFAULT_SHORTLIST} is usual)"
            raise CommandError(
                f"{skills.source}: the prompt of {len(names)} skills has {prefix} tokens; with a "
                f"command of {max_command_chars} characters and its answer it does not fit into "
                f"the context of {self.engine.context_length}: use {skills_less}, shorter "
                "commands, or a bundle with more context"
            )
