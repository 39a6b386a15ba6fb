"""Stop phrases: recognized without the model, so that a stop never waits for it."""

from __future__ import annotations

import re
import unicodedata

from quant_llm_ros.command.skills import SkillRegistry

# No stop needs more; it bounds the work on a text that a stranger may have sent.
_MAX_CHARS = 200

_NOT_WORD = re.compile(r"[^\w']+")


def _normalize(text: str) -> str:
    plain = unicodedata.normalize("NFKC", text).replace("’", "'").casefold()
    return _NOT_WORD.sub(" ", plain.replace("_", " ")).strip()


class StopGuard:
    """Tells whether a text says nothing but «stop»."""

    def __init__(self, registry: SkillRegistry) -> None:
        """Compile the registry's stop phrases and fillers."""

        def either(phrases: tuple[str, ...]) -> str:
            # Longest first, so that "stop moving" is not read as "stop" and a rest.
            ordered = sorted({_normalize(p) for p in phrases} - {""}, key=len, reverse=True)
            return "|".join(re.escape(phrase) for phrase in ordered) or "(?!)"

        stop, filler = either(registry.stop_phrases), either(registry.fillers)
        self._pattern = re.compile(rf"(?:(?:{filler}) )*(?:{stop})(?: (?:{stop}|{filler}))*")

    def __call__(self, text: str) -> bool:
        """Tell whether the whole text is stop phrases, with fillers around them."""
        if len(text) > _MAX_CHARS:
            return False
        return self._pattern.fullmatch(_normalize(text)) is not None
