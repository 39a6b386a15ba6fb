"""onnxruntime-genai as a contender: with its guidance, and at its best.

It runs the bundle's own graph. With its guidance it answers in JSON, which keeps the prompt's
prefix (a generator is rewound to it), or in compact calls by the grammar of the sentence, for
which each sentence needs a generator of its own and so computes the prefix again. At its best it
runs this package's decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
import json
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant_llm_ros.benchmark import json_calls
from quant_llm_ros.benchmark.sample import Sample, written
from quant_llm_ros.command import calls as notation
from quant_llm_ros.command import text as reading
from quant_llm_ros.command.prompt import Prompt
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.command.validator import Validator
from quant_llm_ros.engine.bundle import TOKENIZER
from quant_llm_ros.engine.protocol import EngineInfo
from quant_llm_ros.engine.request import checked
from quant_llm_ros.engine.tokenizer import Tokenizer
from quant_llm_ros.errors import EngineError

USERS = "onnxruntime-genai, JSON schema"
GUIDED = "onnxruntime-genai, our grammar"
BEST = "onnxruntime-genai, at its best"


def load_library() -> Any:
    """Import onnxruntime-genai.

    Raises:
        EngineError: It is not installed.
    """
    try:
        import onnxruntime_genai
    except ImportError as error:
        raise EngineError(
            "onnxruntime-genai is not installed; run `pip install -r requirements/peers.txt`"
        ) from error
    return onnxruntime_genai


class GenaiEngine:
    """A generator of onnxruntime-genai behind this package's protocol, ``engine.protocol.Engine``.

    It gives the logits of the last token only, so it verifies no drafts.

    Attributes:
        info: Runtime and time to load.
        vocab_size: Number of tokens.
        context_length: Most tokens in the cache.
    """

    def __init__(self, folder: str, *, vocab_size: int, context_length: int) -> None:
        """Load a folder of ``quantize.genai_export``, which also says how many threads run it.

        Args:
            folder: The folder.
            vocab_size: Number of tokens.
            context_length: Most tokens in the cache.

        Raises:
            EngineError: onnxruntime-genai is not installed or cannot load the folder.
        """
        started = time.perf_counter()
        library = load_library()
        self.vocab_size = vocab_size
        self.context_length = context_length
        model = _load(library, folder)
        parameters = library.GeneratorParams(model)
        parameters.set_search_options(max_length=context_length)
        self._generator = library.Generator(model, parameters)
        self._length = 0
        self.info = EngineInfo(
            runtime=f"onnxruntime-genai {library.__version__}",
            provider="CPU",
            load_ms=(time.perf_counter() - started) * 1e3,
        )

    @property
    def length(self) -> int:
        """Number of tokens in the cache."""
        return self._length

    def append(
        self, tokens: Sequence[int], *, last: int = 1, at: Sequence[int] | None = None
    ) -> NDArray[np.float32]:
        """Run the model over new tokens; see ``engine.protocol.Engine.append``."""
        _, wanted = checked(self, tokens, last, at)
        if wanted.tolist() != [len(tokens) - 1]:
            raise ValueError("onnxruntime-genai gives the logits of the last token only")
        self._generator.append_tokens(np.asarray(tokens, np.int32))
        self._length += len(tokens)
        logits: NDArray[np.float32] = self._generator.get_logits().reshape(1, -1)
        return logits

    def rollback(self, length: int) -> None:
        """Forget every token after the first ``length``."""
        if not 0 <= length <= self._length:
            raise ValueError(f"cannot roll back to {length}: the cache holds {self._length}")
        if length < self._length:
            self._generator.rewind_to(length)
            self._length = length

    def mark(self) -> None:
        """Do nothing: there is no such hint."""

    def close(self) -> None:
        """Release the memory."""
        del self._generator


class GenaiGuided:
    """onnxruntime-genai generating under its own guidance.

    Attributes:
        runtime: Its version.
    """

    def __init__(
        self,
        folder: str,
        registry: SkillRegistry,
        *,
        compact: bool,
        examples: bool,
        context_length: int,
    ) -> None:
        """Load a folder of ``quantize.genai_export``.

        Args:
            folder: The folder.
            registry: The skills.
            compact: Answer in compact calls by the grammar of the sentence; else as JSON.
            examples: Whether the prompt of compact calls shows examples.
            context_length: Size of the cache, in tokens.

        Raises:
            EngineError: onnxruntime-genai is not installed or cannot load the folder.
        """
        self._library = load_library()
        self.runtime = f"onnxruntime-genai {self._library.__version__}"
        self._model = _load(self._library, folder)
        self._tokenizer = Tokenizer(f"{folder}/{TOKENIZER}")
        self._grammar = notation.Grammar(registry)
        self._validator = Validator(registry)
        self._json_decision = json_calls.JsonDecisions(registry)
        self._compact = compact
        self._context_length = context_length
        instruction = None if compact else json_calls.instruction(registry)
        self._prompt = Prompt(
            registry, self._tokenizer, examples=examples and compact, instruction=instruction
        )
        if not compact:
            schema = json_calls.schema(registry)
            # Its guidance would let the model write white space without end.
            schema["x-guidance"] = {"whitespace_flexible": False}
            self._kept = self._generator("json_schema", json.dumps(schema))
            self._kept.append_tokens(np.asarray(self._prompt.prefix, np.int32))

    def __call__(self, sentence: str) -> Sample:
        """Answer one cleaned sentence."""
        started = time.perf_counter()
        tokens = self._prompt.after_prefix(sentence)
        if self._compact:
            grammar = self._grammar.for_sentence(reading.words(sentence))
            generator = self._generator("lark_grammar", grammar)
            tokens = [*self._prompt.prefix, *tokens]
        else:
            generator = self._kept
            generator.rewind_to(len(self._prompt.prefix))
        generator.append_tokens(np.asarray(tokens, np.int32))
        prefilled = time.perf_counter()
        answer: list[int] = []
        passes = 0
        while not generator.is_done() and len(answer) < json_calls.MAX_TOKENS:
            generator.generate_next_token()
            passes += 1
            answer += map(int, generator.get_next_tokens())
        ended = time.perf_counter()
        text = self._tokenizer.decode(answer)
        return Sample(
            sentence=sentence,
            answer=text,
            decision=self._decision(sentence, text),
            total_ms=(ended - started) * 1e3,
            prefill_ms=(prefilled - started) * 1e3,
            decode_ms=(ended - prefilled) * 1e3,
            passes=passes,
            tokens=len(answer),
        )

    def costs(self) -> dict[str, float]:
        """Give nothing: its passes are measured in ``GenaiEngine``."""
        return {}

    def close(self) -> None:
        """Release the memory."""
        self._kept = None
        del self._model

    def _generator(self, kind: str, grammar: str) -> Any:
        parameters = self._library.GeneratorParams(self._model)
        parameters.set_search_options(max_length=self._context_length)
        parameters.set_guidance(kind, grammar)
        return self._library.Generator(self._model, parameters)

    def _decision(self, sentence: str, text: str) -> str:
        if not self._compact:
            return self._json_decision(text)
        words = reading.words(sentence)
        try:
            outcome = self._validator.check(
                notation.parse(text), words, self._grammar.amounts(words)
            )
        except ValueError:
            return json_calls.INVALID
        return written(outcome.status, outcome.calls, outcome.unserved)


def _load(library: Any, folder: str) -> Any:
    try:
        return library.Model(folder)
    except RuntimeError as error:
        raise EngineError(
            f"onnxruntime-genai cannot load {folder}: {error}; delete it, it is written again"
        ) from error
