"""One way to run callbacks beside the main thread, and to end that in order."""

from __future__ import annotations

from collections.abc import Callable
import sys
import threading
import traceback
from typing import Any

_STOP_LIMIT_S = 60.0


class Spinner:
    """Runs an executor in a thread of its own.

    A context that is shut down, or a node that is destroyed, while another thread waits for its
    entities crashes the process now and then: so the thread ends first, then the executor, then
    its nodes, and the context last, which is the caller's.
    """

    def __init__(
        self,
        executor: Any,
        *,
        log: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
        on_lost: Callable[[str], None] | None = None,
    ) -> None:
        """Start the thread.

        Args:
            executor: An executor of rclpy, which nobody else spins.
            log: Told what went wrong in a callback, with a traceback; one bad callback does not
                end the others.
            on_lost: Told from the thread why ROS is gone, as after somebody else's shutdown of
                the context; the thread ends then. None: ``log`` is told.
        """
        self._executor = executor
        self._log = log
        self._on_lost = on_lost or log
        self._stopping = False
        # A daemon: a callback that hangs must not keep the process.
        self._thread = threading.Thread(target=self._spin, name="executor", daemon=True)
        self._thread.start()

    def add(self, node: Any) -> None:
        """Run the callbacks of a node too."""
        self._executor.add_node(node)

    def stop(self, timeout_s: float = _STOP_LIMIT_S) -> bool:
        """End the thread; callbacks that a pool of threads is at go on.

        Args:
            timeout_s: How long to wait for the callback that it is at.

        Returns:
            Whether the thread has ended.
        """
        self._stopping = True
        self._executor.create_task(lambda: None)  # spin_once() returns only after some work
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def close(self) -> None:
        """End the thread, then the executor, then its nodes; the context may be shut down then."""
        nodes = self._executor.get_nodes()
        if not self.stop():
            return  # to take away what a thread uses crashes; the process goes on with it
        self._executor.shutdown()
        for node in nodes:
            node.destroy_node()

    def _spin(self) -> None:
        while not self._stopping:
            try:
                self._executor.spin_once()
            except Exception as error:
                if self._stopping:
                    return
                if not self._executor.context.ok():
                    self._on_lost(f"ROS has been shut down: {error}")
                    return
                # A callback failed, and rclpy raises that here.
                self._log(f"callback failed:\n{traceback.format_exc()}")
