"""Writes docs/projection.md: text-to-decision times on boards that nobody here has.

Usage: ``python tools/projection.py [--check]``. All figures and their sources stand in
``docs/projection.yaml``; this only multiplies and adds. With ``--check`` nothing is written, and
the exit status is 1 if the file is not what it should be.
"""

from __future__ import annotations

import argparse
from pathlib import Path
import sys
from typing import Any

import yaml

DOCS = Path(__file__).resolve().parents[1] / "docs"
INPUTS = DOCS / "projection.yaml"
OUTPUT = DOCS / "projection.md"

_HEAD = """\
# Projection: text to decision on Jetson boards

**A projection on paper, not a measurement. Not run on hardware.** It says what the way this
package decodes is worth on a board, if an engine there is as fast as the published figures of
another runtime. Written by `tools/projection.py` from `docs/projection.yaml`, which has the
sources; correct the figures there.

- *ours*: the prefill of the command with its guess, and each pass that follows it:
  `prefill + (passes - 1) × ratio / decode rate`
- *plain*: the same compact answer, a pass for each token: `prefill + (tokens - 1) / decode rate`
- *JSON*: the same calls as JSON, as a general runtime is asked for them, a pass for each token

In all three the prompt's prefix (instruction and skills) is in the cache before the command comes;
where it is not, several hundred tokens of prefill are added. The published prefill is of {prefill}
tokens and is taken as it is; a command with its guess has {new_p50} (p90: {new_p90}), without it
fewer.

| board | model | weights | ours p50/p90 | plain p50/p90 | JSON p50/p90 | plain/ours | memory |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""

_TAIL = """
| input | p50 | p90 |
| --- | --- | --- |
{inputs}
| a later pass over a decode step | {ratio:g} | {ratio:g} |

Memory is the published peak of GPU memory of that runtime; on a Jetson it comes out of the board's
own. Not in the times: the grammar (about 3 ms on an x86 core), the queue, DDS.

Sources:

- published: {published}.
- measured: {measured}.
- assumed: {assumed}.
"""


def text(inputs: dict[str, Any]) -> str:
    """Compute the whole page.

    Args:
        inputs: Content of ``docs/projection.yaml``.
    """
    measured, published = inputs["measured"], inputs["published"]
    ratio = float(inputs["assumed"]["pass_over_decode"])
    new = measured["new_tokens"]
    page = _HEAD.format(
        prefill=published["prefill_tokens"], new_p50=new["p50"], new_p90=new["p90"]
    )
    for row in published["rows"]:
        decode_ms = 1e3 / float(row["decode_tok_s"])
        times: dict[str, dict[str, float]] = {"ours": {}, "plain": {}, "json": {}}
        for part in ("p50", "p90"):
            prefill = float(row["prefill_ms"])
            later = measured["passes"][part] - 1
            times["ours"][part] = prefill + later * ratio * decode_ms
            times["plain"][part] = prefill + (measured["tokens"][part] - 1) * decode_ms
            times["json"][part] = prefill + (measured["json_tokens"][part] - 1) * decode_ms
        shown = " | ".join(f"{t['p50']:.0f}/{t['p90']:.0f} ms" for t in times.values())
        page += (
            f"| {row['board']} | {row['model']} | {row['precision']} | {shown} | "
            f"{times['plain']['p50'] / times['ours']['p50']:.1f} × | {row['memory_mb']} MB |\n"
        )
    names = {
        "passes": "passes of the model per command",
        "tokens": "tokens of the compact answer",
        "json_tokens": "tokens of the same calls as JSON",
        "new_tokens": "tokens of the command with its guess",
    }
    lines = [
        f"| {what} | {measured[key]['p50']} | {measured[key]['p90']} |"
        for key, what in names.items()
    ]
    return page + _TAIL.format(
        inputs="\n".join(lines),
        ratio=ratio,
        published=published["source"],
        measured=measured["source"],
        assumed=inputs["assumed"]["source"],
    )


def main() -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="only compare")
    arguments = parser.parse_args()
    page = text(yaml.safe_load(INPUTS.read_text(encoding="utf-8")))
    if arguments.check:
        if OUTPUT.is_file() and OUTPUT.read_text(encoding="utf-8") == page:
            return 0
        print(
            f"{OUTPUT} is not what {INPUTS.name} gives; run tools/projection.py", file=sys.stderr
        )
        return 1
    OUTPUT.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
