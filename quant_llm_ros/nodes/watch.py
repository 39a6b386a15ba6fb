"""A running robot in the terminal; `quant_llm watch` calls this."""

from __future__ import annotations

import contextlib
import os
import time

from rich.console import Console
from rich.live import Live

from quant_llm_ros.errors import QuantLlmError
from quant_llm_ros.nodes import environment
from quant_llm_ros.nodes.watch_view import frame, Heard

EXIT_OK = 0
EXIT_NOBODY = 1

_PERIOD_S = 0.25
_SVG_WIDTH = 118


def run(namespace: str, once_s: float | None, svg: str | os.PathLike[str] | None) -> int:
    """Show a robot until Ctrl-C, or one frame of it.

    Args:
        namespace: Namespace of its nodes.
        once_s: How long to listen for the one frame, s; None for a live view.
        svg: File for a picture of the last frame, or None.

    Returns:
        Exit status: 1 when one frame was asked for and there is no robot.

    Raises:
        QuantLlmError: There is no ROS 2, or the namespace is none.
    """
    # rclpy needs its environment when it is loaded, so it comes only now.
    environment.prepare()
    try:
        from rclpy.exceptions import InvalidNamespaceException

        from quant_llm_ros.nodes.watcher import Watcher
    except ImportError as error:
        raise QuantLlmError(
            f"watching needs ROS 2 and quant_llm_msgs ({error}); source your workspace first, or "
            "run `make setup`"
        ) from error
    namespace = f"/{namespace.strip('/')}" if namespace.strip("/") else ""
    try:
        watcher = Watcher(namespace)
    except InvalidNamespaceException as error:
        raise QuantLlmError(f"{namespace!r} is not a namespace of ROS: {error}") from error
    console = Console(highlight=False)
    try:
        if once_s is not None:
            watcher.listen(once_s)
            console.print(frame(watcher.heard, time.monotonic()))
        else:
            with (
                contextlib.suppress(KeyboardInterrupt),
                Live(console=console, screen=console.is_terminal, auto_refresh=False) as live,
            ):
                while True:
                    watcher.listen(_PERIOD_S)
                    live.update(frame(watcher.heard, time.monotonic()), refresh=True)
    finally:
        watcher.close()
    if svg is not None:
        save_picture(watcher.heard, svg, time.monotonic())
    return EXIT_OK if once_s is None or watcher.heard.is_anybody else EXIT_NOBODY


def save_picture(heard: Heard, file: str | os.PathLike[str], now_s: float) -> None:
    """Write a frame to an SVG file.

    Args:
        heard: What was heard.
        file: The file.
        now_s: Time now on the clock of ``heard.health``, s.
    """
    with open(os.devnull, "w") as nowhere:
        picture = Console(record=True, width=_SVG_WIDTH, file=nowhere, highlight=False)
        picture.print(frame(heard, now_s))
    picture.save_svg(os.fspath(file), title="quant_llm watch")
