"""Make the picture of ``quant_llm watch`` in the README: a real robot in the small simulation.

``python tools/watch_picture.py`` starts all nodes, talks to them and writes it. On a busy
machine the times in it are those of a busy machine.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
import sys
import tempfile
import time

from quant_llm_ros.nodes import environment

ROOT = Path(__file__).resolve().parents[1]
HALL = ROOT / "config" / "simulation" / "hall.yaml"
PICTURE = ROOT / "docs" / "images" / "watch.svg"
START_LIMIT_S = 300.0
NODES = {
    "sim_node": [f"world:='{HALL}'"],
    "executor_node": ["use_sim_time:=true", "autostart:=true", f"places:='{HALL}'"],
    "understanding_node": [f"bundle:='{ROOT / 'bundles' / 'default'}'", "autostart:=true"],
}
# What is said, and how long to watch what becomes of it, s.
TALK = (
    ("drive forward half a metre and then turn left", 8.0),
    ("find my glasses", 4.0),
    ("drive forward two kilometres", 1.0),
    ("I really enjoyed the film last night", 1.0),
    ("go to the nort gate", 4.0),
    ("stop", 2.0),
    ("drive backward", 1.0),
    ("two metres", 3.5),
)


def main() -> int:
    """Make it; return the exit status."""
    environment.prepare()
    os.environ.setdefault("ROS_DOMAIN_ID", str(50 + os.getpid() % 52))
    # Only now: rclpy needs the environment set above when it is loaded.
    from quant_llm_msgs.msg import KnownName, KnownNames
    from quant_llm_ros.execution.places import load_places
    from quant_llm_ros.nodes import qos
    from quant_llm_ros.nodes.client import Client, NodeProcess
    from quant_llm_ros.nodes.watch import save_picture
    from quant_llm_ros.nodes.watcher import Watcher

    with contextlib.ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile())
        for program, parameters in NODES.items():
            stack.callback(NodeProcess(parameters, log, program).stop)
        client = stack.enter_context(Client())
        watcher = Watcher()
        stack.callback(watcher.close)
        names = client.node.create_publisher(KnownNames, "known_names", qos.KNOWN_NAMES)
        places = [KnownName(name=name) for name in load_places(HALL)]
        if not client.wait_ready(START_LIMIT_S):
            print("the node did not become active", file=sys.stderr)
            return 1
        names.publish(KnownNames(places=places))
        watcher.listen(5.0)
        for text, seconds in TALK:
            client.ask(text, START_LIMIT_S)
            watcher.listen(seconds)
        watcher.heard.domain = "0"
        save_picture(watcher.heard, PICTURE, time.monotonic())
    print(PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
