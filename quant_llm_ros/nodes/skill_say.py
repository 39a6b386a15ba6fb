"""Example of a skill of the robot's own code: ``say`` writes to the log what it should say.

Run it with ``python3 -m quant_llm_ros.nodes.skill_say``. A robot with a voice does the same with
its speech synthesis in ``carry_out``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import sys

from rclpy.node import Node

from quant_llm_ros.command.decision import ArgumentValue
from quant_llm_ros.nodes import program
from quant_llm_ros.nodes.skill_server import Job, SkillFailedError, SkillServer


class Say(SkillServer):
    """Says something, in the log."""

    skill = "say"

    def carry_out(self, arguments: Mapping[str, ArgumentValue], job: Job) -> str:
        """Write the text to the log."""
        text = arguments.get("text")
        if not text:
            raise SkillFailedError("there is nothing to say")
        self.node.get_logger().info(f"“{text}”")
        job.feedback(1.0)
        return f"said “{text}”"


class SayNode(Node):
    """A node with the skill ``say``."""

    wants_autostart = False

    def __init__(self) -> None:
        """Serve the skill."""
        super().__init__("say")
        self._skill = Say(self)

    def autostart(self) -> None:
        """Nothing to begin: the skill is served from the start."""

    def end(self, timeout_s: float) -> bool:
        """Serve no more."""
        del timeout_s
        self._skill.destroy()
        return True


def main(argv: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; return the exit status."""
    return program.run("skill_say", str(__doc__), SayNode, argv, threads=2)


if __name__ == "__main__":
    sys.exit(main())
