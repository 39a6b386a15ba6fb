"""One process with one node, from start to exit status.

Nothing heavy is imported at the top, so that an early Ctrl-C is handled like a late one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import os
import signal
import sys
import threading
from typing import Any, Protocol

from quant_llm_ros.errors import QuantLlmError
from quant_llm_ros.nodes import environment

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

# The node has to be gone within 5 s of a signal, whatever hangs.
_END_LIMIT_S = 2.5
_STOP_LIMIT_S = 1.0
_EXIT_LIMIT_S = 3.5


class ProgramNode(Protocol):
    """What a node has that is run by this module."""

    @property
    def wants_autostart(self) -> bool:
        """Whether ``autostart`` shall be called."""

    def autostart(self) -> None:
        """Begin the work; called from the executor."""

    def end(self, timeout_s: float) -> bool:
        """End the work in order; return whether that is done."""

    def get_logger(self) -> Any:
        """Give its logger."""

    def destroy_node(self) -> None:
        """Take it away."""


def run(
    program: str,
    usage: str,
    make_node: Callable[[], ProgramNode],
    argv: Sequence[str] | None = None,
    *,
    threads: int,
) -> int:
    """Run a node until SIGINT or SIGTERM.

    Args:
        program: Name of the program.
        usage: What ``--help`` prints.
        make_node: Imports and makes the node, after ROS is initialized.
        argv: Arguments after the program's name; None means those of the process.
        threads: Threads that run the node's callbacks.

    Returns:
        Exit status: 0 after a signal, 1 when the node cannot be made or after a failure of ROS,
        2 for wrong arguments.
    """
    # Blocked here, hence in every thread started from now on, and taken by sigwait() below:
    # Python runs its signal handlers in the main thread only, and not while that thread is inside
    # a middleware call; rclpy's own handlers would end the context at once, before the last
    # messages are published.
    # The handlers are for the threads of libraries that were imported before, which have nothing
    # blocked.
    for number in _SIGNALS:
        signal.signal(number, _pass_on)
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    environment.prepare()
    arguments = list(sys.argv[1:] if argv is None else argv)
    status = _run(program, usage, make_node, [program, *arguments], threads)
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def _run(
    program: str,
    usage: str,
    make_node: Callable[[], ProgramNode],
    arguments: list[str],
    threads: int,
) -> int:
    import rclpy
    from rclpy.executors import MultiThreadedExecutor, SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions
    from rclpy.utilities import remove_ros_args

    from quant_llm_ros.nodes.spinning import Spinner

    try:
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:  # rclpy's class for wrong ROS arguments is not public
        print(f"{program}: {error}", file=sys.stderr)
        return EXIT_USAGE
    others = remove_ros_args(arguments)[1:]
    if others:
        rclpy.try_shutdown()
        if others[0] in ("-h", "--help"):
            print(usage)
            return EXIT_OK
        print(f"{program}: unknown argument: {others[0]}\n{usage}", file=sys.stderr)
        return EXIT_USAGE

    try:
        node = make_node()
    except (QuantLlmError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return EXIT_FAILED
    # With one thread, handing each callback to a pool would cost half as much again as itself.
    executor = MultiThreadedExecutor(threads) if threads > 1 else SingleThreadedExecutor()
    executor.add_node(node)
    failures: list[str] = []

    def lost(reason: str) -> None:
        node.get_logger().fatal(reason)
        failures.append(reason)
        os.kill(os.getpid(), signal.SIGTERM)

    spinner = Spinner(executor, log=node.get_logger().error, on_lost=lost)
    if node.wants_autostart and not signal.sigpending().intersection(_SIGNALS):
        executor.create_task(node.autostart)

    number = signal.sigwait(_SIGNALS)
    status = EXIT_FAILED if failures else EXIT_OK
    watchdog = threading.Timer(_EXIT_LIMIT_S, _exit_now, (status,))
    watchdog.daemon = True
    watchdog.start()
    if not failures:
        node.get_logger().info(f"ending after {signal.Signals(number).name}")
    ended = node.end(_END_LIMIT_S)
    if not spinner.stop(_STOP_LIMIT_S):
        # To take away what a thread uses crashes, and so does a thread that Python's end finds
        # inside of a library.
        _exit_now(status)
    if ended:
        executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown()
    if not ended:  # Python would wait for a thread that hangs
        _exit_now(status)
    watchdog.cancel()
    return status


def _pass_on(number: int, frame: object) -> None:
    """Keep a signal that another thread has taken for the main thread's sigwait()."""
    del frame
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # else it would come here again
    signal.pthread_kill(threading.main_thread().ident or 0, number)


def _exit_now(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
