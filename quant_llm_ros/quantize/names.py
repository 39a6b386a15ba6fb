"""Hints for mistyped names."""

from __future__ import annotations

from collections.abc import Iterable
import difflib


def nearest(name: object, known: Iterable[str]) -> str:
    """Say which known name was probably meant.

    Args:
        name: What was written.
        known: The names there are.

    Returns:
        ``"; did you mean 'bits'?"`` or, if nothing is near, ``"; known: bits, block"``.
    """
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(names)}"
