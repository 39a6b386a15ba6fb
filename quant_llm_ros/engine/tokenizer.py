"""The bundle's tokenizer, for text and for grammars."""

from __future__ import annotations

from collections.abc import Sequence
import json
import os
from pathlib import Path

import llguidance
import tokenizers

from quant_llm_ros.errors import BundleError

TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"


class Tokenizer:
    """A byte-level BPE tokenizer with the ChatML turn marks.

    Attributes:
        turn_start: Token that opens a turn of the conversation.
        turn_end: Token that closes it; the model ends its answer with it.
        guide: The same vocabulary as llguidance needs it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Load ``tokenizer.json``.

        Raises:
            BundleError: The file is missing, damaged, or has no ChatML turn marks.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
            self._tokenizer = tokenizers.Tokenizer.from_str(_all_special(text))
        except OSError as error:
            raise BundleError(f"{path}: {error.strerror}; rebuild the bundle") from error
        except Exception as error:  # the library raises plain Exception, and ValueError for UTF-8
            raise BundleError(f"{path}: not a tokenizer: {error}; rebuild the bundle") from error
        # What a person types is text, never a control token.
        self._tokenizer.encode_special_tokens = True
        self.vocab_size: int = self._tokenizer.get_vocab_size()
        self.turn_start = self._special(TURN_START, path)
        self.turn_end = self._special(TURN_END, path)
        self.guide = llguidance.LLTokenizer(text, eos_token=self.turn_end)

    def encode(self, text: str) -> list[int]:
        """Tokenize plain text; marks such as ``<|im_end|>`` in it are plain text too."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        """Give the text of tokens, special tokens left out."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text

    def _special(self, token: str, path: str | os.PathLike[str]) -> int:
        number = self._tokenizer.token_to_id(token)
        if number is None:
            raise BundleError(f"{path}: has no token {token}; only ChatML models can be served")
        return int(number)


def _all_special(text: str) -> str:
    """Mark every added token as special; some models leave ``<tool_call>`` and its like out."""
    description = json.loads(text)
    for token in description.get("added_tokens", ()):
        token["special"] = True
    return json.dumps(description)
