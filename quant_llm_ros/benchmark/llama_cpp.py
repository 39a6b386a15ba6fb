"""llama.cpp as a contender: as its users run it, and at its best.

At its best it runs this package's own decoding: the same compact answers, prompt prefix in the
cache, masks by llguidance and forced tokens without a choice. So what differs is the runtime, and
the drafts. With drafts too it shows what is left to the runtime alone.
"""

from __future__ import annotations

from collections.abc import Sequence
import functools
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant_llm_ros.benchmark import json_calls
from quant_llm_ros.benchmark.sample import Sample
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.engine.protocol import EngineInfo
from quant_llm_ros.engine.request import checked
from quant_llm_ros.errors import EngineError

USERS = "llama.cpp, JSON schema"
BEST = "llama.cpp, at its best"
DRAFTED = "llama.cpp, with our drafts too"
_BATCH = 512


def load_library() -> Any:
    """Import llama-cpp-python.

    Raises:
        EngineError: It is not installed.
    """
    try:
        import llama_cpp
    except ImportError as error:
        raise EngineError(
            "llama-cpp-python is not installed; run `pip install -r requirements/peers.txt` (it "
            "is compiled, which takes minutes and a C++ compiler)"
        ) from error
    return llama_cpp


@functools.lru_cache(maxsize=1)
def _say_nothing() -> Any:
    """Give a callback for the library's log, which calls it as long as the process lives."""
    return load_library().llama_log_callback(lambda level, text, data: None)


class LlamaCppEngine:
    """llama.cpp's evaluation behind this package's protocol, ``engine.protocol.Engine``.

    Attributes:
        info: Runtime and time to load.
        vocab_size: Number of tokens.
        context_length: Most tokens in the cache.
    """

    def __init__(self, path: str, *, threads: int, context_length: int) -> None:
        """Load a GGUF file.

        Args:
            path: The file.
            threads: CPU threads of a pass.
            context_length: Size of the cache, in tokens.

        Raises:
            EngineError: llama.cpp is not installed or cannot load the file.
        """
        started = time.perf_counter()
        self._library = library = load_library()
        library.llama_backend_init()
        library.llama_log_set(_say_nothing(), None)
        model_params = library.llama_model_default_params()
        model_params.n_gpu_layers = 0
        self._model = library.llama_model_load_from_file(path.encode(), model_params)
        if not self._model:
            raise EngineError(f"llama.cpp cannot load {path}; delete it, it is written again")
        context_params = library.llama_context_default_params()
        context_params.n_ctx = context_length
        context_params.n_batch = context_params.n_ubatch = _BATCH
        context_params.n_threads = context_params.n_threads_batch = threads
        # Logits of several tokens of a pass, which verifying a draft needs; 1 is the default.
        context_params.n_outputs_max_per_seq = 0
        # Flash attention is left to llama.cpp (AUTO), and so is the repacking of 4-bit weights for
        # this CPU's instructions (use_extra_bufts): both are on by default.
        self._context = library.llama_init_from_model(self._model, context_params)
        if not self._context:
            raise EngineError(f"llama.cpp has no memory for a cache of {context_length} tokens")
        self._memory = library.llama_get_memory(self._context)
        self._batch = library.llama_batch_init(_BATCH, 0, 1)
        vocabulary = library.llama_model_get_vocab(self._model)
        self.vocab_size = int(library.llama_vocab_n_tokens(vocabulary))
        self.context_length = context_length
        self._length = 0
        self.info = EngineInfo(
            runtime=_described(library),
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
        """Evaluate new tokens; see ``engine.protocol.Engine.append``."""
        count = len(tokens)
        if not 0 < count <= _BATCH:
            raise ValueError(f"{count} tokens; a pass takes 1 to {_BATCH}")
        wanted = checked(self, tokens, last, at)[1].tolist()
        batch = self._batch
        batch.n_tokens = count
        for index, token in enumerate(tokens):
            batch.token[index] = token
            batch.pos[index] = self._length + index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = index in wanted
        status = self._library.llama_decode(self._context, batch)
        if status != 0:
            raise EngineError(f"llama.cpp failed on {count} tokens: status {status}")
        self._length += count
        rows = [
            np.ctypeslib.as_array(
                self._library.llama_get_logits_ith(self._context, index), (self.vocab_size,)
            )
            for index in wanted
        ]
        return np.stack(rows)

    def rollback(self, length: int) -> None:
        """Forget every token after the first ``length``."""
        if not 0 <= length <= self._length:
            raise ValueError(f"cannot roll back to {length}: the cache holds {self._length}")
        self._library.llama_memory_seq_rm(self._memory, 0, length, -1)
        self._length = length

    def mark(self) -> None:
        """Do nothing: rolling back costs nothing here."""

    def close(self) -> None:
        """Release the memory."""
        self._library.llama_batch_free(self._batch)
        self._library.llama_free(self._context)
        self._library.llama_model_free(self._model)


class LlamaCppChat:
    """llama-cpp-python's chat completion with a JSON schema, as its documentation shows it.

    It keeps what a prompt shares with the one before it in its cache, so that instruction and
    skills are computed once.

    Attributes:
        runtime: Version, and the instructions that it was compiled for.
    """

    def __init__(
        self, path: str, registry: SkillRegistry, *, threads: int, context_length: int
    ) -> None:
        """Load a GGUF file.

        Args:
            path: The file.
            registry: The skills.
            threads: CPU threads of a pass.
            context_length: Size of the cache, in tokens.

        Raises:
            EngineError: llama.cpp is not installed.
        """
        library = load_library()
        self._llama = library.Llama(
            path,
            n_ctx=context_length,
            n_threads=threads,
            n_threads_batch=threads,
            # Off by default; without it attention is slower.
            flash_attn=True,
            chat_format="chatml",
            verbose=False,
        )
        self.runtime = _described(library)
        self._system = json_calls.instruction(registry)
        self._format = {"type": "json_object", "schema": json_calls.schema(registry)}
        self._decision = json_calls.JsonDecisions(registry)

    def __call__(self, sentence: str) -> Sample:
        """Answer one cleaned sentence."""
        started = prefilled = time.perf_counter()
        pieces: list[str] = []
        for part in self._llama.create_chat_completion(
            [
                {"role": "system", "content": self._system},
                {"role": "user", "content": sentence},
            ],
            temperature=0.0,
            max_tokens=json_calls.MAX_TOKENS,
            response_format=self._format,
            stream=True,
        ):
            piece = part["choices"][0]["delta"].get("content")
            if piece:
                if not pieces:
                    prefilled = time.perf_counter()
                pieces.append(piece)
        ended = time.perf_counter()
        text = json_calls.compact("".join(pieces))
        return Sample(
            sentence=sentence,
            answer=text,
            decision=self._decision(text),
            total_ms=(ended - started) * 1e3,
            prefill_ms=(prefilled - started) * 1e3,
            decode_ms=(ended - prefilled) * 1e3,
            passes=len(pieces),
            tokens=len(pieces),
        )

    def costs(self) -> dict[str, float]:
        """Give nothing: its passes are measured in ``LlamaCppEngine``."""
        return {}

    def close(self) -> None:
        """Release the memory."""
        self._llama.close()


def _described(library: Any) -> str:
    """Give the version and the instructions that it was compiled for."""
    features = " ".join(library.llama_print_system_info().decode().split())
    return f"llama-cpp-python {library.__version__} {features}"
