"""What was said before: the last commands with the answers to them, for a limited time."""

from __future__ import annotations

import collections
import threading
import time

from quant_llm_ros.command.decision import Decision, Status

Exchange = tuple[str, str]
"""A sentence and the answer to it in the notation of calls."""

MAX_EXCHANGES = 1
"""The model was trained with one exchange before a sentence."""

_REMEMBERED = frozenset((Status.ACCEPTED, Status.CLARIFY, Status.REJECTED))


class Conversation:
    """Remembers the last exchange, so that «and now back» or «two meters» can be understood.

    Small talk and errors change nothing; a stop ends the conversation. Any thread may use it.
    """

    def __init__(self, lasts_s: float = float("inf")) -> None:
        """Begin a conversation.

        Args:
            lasts_s: Seconds after which an exchange is forgotten; 0 remembers nothing.
        """
        self.lasts_s = lasts_s
        self._lock = threading.Lock()
        self._exchanges: collections.deque[tuple[float, Exchange]] = collections.deque(
            maxlen=MAX_EXCHANGES
        )

    def before(self) -> tuple[Exchange, ...]:
        """Give the exchanges that a sentence said now may refer to, the oldest first."""
        with self._lock:
            since_s = time.monotonic() - self.lasts_s
            return tuple(exchange for said_s, exchange in self._exchanges if said_s > since_s)

    def note(self, decision: Decision) -> None:
        """Remember what was decided last."""
        with self._lock:
            if decision.status is Status.STOP:
                self._exchanges.clear()
            elif decision.status in _REMEMBERED and decision.answer:
                self._exchanges.append((time.monotonic(), (decision.text, decision.answer)))

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._exchanges.clear()
