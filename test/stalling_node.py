"""The real understanding node, whose engine hangs in its next pass while a file exists.

``QUANT_LLM_STALL`` names the file. A thread that sleeps there stands for one that hangs in a
driver: it cannot be ended, and the others go on.
"""

from __future__ import annotations

from collections.abc import Sequence
import os
from pathlib import Path
import sys
import time
from typing import Any

from quant_llm_ros.engine.onnxruntime_engine import OnnxRuntimeEngine
from quant_llm_ros.nodes import understanding_node

STALL = Path(os.environ["QUANT_LLM_STALL"])

_append = OnnxRuntimeEngine.append


def append(self: OnnxRuntimeEngine, tokens: Sequence[int], **options: Any) -> Any:
    """Hang, then run."""
    while STALL.exists():
        time.sleep(0.01)
    return _append(self, tokens, **options)


if __name__ == "__main__":
    OnnxRuntimeEngine.append = append  # type: ignore[method-assign]
    sys.exit(understanding_node.main())
