"""Opening what a node serves, and giving its memory back."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os

from quant_llm_ros.command.acceptance import require_accuracy
from quant_llm_ros.command.understander import Understander
from quant_llm_ros.engine.cpus import check_cpus, kept_to, parse_cpus
from quant_llm_ros.errors import QuantLlmError
from quant_llm_ros.nodes.parameters import Settings


def open_understander(settings: Settings, bundle: str, skills: str) -> Understander:
    """Verify, load and self-test a bundle, and see that it is good enough.

    Args:
        settings: How it is to be loaded.
        bundle: Its folder; ``~`` is the user's home.
        skills: Skill registry; empty: the bundle's own.

    Raises:
        QuantLlmError: It cannot be served; the message says why, and what to do.
    """
    if not bundle:
        raise QuantLlmError(
            "the parameter 'bundle' is empty; set it to the folder of a bundle (make one "
            "with `make bundle` or `quant_llm quantize`)"
        )
    cpus = parse_cpus(settings.cpus)
    check_cpus(cpus, settings.threads)
    with kept_to(cpus):  # the threads that the runtime makes here stay there
        understander = Understander.open(
            os.path.expanduser(bundle),
            os.path.expanduser(skills) or None,
            threads=settings.threads,
            shortlist=settings.shortlist,
            provider=settings.provider,
            allow_fallback=settings.allow_fallback,
            selftest_commands=settings.selftest_commands,
            max_command_chars=settings.max_command_chars,
            min_confidence=settings.min_confidence,
        )
    try:
        if understander.bundle is not None:
            require_accuracy(understander.bundle, settings.min_accuracy)
    except QuantLlmError:
        understander.close()
        raise
    return_memory()  # what reading the tokenizer and packing the weights has left: 50 MB
    return understander


def return_memory() -> None:
    """Give freed memory back to the system, which other programs of the robot can use."""
    gc.collect()
    # glibc keeps what a program frees: 200 MB after a model of 90 MB.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
