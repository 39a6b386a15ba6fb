"""Stop phrases: recognized without the model, so that a stop never waits for it."""

from __future__ import annotations

from collections.abc import Iterator

from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.command.text import spoken_words

# No stop has more; they bound the work on a text that a stranger may have sent.
_MAX_CHARS = 2000
_MAX_WORDS = 200
# What is warned of: «the baby», «my left foot», not «the door on the left then».
_MAX_WARNED = 4
_DETERMINERS = frozenset((
    "a", "an", "the", "this", "that", "these", "those", "my", "your", "his", "her", "its", "our",
    "their",
))  # fmt: skip


class StopGuard:
    """Tells whether a text says nothing but «stop»."""

    def __init__(self, registry: SkillRegistry) -> None:
        """Take the registry's stop phrases and what may stand beside them."""
        self._phrases = [(words, True) for words in map(spoken_words, registry.stop_phrases)]
        self._phrases += [(words, False) for words in map(spoken_words, registry.fillers) if words]
        self._warnings = [words for words in map(spoken_words, registry.stop_warnings) if words]
        self._phrases += [(words, False) for words in self._warnings]
        self._reasons = [words for words in map(spoken_words, registry.stop_reasons) if words]

    def __call__(self, text: str) -> bool:
        """Tell whether the whole text is stop phrases, with fillers, a warning and a reason."""
        if len(text) > _MAX_CHARS:
            return False
        words = spoken_words(text)
        if len(words) > _MAX_WORDS:
            return False
        # Which beginnings of the text are phrases, fillers and warnings, each with whether a stop
        # phrase is among them. No backtracking: the work is bounded by words times phrases.
        reached = {(0, False)}
        for start in range(len(words)):
            for stopped in (False, True):
                if (start, stopped) not in reached:
                    continue
                for phrase, is_stop in self._phrases:
                    if words[start : start + len(phrase)] == phrase:
                        reached.add((start + len(phrase), stopped or is_stop))
                for end in self._ends_of_warning(words, start):
                    reached.add((end, stopped))
            if (start, True) in reached and self._is_reason(words[start:]):
                return True
        return (len(words), True) in reached

    def _ends_of_warning(self, words: list[str], start: int) -> Iterator[int]:
        """Give the places where a warning that starts here may end, with what it warns of."""
        for warning in self._warnings:
            at = start + len(warning)
            if words[start:at] == warning and words[at : at + 1] and words[at] in _DETERMINERS:
                yield from range(at + 2, min(at + _MAX_WARNED, len(words)) + 1)

    def _is_reason(self, words: list[str]) -> bool:
        """Tell whether words say why to stop: whatever the reason is, it is no other command."""
        return any(words[: len(reason)] == reason for reason in self._reasons)
