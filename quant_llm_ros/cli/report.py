"""``quant_llm report``: placeholder while the page is written."""

from __future__ import annotations

from typing import Any


def add_parser(subcommands: Any) -> None:
    """Declare the subcommand."""
