"""The text around a command: a prefix that never changes, the sentence, and a suffix."""

from __future__ import annotations

from collections.abc import Sequence

from quant_llm_ros.command.calls import MISSING, UNKNOWN
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.engine.tokenizer import Tokenizer

_INSTRUCTION = (
    "You turn what people say to a robot into calls of its skills. Copy names from the sentence. "
    f"Write {MISSING} for a value that was not said. "
    f"Answer {UNKNOWN} when it is not a command.\nSkills:\n"
)


class Prompt:
    """The prompt of a registry in the ChatML form.

    The user's text is tokenized by itself and with special tokens off: whatever it says, it cannot
    leave its place.
    """

    def __init__(
        self,
        registry: SkillRegistry,
        tokenizer: Tokenizer,
        *,
        examples: bool,
        instruction: str | None = None,
    ) -> None:
        """Write and tokenize everything but the sentence.

        Args:
            registry: The skills that the model chooses among.
            tokenizer: The model's tokenizer.
            examples: Whether the prompt shows the first example of each skill. A model as it comes
                needs them; one that was fine-tuned for the task was trained without.
            instruction: Another instruction, skills included; None: the one of the notation of
                calls.
        """
        self._tokenizer = tokenizer
        system = instruction or _INSTRUCTION + "\n".join(
            f"{skill.signature}: {skill.description}" for skill in registry.skills.values()
        )
        prefix = self._turn("system", system)
        for say, calls in _examples(registry) if examples else ():
            prefix += self._turn("user", say) + self._turn("assistant", calls)
        self.prefix: tuple[int, ...] = (*prefix, *self._open("user"))
        """Tokens before the sentence; the same for every command."""
        self.suffix: tuple[int, ...] = (*self._close(), *self._open("assistant"))
        """Tokens after the sentence."""

    def after_prefix(self, sentence: str, before: Sequence[tuple[str, str]] = ()) -> list[int]:
        """Give the tokens that one sentence adds to the prefix.

        Args:
            sentence: The sentence.
            before: Sentences of the same conversation before it, with the answers to them.
        """
        tokens: list[int] = []
        for said, answer in before:
            tokens += [*self._tokenizer.encode(said), *self.suffix]
            tokens += [*self._tokenizer.encode(answer), *self._close(), *self._open("user")]
        return [*tokens, *self._tokenizer.encode(sentence), *self.suffix]

    def _turn(self, role: str, text: str) -> list[int]:
        return [*self._open(role), *self._tokenizer.encode(text), *self._close()]

    def _open(self, role: str) -> list[int]:
        return [self._tokenizer.turn_start, *self._tokenizer.encode(f"{role}\n")]

    def _close(self) -> list[int]:
        return [self._tokenizer.turn_end, *self._tokenizer.encode("\n")]


def _examples(registry: SkillRegistry) -> list[tuple[str, str]]:
    # Commands and small talk take turns, so that neither is what always comes at the end.
    pairs = [(e.say, e.calls) for skill in registry.skills.values() for e in skill.examples[:1]]
    step = max(1, len(pairs) // (len(registry.not_commands) + 1))
    for index, text in enumerate(registry.not_commands):
        pairs.insert(min(len(pairs), (index + 1) * step + index), (text, UNKNOWN))
    return pairs
